"""Folders with clips, and with a run on them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from audio_commands import inside, run
from audio_generate_cases import TINY, write_clips


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the clips and a run on them."""
    folder = tmp_path_factory.mktemp("audio")
    with inside(folder):
        write_clips("clips")
        code, output = run("train", *TINY, "run_dir=run")
        assert code == 0, output
        assert "results in run" in output
    return folder


@pytest.fixture
def trained(made: Path) -> Iterator[Path]:
    with inside(made):
        yield made
        for name in ("out", "out.tsv"):
            shutil.rmtree(name, ignore_errors=True)
            Path(name).unlink(missing_ok=True)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty one with the clips."""
    with inside(tmp_path):
        write_clips("clips")
        yield tmp_path
