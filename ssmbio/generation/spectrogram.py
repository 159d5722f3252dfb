"""Spectrograms of clips: power of a short-time Fourier transform in decibels, and its picture."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image

FLOOR = -90.0  # decibels, shown in the darkest colour and below which nothing is told apart
COLOURS = "magma"
_WINDOW_SECONDS = 0.032
_FRAMES_AT_ONCE = 4096


def spectrogram(waveform: np.ndarray, sample_rate: int, columns: int = 600) -> np.ndarray:
    """Power over time and frequency, in decibels below a sine of full scale.

    Hann windows of about 32 ms, of which four overlap, or more in short clips; where there are more frames than
    columns, a column is the mean power of those in it. Memory does not grow with the clip.

    Args:
        waveform: (L,) from −1 to 1, L ≥ 1.
        sample_rate: Hz.
        columns: the most there may be.

    Returns:
        (F, T) float32, frequencies from 0 to half the rate; 0 is a sine of amplitude 1, `FLOOR` the least.
    """
    size = window_size(sample_rate)
    hop = max(1, min(size // 4, len(waveform) // columns))
    samples = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
    samples = torch.nn.functional.pad(samples, (size // 2, size - size // 2))
    frames = samples.unfold(0, size, hop)  # (frames, size), a view; frame t is centred on sample t·hop
    window = torch.hann_window(size)
    together = math.ceil(len(frames) / columns)  # frames in a column
    step = together * max(1, _FRAMES_AT_ONCE // together)
    parts = []
    for start in range(0, len(frames), step):
        # The transform of a sine of amplitude 1 has the magnitude of half the window's sum at its frequency.
        power = (torch.fft.rfft(frames[start : start + step] * window).abs() * (2 / window.sum())).square()
        parts.append(torch.stack([part.mean(0) for part in power.split(together)]))
    decibels = 10 * torch.cat(parts).T.clamp(min=1e-12).log10()
    return decibels.clamp(min=FLOOR).numpy()


def window_size(sample_rate: int) -> int:
    """The power of two nearest to 32 ms, at least 16 samples."""
    return max(16, 2 ** round(math.log2(max(1.0, _WINDOW_SECONDS * sample_rate))))


def picture(decibels: np.ndarray, top: float = 0.0) -> Image.Image:
    """(F, T) decibels → a picture of T × F points, low frequencies at the bottom; `top` is the brightest colour."""
    share = (decibels - FLOOR) / (top - FLOOR)
    levels = np.clip(np.rint(share * 255), 0, 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(levels[::-1]))
    image.putpalette(_palette())
    return image


@lru_cache(maxsize=1)
def _palette() -> list[int]:
    return (colormaps[COLOURS](np.arange(256))[:, :3] * 255).round().astype(int).ravel().tolist()


def gradient(stops: int = 9) -> list[str]:
    """Colours from the least to the most, evenly spaced, as #rrggbb: what a legend needs."""
    palette = np.asarray(_palette()).reshape(256, 3)
    return ["#{:02x}{:02x}{:02x}".format(*palette[i]) for i in np.linspace(0, 255, stops).round().astype(int)]
