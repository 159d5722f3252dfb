"""The folder of a run: whose it is, and how a run that was stopped goes on."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from ssmbio.errors import UserError
from ssmbio.files import whole_file

# Where the first process tells those that it starts for other devices which folder is theirs: their clocks differ.
_SHARED = "SSMBIO_RUN_DIR"


def claim_run_dir(config: DictConfig) -> Path:
    """Fix `run_dir` for this run (its default holds the time); each job of a sweep gets a folder of its own.

    Raises:
        UserError: the folder holds a run already, and this one does not go on with it.
    """
    run_dir = Path(os.environ[_SHARED]) if "LOCAL_RANK" in os.environ and _SHARED in os.environ else None
    if run_dir is None:
        run_dir = Path(str(config.run_dir))
        hydra = HydraConfig.get()
        if hydra.mode == RunMode.MULTIRUN:
            run_dir = run_dir / str(hydra.job.num)
        if not goes_on(config.ckpt, run_dir):
            refuse_run(run_dir, "choose another run_dir, or add ckpt=last to go on with it")
        os.environ[_SHARED] = str(run_dir)
    with open_dict(config):
        config.run_dir = str(run_dir)
    return run_dir


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
    return [text for text in before if text.lstrip("+~").split("=")[0] not in given] + arguments


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
    added = [text for text in HydraConfig.get().overrides.task if text not in before and "=" in text]
    groups = HydraConfig.get().runtime.choices
    for text in added:
        name = text.lstrip("+~").split("=")[0]
        if name in groups or name.startswith("optimizer."):  # its state holds the settings it was made with
            raise UserError(f"{text} would change a run that has begun", mend="resume without it, or start a new run")
    resumed = OmegaConf.merge(saved, OmegaConf.from_dotlist([text.lstrip("+") for text in added]))
    assert isinstance(resumed, DictConfig)
    return resumed


def resume_path(config: DictConfig, run_dir: Path) -> Path | None:
    """The checkpoint to go on from: `ckpt=last` or `best` of this run, a file, or a run folder, which means its last;
    None for a fresh start."""
    if not config.ckpt:
        return None
    if config.ckpt in ("last", "best"):
        return run_dir / "checkpoints" / f"{config.ckpt}.ckpt"
    path = Path(str(config.ckpt))
    return path / "checkpoints" / "last.ckpt" if path.is_dir() else path
