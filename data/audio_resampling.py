"""Resampling a part of a file so that it has the values that the whole file has there."""

from __future__ import annotations

import importlib
import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ssmbio.data.nearest import shorten
from ssmbio.errors import UserError

_BLOCK = 1 << 20  # samples that are made at a time
_MOST_TAPS = 1 << 23  # about; such a filter takes 64 MiB while it is made

Samples = npt.NDArray[np.float32]


class Resampler:
    """Frames at one rate to samples at another by torchaudio: a sinc under a Hann window of 6 zero crossings.

    With the ratio reduced to down:up, each group of `down` frames becomes a group of `up` samples, which the filter
    makes of that group and of `width` frames on either side.

    Args:
        rate: of frames, in Hz.
        sample_rate: of samples, in Hz.

    Raises:
        UserError: torchaudio cannot be imported.
    """

    def __init__(self, rate: int, sample_rate: int) -> None:
        self.down, self.up = _reduced(rate, sample_rate)
        self._filter = _filter(self.down, self.up)
        self._margin = -(-self._filter.width // self.down)  # groups

    def frames_for(self, start: int, end: int) -> tuple[int, int]:
        """The frames, from the first up to the last, that the samples from `start` up to `end` are made of.

        The last may lie beyond the end of the file.
        """
        first, last = self._groups(start, end)
        return first * self.down, last * self.down

    def __call__(self, frames: Samples, start: int, end: int) -> Samples:
        """(end − start,) samples of the frames that `frames_for` names, or of as many of them as the file has."""
        first, last = self._groups(start, end)
        # Zeros beyond the file, as torchaudio has them; it is given whole groups, since it rounds lengths to float32.
        frames = np.pad(frames, (0, (last - first) * self.down - len(frames)))
        samples = np.empty(end - start, np.float32)
        for at in range(start, end, _BLOCK):
            to = min(end, at + _BLOCK)
            low, high = self._groups(at, to)
            with torch.no_grad():
                part = torch.from_numpy(frames[(low - first) * self.down : (high - first) * self.down])
                block = self._filter(part).numpy()
            samples[at - start : to - start] = block[at - low * self.up : to - low * self.up]
        return samples

    def _groups(self, start: int, end: int) -> tuple[int, int]:
        return max(0, start // self.up - self._margin), (end - 1) // self.up + 1 + self._margin


def too_fine(rate: int, sample_rate: int) -> str | None:
    """The reduced ratio in words if it asks for more taps than there should be, else None."""
    down, up = _reduced(rate, sample_rate)
    return f"{down}:{up}" if down * up > _MOST_TAPS else None


def _reduced(rate: int, sample_rate: int) -> tuple[int, int]:
    divisor = math.gcd(rate, sample_rate)
    return rate // divisor, sample_rate // divisor


@lru_cache(maxsize=16)
def _filter(down: int, up: int) -> Any:
    # torchaudio imports only beside a torch of its own release.
    try:
        transforms = importlib.import_module("torchaudio.transforms")
    except (ImportError, OSError) as error:
        raise UserError(
            f"torchaudio, which resamples, cannot be imported ({shorten(str(error), 80)})",
            mend=f"install the torchaudio that belongs to torch {torch.__version__.partition('+')[0]}, "
            "or give files of the rate data.sample_rate",
        ) from None
    return transforms.Resample(down, up)
