"""How codes are drawn: the settings, and the stream of numbers that each clip draws with."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmbio.errors import UserError
from ssmbio.kernels.code_draw import draw_codes

SEEDS = 2**64


@dataclass(frozen=True)
class SamplingSettings:
    """How codes are drawn from the model's distribution; `draw_codes` has the definitions.

    Args:
        temperature: divides the logits; 0 takes the likeliest code.
        top_k: how many of the likeliest codes may be drawn; 0 or None: all.
        top_p: the probability that the codes that may be drawn have together, (0, 1]; 1: all.
        min_p: how likely a code must be beside the likeliest, 0 to 1; 0: all.

    Raises:
        UserError: a value out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not (_is_number(self.temperature) and 0 <= self.temperature < math.inf):
            raise UserError(f"temperature={self.temperature}", mend="give 0 (the likeliest code) or a positive number")
        if self.top_k is not None and not (_is_integer(self.top_k) and self.top_k >= 0):
            raise UserError(f"top_k={self.top_k}", mend="give a number of codes, or 0 for all")
        if not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            raise UserError(f"top_p={self.top_p}", mend="give a probability above 0, at most 1 (for all codes)")
        if not (_is_number(self.min_p) and 0 <= self.min_p <= 1):
            raise UserError(f"min_p={self.min_p}", mend="give a number from 0 (for all codes) to 1")


def draw(logits: Tensor, uniforms: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """`draw_codes` with these settings: logits (B, V), uniforms (B,) float64 → codes (B,) int64, bits (B,) float64."""
    return draw_codes(logits, uniforms, settings.temperature, settings.top_k, settings.top_p, settings.min_p)


class ClipStreams:
    """The uniform numbers of some clips: the t-th sample of clip k is drawn with the t-th of the stream (seed, k).

    Streams are numpy's Philox generator keyed by the two, of which a result depends on nothing else: not on how many
    clips there are, on the batch, or on how many numbers are taken at a time.

    Args:
        seed: 0 to 2^64 - 1.
        clips: the clips' numbers k.
        start: the first sample to draw.
    """

    def __init__(self, seed: int, clips: Sequence[int], start: int = 0) -> None:
        check_seed(seed)
        self._streams = [np.random.Philox(key=np.array([seed, clip], dtype=np.uint64)) for clip in clips]
        for stream in self._streams:
            stream.advance(start // 4)  # it makes four numbers at a time
            stream.random_raw(start % 4)

    def next(self, count: int) -> Tensor:
        """The next numbers of every stream: (B, count) float64 in [0, 1), on the CPU."""
        raw = np.stack([stream.random_raw(count) for stream in self._streams])
        return torch.from_numpy((raw >> np.uint64(11)) * 2.0**-53)


def check_seed(seed: int) -> None:
    """Raises UserError unless `seed` can be one."""
    if not (_is_integer(seed) and 0 <= seed < SEEDS):
        raise UserError(f"seed={seed}", mend="give a whole number from 0 to 2^64 - 1")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
