"""What a U-Net is made of and called with: what makes no sense is named."""

from __future__ import annotations

import pytest
import torch
from unet_cases import CAUSAL, D_MODEL, S4D_4, make, random

from ssmbio.backbones import UNet


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": []}, r"pool must be a list of numbers from 2 up"),
        ({"pool": 4}, r"pool must be a list of numbers from 2 up"),
        ({"pool": [4, 1]}, r"got \[4, 1\]"),
        ({"n_layers": 0}, "at least 1"),
        ({"ff": -1}, "ff must be"),
        ({"mixer": None}, "the outer stage has no mixer"),
        ({"mixer": None, "mixers": {"outer": S4D_4, "centre": S4D_4}}, "the middle stage has no mixer"),
        ({"mixers": {"center": S4D_4}}, "no stage center; the stages are outer, middle, centre"),
        ({"mixers": dict.fromkeys(("outer", "middle", "centre"), S4D_4)}, "mixer would have no effect"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        UNet(**{"d_model": 4, "n_layers": 1, "mixer": S4D_4} | settings)


def test_a_state_and_packed_sequences_exclude_each_other():
    net = make(False, CAUSAL["s4d"])
    _, states = net(random(1, 16, D_MODEL))
    with pytest.raises(ValueError, match="leave out states or cu_seqlens"):
        net(random(1, 16, D_MODEL), states, torch.tensor([0, 4, 16], dtype=torch.int32))


@pytest.mark.parametrize("unet", [False, True])
@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        (torch.tensor([0, 4, 8]), "cu_seqlens must be int32"),
        (torch.tensor([0, 4, 8], dtype=torch.int32), "row's length 16; got 0 and 8"),
        (torch.tensor([0, 4, 20], dtype=torch.int32), "row's length 16; got 0 and 20"),
        (torch.tensor([0, 6, 4, 16], dtype=torch.int32), "sequence 1 has length -2"),
        (torch.tensor([[0, 16]], dtype=torch.int32), r"cu_seqlens must be \(S \+ 1,\)"),
        ([0, 16], "cu_seqlens must be a tensor"),
    ],
)
def test_offsets_that_make_no_sense_are_named(unet, offsets, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(unet, CAUSAL["s4d"])(random(1, 16, D_MODEL), cu_seqlens=offsets)
