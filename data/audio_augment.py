"""Augmentation of training clips: speed, a shift, loudness, noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ssmbio.data.augment import stream
from ssmbio.data.labelled import check_settings

Values = npt.NDArray[Any]
"""(n,) float32 samples, or (n,) uint8 codes."""

_QUIETEST_NOISE = 40  # decibels below the clip


@dataclass(frozen=True)
class ClipAugmentation:
    """Changes to the samples of a training clip, drawn by (seed, epoch, index) alone; they keep its length.

    Args:
        shift: samples that a clip may move along itself, a whole number drawn from [-shift, shift]; what falls off one
            end is lost, and zeros come in at the other.
        gain: dB; loudness changes by a number drawn evenly from [-gain, gain]. Samples may pass ±1.
        noise: dB; white noise is added at a signal-to-noise ratio drawn evenly from [noise, 40], both as mean squares
            over the clip. A clip of zeros gets none. None adds none.
        seed: of the draws.
        speed: clips run faster or slower round their middle, pitch and all, by a factor drawn evenly from
            [1 - speed, 1 + speed] (Ko et al., Interspeech 2015), between samples linearly; what runs out is lost, and
            zeros come in where there is nothing.
    """

    shift: int = 0
    gain: float = 0.0
    noise: float | None = None
    seed: int = 0
    speed: float = 0.0

    def __post_init__(self) -> None:
        check_settings(
            ("shift", self.shift, type(self.shift) is int and self.shift >= 0, "a whole number of samples, 0 or more"),
            ("gain", self.gain, _is_number(self.gain) and 0 <= self.gain <= 60, "decibels, 0 to 60"),
            (
                "noise",
                self.noise,
                self.noise is None or (_is_number(self.noise) and -20 <= self.noise <= _QUIETEST_NOISE),
                f"a signal-to-noise ratio in decibels, -20 to {_QUIETEST_NOISE}, or to null",
            ),
            ("speed", self.speed, _is_number(self.speed) and 0 <= self.speed <= 0.5, "a part of the speed, 0 to 0.5"),
        )

    def __call__(self, samples: Values, epoch: int, index: int) -> Values:
        """(n,) float32 as training sees them in this epoch."""
        if not (self.speed or self.shift or self.gain or self.noise is not None):
            return samples
        rng = stream(self.seed, epoch, index)
        if self.speed:
            samples = _run_at(samples, rng.uniform(1 - self.speed, 1 + self.speed))
        if self.shift:
            reach = min(self.shift, len(samples) - 1)  # something of a short clip is left, too
            samples = _shifted(samples, int(rng.integers(-reach, reach + 1)))
        if self.gain:
            samples = samples * np.float32(10 ** (rng.uniform(-self.gain, self.gain) / 20))
        if self.noise is not None:
            ratio = 10 ** (rng.uniform(self.noise, _QUIETEST_NOISE) / 10)
            deviation = np.sqrt(np.mean(np.square(samples, dtype=np.float64)) / ratio)
            samples = samples + np.float32(deviation) * rng.standard_normal(len(samples), np.float32)
        return samples


def _run_at(samples: Values, speed: float) -> Values:
    middle = (len(samples) - 1) / 2
    place = np.arange(len(samples))
    return np.interp((place - middle) * speed + middle, place, samples, left=0.0, right=0.0).astype(np.float32)


def _shifted(samples: Values, by: int) -> Values:
    moved = np.zeros_like(samples)
    kept = max(0, len(samples) - abs(by))
    moved[max(0, by) :][:kept] = samples[max(0, -by) :][:kept]
    return moved


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
