"""Finding waveforms that were cut off at full scale when they were recorded or made too loud."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RUN = 4
"""Samples in a row at the same end of the scale that count as clipped. A peak that just touches it has fewer."""

SHARE = 0.01
"""Of all samples: with more of them clipped a waveform is. Of a sine that reaches full scale 0.4 % round to it."""

_FULL = np.float32(1 - 2.0**-15)  # the largest of 16 bits; more bits come nearer to 1, and were often 16 before


class ClippingCount:
    """Counts the clipped samples of each channel, block by block; runs are not followed from one to the next."""

    def __init__(self) -> None:
        self.frames = 0
        self._clipped: npt.NDArray[np.int64] | int = 0

    def add(self, block: npt.NDArray[np.float32]) -> None:
        """A block of (n, channels) from −1 to 1, or beyond."""
        self.frames += len(block)
        if len(block) < RUN or np.abs(block).max() < _FULL:
            return
        for full in (block >= _FULL, block <= -_FULL):
            begins = np.logical_and.reduce([full[i : len(full) - RUN + 1 + i] for i in range(RUN)])
            clipped = np.zeros_like(full)
            for i in range(RUN):
                clipped[i : len(full) - RUN + 1 + i] |= begins
            self._clipped = self._clipped + clipped.sum(0)

    @property
    def clips(self) -> bool:
        """Whether more than `SHARE` of the samples of a channel are clipped."""
        return bool(np.max(self._clipped) > SHARE * self.frames)
