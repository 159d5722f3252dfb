"""The ranges of the settings of mixers: a ValueError names the setting, its range and what it got."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


def check_whole(least: int, most: float = math.inf, /, **settings: Any) -> None:
    """Whole numbers from `least` to `most`."""
    range_ = f"at least {least}" if most == math.inf else f"from {least} to {most}"
    for name, value in settings.items():
        _require(_is_whole(value) and least <= value <= most, name, value, f"{range_} and whole")


def check_positive(**settings: Any) -> None:
    for name, value in settings.items():
        _require(_is_finite(value) and value > 0, name, value, "positive and finite")


def check_flag(**settings: Any) -> None:
    for name, value in settings.items():
        _require(isinstance(value, bool), name, value, "true or false")


def check_choice(choices: Iterable[str], /, **settings: Any) -> None:
    names = tuple(choices)
    for name, value in settings.items():
        _require(value in names, name, value, f"one of {', '.join(names)}")


def check_d_state(d_state: Any) -> None:
    """States that come in conjugate pairs."""
    wanted = "even, whole and at least 2, for states come in conjugate pairs"
    _require(_is_whole(d_state) and d_state >= 2 and d_state % 2 == 0, "d_state", d_state, wanted)


def check_dt(dt_min: Any, dt_max: Any) -> None:
    """The ends of the range in which Δ starts."""
    good = _is_finite(dt_min) and _is_finite(dt_max) and 0 < dt_min <= dt_max
    _require(good, "dt_min and dt_max", (dt_min, dt_max), "finite numbers with 0 < dt_min <= dt_max")


def check_lr(lr: Any) -> None:
    """A learning rate of its own, or None: the optimizer's."""
    _require(lr is None or (_is_finite(lr) and lr >= 0), "lr", lr, "null, or at least 0 and finite")


def check_dropout(dropout: Any) -> None:
    _require(_is_finite(dropout) and 0 <= dropout <= 1, "dropout", dropout, "a number from 0 to 1")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and abs(value) <= sys.float_info.max  # `isfinite` cannot take an integer above it


def _require(good: bool, name: str, value: Any, wanted: str) -> None:
    if not good:
        raise ValueError(f"{name} must be {wanted}; got {value!r}")
