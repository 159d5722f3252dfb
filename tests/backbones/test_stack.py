"""The residual stack: recomputation changes nothing, and neither does what stands beside a sequence."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from ssmbio.backbones import Stack
from ssmbio.mixers import BiMamba, Mamba


@pytest.mark.parametrize("mixer", [Mamba, BiMamba])
def test_activation_checkpointing_keeps_names_and_gradients(mixer):
    torch.manual_seed(0)
    plain = Stack(8, 2, partial(mixer, d_state=4))
    frugal = Stack(8, 2, partial(mixer, d_state=4), activation_checkpointing=True)
    assert list(plain.state_dict()) == list(frugal.state_dict())
    frugal.load_state_dict(plain.state_dict())
    x = torch.randn(2, 19, 8)
    for stack in (plain, frugal):
        stack(x)[0].square().sum().backward()
    for one, two in zip(plain.parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def test_output_projections_shrink_with_depth():
    torch.manual_seed(0)
    shallow, deep = Stack(32, 1, Mamba), Stack(32, 16, Mamba)
    spread = [s.blocks[0].mixer.out_proj.weight.std().item() for s in (shallow, deep)]
    assert spread[0] / spread[1] == pytest.approx(4, rel=0.1)


def test_residual_stream_stays_float32_under_autocast():
    stack = Stack(8, 2, partial(Mamba, d_state=4))
    seen = []
    stack.blocks[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        stack(torch.randn(1, 9, 8))
    assert seen == [torch.float32]


def test_bidirectional_choice_wraps_causal_mixers():
    assert Stack(8, 2, Mamba).causal
    assert not Stack(8, 2, Mamba, bidirectional=True).causal
