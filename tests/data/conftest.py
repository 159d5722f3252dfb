"""What tests of data in several files read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # the *_cases.py beside

from audio_data_cases import TEST, TRAIN, wave_of, write


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of train and test, each with the labels a and b."""
    root = tmp_path_factory.mktemp("clips")
    for split, lengths in (("train", TRAIN), ("test", TEST)):
        for index, frames in enumerate(lengths):
            label = "a" if index < len(lengths) // 2 else "b"  # so that labels do not change the order
            write(root / split / label / f"{index}.wav", wave_of(index, frames))
    return root
