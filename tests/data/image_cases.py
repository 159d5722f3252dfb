"""Image data that tests write: an archive as MNIST's, painted files, CIFAR's batches."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from ssmbio.errors import UserError

RNG = np.random.default_rng(0)
MNIST = {
    "x_train": RNG.integers(0, 256, (40, 6, 5), np.uint8),
    "y_train": np.arange(40) // 10,  # in the order of the classes, as the real file is
    "x_test": RNG.integers(0, 256, (8, 6, 5), np.uint8),
    "y_test": np.arange(8) // 2,
}


def save(path: Path, **changes) -> Path:
    arrays = {name: array for name, array in {**MNIST, **changes}.items() if array is not None}
    np.savez(path, **arrays)
    return path


def paint(path: Path, size: tuple[int, int] = (5, 6), mode: str = "L", seed: int = 0) -> np.ndarray:
    """Write a random image of (width, height); returns its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode in ("L", "I;16") else (size[1], size[0], {"RGB": 3, "RGBA": 4}[mode])
    dtype = np.uint16 if mode == "I;16" else np.uint8
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype)
    Pillow.fromarray(pixels).save(path)
    return pixels


def message(make) -> str:
    with pytest.raises(UserError) as error:
        make()
    assert "\n" not in str(error.value)
    return str(error.value)


def cifar(folder: Path, **changes) -> Path:
    folder.mkdir(parents=True)
    data = np.arange(2 * 3072).reshape(2, 3072).astype(np.uint8)
    batches = {f"data_batch_{i}": {b"data": data, b"labels": [i % 2, 1]} for i in range(1, 6)}
    batches |= {
        "test_batch": {b"data": data[::-1], b"labels": [1, 0]},
        "batches.meta": {b"label_names": [b"cat", b"ship"]},
    }
    for name, content in (batches | changes).items():
        if content is not None:
            (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return folder
