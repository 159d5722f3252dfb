"""Commands run in this process, and the small files of audio that many of them read: what tests share."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hydra.core.global_hydra import GlobalHydra

RATE = 8000


def run(name: str, *arguments: str) -> tuple[int, str]:
    """An entry point as `python -m` runs it, here: its exit code, and its output or its error."""
    quiet = {
        "train": ("callbacks.progress.enabled=false", "trainer.accelerator=cpu"),
        "predict": ("device=cpu",),
        "generate": ("device=cpu",),
        "evaluate": ("device=cpu",) if "task=audio_quality" in arguments else ("trainer.accelerator=cpu",),
    }
    GlobalHydra.instance().clear()
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", [name, *arguments, *quiet.get(name, ())])
        try:
            importlib.import_module(f"ssmbio.{name}").main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return code, err.getvalue() if code else out.getvalue()


def expect_one_line(result: tuple[int, str], *words: str) -> None:
    """An error of one line, that holds these words and leaves nothing behind in `out`."""
    code, error = result
    assert code == 1, error
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    for word in words:
        assert word in error
    assert not Path("out").exists()
    assert not Path("out.tsv").exists()


def write(path: str, waveform: np.ndarray, rate: int = RATE, subtype: str | None = "PCM_16") -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, rate, subtype=subtype)
    return Path(path)


def write_damaged(path: str, waveform: np.ndarray, case: str) -> None:
    """A file of which something is wrong; `waveform` has 78 samples or more, and reaches a third of full scale."""
    if case == "text":
        Path(path).write_text("these are words\n" * 30)
    elif case == "empty":
        Path(path).touch()
    elif case == "truncated":
        whole = write(path, waveform).read_bytes()
        Path(path).write_bytes(whole[:500])
    elif case == "three channels":
        write(path, np.stack([waveform] * 3, 1))
    elif case == "NaN":
        write(path, np.where(np.arange(len(waveform)) == 77, np.float32(np.nan), waveform), subtype="FLOAT")
    elif case == "clipping":
        write(path, 3 * waveform, subtype="FLOAT")
    elif case == "another rate":
        write(path, waveform, 2 * RATE)
    else:
        raise ValueError(case)


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SSMBIO_CACHE", str(folder / "cache"))
        yield
