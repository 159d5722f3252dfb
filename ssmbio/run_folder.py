"""The folder of a run: whose it is, and how a run that was stopped goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from ssmbio.errors import UserError
from ssmbio.files import make_folder, whole_file

# Where the first process tells those that it starts for other devices which folder is theirs: their clocks differ.
_SHARED = "SSMBIO_RUN_DIR"

_made: list[Path] = []  # by this process for its last run: its folder, and those above it


def claim_run_dir(config: DictConfig) -> Path:
    """Fix `run_dir` for this run (its default holds the time); each job of a sweep gets a folder of its own.

    Raises:
        UserError: none is named, or the folder holds a run already, and this one does not go on with it.
    """
    if not config.run_dir:
        raise UserError("run_dir is empty", mend="name a folder, or leave run_dir out")
    # Lightning leaves LOCAL_RANK=0 in the first process, for the next job of a sweep to find.
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    started = not first and _SHARED in os.environ
    run_dir = Path(os.environ[_SHARED] if started else str(config.run_dir))
    hydra = HydraConfig.get()
    if first and hydra.mode == RunMode.RUN and not _is_named(hydra.overrides.task):
        run_dir = _new_folder(run_dir)
    os.environ[_SHARED] = str(run_dir)
    if hydra.mode == RunMode.MULTIRUN:
        run_dir = run_dir / str(hydra.job.num)
    if not started and not goes_on(config.ckpt, run_dir):
        refuse_run(run_dir, "choose another run_dir, or add ckpt=last to go on with it")
    with open_dict(config):
        config.run_dir = str(run_dir)
    return run_dir


def _is_named(overrides: Iterable[str]) -> bool:
    return any(text.lstrip("+").startswith("run_dir=") for text in overrides)


def _new_folder(run_dir: Path) -> Path:
    """`run_dir`, made, or with a number after its name: other runs may start within the same second."""
    missing = [parent for parent in run_dir.parents if not parent.exists()]
    names = (run_dir.with_name(f"{run_dir.name}_{number}") for number in count(2))
    made = next(path for path in chain([run_dir], names) if make_folder(path))
    _made[:] = [made, *missing]
    return made


def remove_unused() -> None:
    """Removes what `claim_run_dir` made for a run that has not begun; what holds something stays."""
    for path in _made:
        with suppress(OSError):
            path.rmdir()


def goes_on(ckpt: object, run_dir: Path) -> bool:
    """Whether training from `ckpt` is the run of this folder that goes on."""
    if ckpt in ("last", "best"):
        return True
    path = Path(str(ckpt)).resolve()
    return bool(ckpt) and run_dir.resolve() in (path, *path.parents)


def refuse_run(run_dir: Path, mend: str) -> None:
    """Raises UserError if the folder is one that training left: nothing else writes there."""
    if (run_dir / "config.yaml").exists():
        raise UserError("it holds a run already", where=run_dir, mend=mend)


def save_config(config: DictConfig, run_dir: Path) -> None:
    """config.yaml: every setting, and under `overrides` what the command line said."""
    said = [text for text in HydraConfig.get().overrides.task if not text.startswith(("ckpt=", "run_dir="))]
    with whole_file(run_dir / "config.yaml") as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create({**config, "overrides": said})))


def with_saved_overrides(arguments: list[str]) -> list[str]:
    """`ckpt=last run_dir=…` without a task: the command line the run was started with, and what this one adds."""
    given = dict(text.split("=", 1) for text in arguments if "=" in text and not text.startswith("-"))
    saved = Path(given.get("run_dir", "")) / "config.yaml"
    if "ckpt" not in given or "task" in given or "run_dir" not in given or not saved.is_file():
        return arguments
    before: list[str] = OmegaConf.to_container(OmegaConf.load(saved)).get("overrides", [])  # type: ignore[union-attr]
    return [text for text in before if _key(text) not in given] + arguments


def resumed_config(config: DictConfig) -> DictConfig:
    """The configuration a run was started with, and the values that this command line adds to it.

    Raises:
        UserError: there is no such run, or another choice of a group was made than at its start.
    """
    if not config.ckpt or config.ckpt not in ("last", "best"):
        return config
    if not any(text.startswith("run_dir=") for text in sys.argv[1:]):
        raise UserError("which run to resume is not said", mend="add run_dir=<the run's folder> to the command")
    saved_at = Path(str(config.run_dir)) / "config.yaml"
    if not saved_at.is_file():
        raise UserError("no such file, so there is no run to resume", where=saved_at, mend="give the run's run_dir=…")
    saved = cast(DictConfig, OmegaConf.load(saved_at))
    before: list[str] = list(saved.pop("overrides", []))
    last = {_key(text): text for text in before}  # of a setting that was given twice
    added = [text for text in HydraConfig.get().overrides.task if last.get(_key(text)) != text]
    groups = HydraConfig.get().runtime.choices
    for text in added:
        if "=" not in text:
            raise UserError(f"{text} would change a run that has begun", mend="resume without it, or start a new run")
        name = _key(text)
        if name in groups or name.startswith("optimizer."):  # its state holds the settings it was made with
            raise UserError(f"{text} would change a run that has begun", mend="resume without it, or start a new run")
    resumed = OmegaConf.merge(saved, OmegaConf.from_dotlist([text.lstrip("+") for text in added]))
    assert isinstance(resumed, DictConfig)
    return resumed


def _key(override: str) -> str:
    return override.lstrip("+~").split("=")[0]


def resume_path(config: DictConfig, run_dir: Path) -> Path | None:
    """The checkpoint to go on from: `ckpt=last` or `best` of this run, a file, or a run folder, which means its last;
    None for a fresh start."""
    if not config.ckpt:
        return None
    if config.ckpt in ("last", "best"):
        return run_dir / "checkpoints" / f"{config.ckpt}.ckpt"
    path = Path(str(config.ckpt))
    return path / "checkpoints" / "last.ckpt" if path.is_dir() else path
