"""Settings are checked, and each clip's numbers depend on nothing but the seed, the clip and the place in it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ssmbio.errors import UserError
from ssmbio.generation.sampling import ClipStreams, SamplingSettings, draw


def test_settings_reach_the_draw() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    almost_one = torch.tensor([1 - 2.0**-53], dtype=torch.float64)
    for settings, last in (
        (SamplingSettings(), 2), (SamplingSettings(top_k=2), 1), (SamplingSettings(top_p=0.5), 0),
        (SamplingSettings(min_p=0.5), 1), (SamplingSettings(temperature=0), 0), (SamplingSettings(0.01), 0),
    ):  # fmt: skip
        code, bits = draw(logits, almost_one, settings)
        assert code.item() == last
        assert bits.item() == pytest.approx([1, 1.737, 2.322][last], abs=1e-3)


def test_numbers_depend_on_seed_clip_and_position_alone() -> None:
    whole = ClipStreams(7, [4]).next(50)[0]
    streams = ClipStreams(7, [9, 4])
    in_pieces = torch.cat([streams.next(count) for count in (1, 3, 0, 30, 16)], dim=1)
    assert torch.equal(in_pieces[1], whole)
    for start in range(9):
        assert torch.equal(ClipStreams(7, [4], start).next(50 - start)[0], whole[start:])
    assert not torch.equal(in_pieces[0], whole)
    assert not torch.equal(ClipStreams(8, [4]).next(50)[0], whole)


def test_numbers_are_the_high_bits_of_philox_and_below_one() -> None:
    """Pinned: a change would change every clip of every seed."""
    raw = np.random.Philox(key=np.array([3, 5], dtype=np.uint64)).random_raw(1000)
    found = ClipStreams(3, [5]).next(1000)[0]
    assert raw[0] == 1643616817891503291
    assert found.tolist() == [(int(number) >> 11) / 2**53 for number in raw]
    assert found.dtype == torch.float64
    assert 0 <= found.min() < 0.01 < 0.99 < found.max() < 1


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"temperature": -0.1}, "temperature=-0.1"), ({"temperature": math.inf}, "temperature=inf"),
        ({"temperature": math.nan}, "temperature=nan"), ({"temperature": "warm"}, "temperature=warm"),
        ({"temperature": True}, "temperature=True"), ({"top_k": -1}, "top_k=-1"), ({"top_k": 2.5}, "top_k=2.5"),
        ({"top_p": 0}, "top_p=0"), ({"top_p": 1.01}, "top_p=1.01"), ({"top_p": None}, "top_p=None"),
        ({"min_p": -0.5}, "min_p=-0.5"), ({"min_p": 2}, "min_p=2"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(settings: dict, name: str) -> None:
    with pytest.raises(UserError, match=f"^{name}; give "):
        SamplingSettings(**settings)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, None])
def test_seeds_out_of_range_are_refused(seed) -> None:
    with pytest.raises(UserError, match=r"^seed=.*; give a whole number from 0 to 2\^64 - 1\.$"):
        ClipStreams(seed, [0])
    ClipStreams(2**64 - 1, [0])
