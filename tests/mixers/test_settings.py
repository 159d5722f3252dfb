"""Every setting of every mixer has a range, and what lies outside is refused by a line that names the setting."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest

from ssmbio.mixers import DSS, GSS, H3, S4, S4D, S5, BiMamba, Hyena, Mamba

NOT_NUMBERS = ("abc", True, math.nan, math.inf, [4])
NOT_WHOLE = (*NOT_NUMBERS, None, 2.5, 4.0)
BAD = {
    "d_model": (*NOT_WHOLE, 0, -4),
    "d_state": (*NOT_WHOLE, 0, -2),
    "d_conv": (*NOT_WHOLE, 1, 9),
    "d_shift": (*NOT_WHOLE, 0),
    "dt_rank": (*NOT_NUMBERS, 0, -1, 2.5, 4.0),
    "l_max": (*NOT_WHOLE, 0, 20.5),
    "order": (*NOT_WHOLE, 0),
    "width": (*NOT_WHOLE, 0),
    "features": (*NOT_WHOLE, 1, 4),
    "shrink": (*NOT_WHOLE, 0),
    "blocks": (*NOT_WHOLE, 0, -1, 3),
    "expand": (*NOT_NUMBERS, None, 0, -1),
    "sine": (*NOT_NUMBERS, None, 0),
    "rate": (*NOT_NUMBERS, None, 0, -1),
    "dt_min": (*NOT_NUMBERS, None, 0, -1, 0.2),  # dt_max is 0.1
    "dt_max": (*NOT_NUMBERS, None, 0, -1, 1e-4),
    "lr": (*NOT_NUMBERS, -1, -1e-9),
    "dropout": (*NOT_NUMBERS, None, -0.1, 1.5),
    "bidirectional": (7, 1, 0, None, "yes"),
    "shared": (7, 1, 0, None, "yes"),
    "init": ("hippo", None, 3),
    "kernel": ("fast", None, 3),
    "discretization": ("euler", None, 3),
    "scale": ("linear", None, 3),
}
MIXERS = (DSS, GSS, H3, S4, S4D, S5, BiMamba, Hyena, Mamba)
CASES = [
    pytest.param(mixer, name, value, id=f"{mixer.__name__}-{name}={value!r}")
    for mixer in MIXERS
    for name in inspect.signature(mixer).parameters
    for value in BAD[name]
]


@pytest.mark.parametrize(("mixer", "name", "value"), CASES)
def test_what_is_out_of_range_is_refused_by_name(mixer, name, value):
    with pytest.raises(ValueError, match=rf"\b{name}\b.* must (be|divide) .*; got") as error:
        mixer(**({"d_model": 4} | {name: value}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("mixer", "settings"),
    [
        (S4D, {"lr": None, "dropout": 0, "dt_min": 0.1}),
        (S4D, {"lr": 0, "dropout": 1, "rate": 3}),
        (S4, {"lr": np.float64(1e-3), "d_state": np.int64(4)}),
        (Hyena, {"l_max": 1, "width": 1, "order": 1, "features": 3, "d_conv": 8}),
        (Mamba, {"d_state": 1, "d_conv": 2, "expand": 0.25, "dt_rank": 1}),
        (GSS, {"shrink": 1, "expand": 0.1}),
    ],
    ids=str,
)
def test_the_ends_of_the_ranges_are_taken(mixer, settings):
    assert mixer(4, **settings).d_model == 4


@pytest.mark.parametrize("mixer", [Mamba, BiMamba])
def test_a_layer_without_channels_is_refused(mixer):
    with pytest.raises(ValueError, match=r"expand times d_model must be at least 1; got 0.2 times 4"):
        mixer(4, expand=0.2)
