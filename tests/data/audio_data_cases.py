"""Clips of known samples, and the datamodules of audio on them, for the tests of both."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
import torch

from ssmbio.data.audio import AudioData
from ssmbio.data.audio_clips import AudioBatch
from ssmbio.data.audio_folder import AudioFolderSource
from ssmbio.data.audio_labels import AudioClassData
from ssmbio.data.sampler import TrainingLoader

RATE = 8000
TRAIN, TEST = [40, 20, 100, 17, 33, 64, 16, 16, 16, 25], [70, 16, 5, 64]


def wave_of(index: int, frames: int) -> np.ndarray:
    """A ramp, another for every clip."""
    return ((np.arange(frames) * (2 * index + 1) + 20 * index) % 256 / 128 - 1).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="FLOAT")


def source(root: Path, **settings) -> AudioFolderSource:
    return AudioFolderSource(root=str(root), **{"sample_rate": RATE, **settings})


def data(root: Path, stage: str = "fit", **settings) -> AudioData:
    made = AudioData(source(root), **{"batch_size": 4, "length": 32, "encoding": "linear", "seed": 1, **settings})
    made.setup(stage)
    return made


def labelled(root: Path, stage: str = "fit", **settings) -> AudioClassData:
    made = AudioClassData(source(root), **{"batch_size": 4, "length": 32, "seed": 1, **settings})
    made.setup(stage)
    return made


def epoch_of(loader: TrainingLoader, epoch: int) -> list[dict]:
    loader.sampler.set_epoch(epoch)
    return plain(loader)


def plain(batches: Iterable[AudioBatch]) -> list[dict]:
    def of(value: object) -> object:
        return value.tolist() if isinstance(value, torch.Tensor) else value

    return [{key: of(value) for key, value in batch.items()} for batch in batches]


class Given:
    """A source of the given splits."""

    def __init__(self, **splits) -> None:
        self.given = splits

    def splits(self) -> dict:
        return self.given
