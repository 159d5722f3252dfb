"""Audio files that tests make: their formats, their sound, and what is said of one that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ssmbio.errors import UserError

FORMATS = [("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", None), ("ogg", None), ("mp3", None)]


def sound(frames: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """(frames, channels) of coloured noise that swells and dies, from −0.9 to 0.9."""
    noise = np.random.default_rng(seed).standard_normal((frames + 20, channels))
    smooth = sum(noise[i : i + frames] for i in range(20))
    wave = smooth * (0.05 + (np.sin(np.arange(frames) / 700)[:, None] > 0))
    return 0.9 * wave / np.abs(wave).max()


def save(path: Path, wave: np.ndarray, rate: int = 16_000, subtype: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, subtype=subtype)
    return path


def message(act: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        act()
    text = str(error.value)
    assert "\n" not in text
    return text
