"""Decoding with the state kept: position by position it is the forward pass. Here without a graph; a CPU has none."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ssmbio.backbones import Stack
from ssmbio.generation import GraphedStep
from ssmbio.mixers import BiMamba, Mamba, Mixer

D_MODEL, LENGTH = 6, 19
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
MODULES = {
    "mamba": partial(Mamba, d_state=5),
    "stack": lambda d_model: Stack(d_model, 3, partial(Mamba, d_state=4)),
}


def make(name: str) -> Mixer | Stack:
    torch.manual_seed(0)
    module = MODULES[name](D_MODEL)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # biases at 0 and gains at 1 hide mistakes
    return module.eval()


def run(step: GraphedStep, x: Tensor) -> Tensor:
    """(B, L, D) → (B, L, D), a position at a time."""
    return torch.stack([step(x[:, t]).clone() for t in range(x.shape[1])], dim=1)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("batch", [1, 3])
def test_positions_one_by_one_are_the_forward_pass(name: str, batch: int) -> None:
    module, x = make(name), torch.randn(batch, LENGTH, D_MODEL)
    whole, final = module(x)
    step = GraphedStep(module, batch)
    torch.testing.assert_close(run(step, x), whole.detach(), **TOLERANCE)
    for found, expected in zip(pytree.tree_leaves(step.state), pytree.tree_leaves(final), strict=True):
        torch.testing.assert_close(found, expected.detach(), **TOLERANCE)


@pytest.mark.parametrize("name", MODULES)
def test_reset_goes_back_to_the_start(name: str) -> None:
    module, x = make(name), torch.randn(2, LENGTH, D_MODEL)
    step = GraphedStep(module, 2)
    first = run(step, x)
    assert not torch.equal(run(step, x), first), "the state was not carried on"
    step.reset()
    assert torch.equal(run(step, x), first)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("prefix", [1, 2, 11])
def test_a_state_from_a_parallel_prefix_goes_on_right(name: str, prefix: int) -> None:
    """Also after other sequences: nothing of them stays."""
    module, x = make(name), torch.randn(2, LENGTH, D_MODEL)
    whole, _ = module(x)
    _, state = module(x[:, :prefix])
    step = GraphedStep(module, 2)
    run(step, torch.randn(2, 4, D_MODEL))
    step.reset(state)
    torch.testing.assert_close(run(step, x[:, prefix:]), whole[:, prefix:].detach(), **TOLERANCE)


@pytest.mark.parametrize("name", MODULES)
def test_the_state_can_be_taken_out_and_back_in(name: str) -> None:
    module, x = make(name), torch.randn(2, LENGTH, D_MODEL)
    step = GraphedStep(module, 2)
    run(step, x[:, :7])
    halfway = step.state
    rest = run(step, x[:, 7:])
    torch.testing.assert_close(module(x[:, 7:], halfway)[0].detach(), rest, **TOLERANCE)
    step.reset(halfway)
    assert torch.equal(run(step, x[:, 7:]), rest)


def test_input_and_output_lie_where_they_lay() -> None:
    """As a graph needs it; so what is kept of an output has to be cloned, and an input can be written in place."""
    module, x = make("mamba"), torch.randn(2, 2, D_MODEL)
    step = GraphedStep(module, 2)
    y = step(x[:, 0])
    first = y.clone()
    step.x.copy_(x[:, 1])
    assert step.advance() is y
    assert not torch.equal(y, first)
    step.reset()
    step(x[:, 0])
    assert torch.equal(y, first)


def test_nothing_is_recorded_and_the_prefix_keeps_its_gradients() -> None:
    module, x = make("mamba"), torch.randn(2, 5, D_MODEL, requires_grad=True)
    _, state = module(x)
    step = GraphedStep(module, 2)
    step.reset(state)
    assert not step(torch.randn(2, D_MODEL)).requires_grad
    assert not any(leaf.requires_grad for leaf in step.state)
    torch.autograd.grad(state.ssm.sum(), x)  # reset neither changed nor freed it


def test_weights_changed_in_place_count() -> None:
    module, x = make("mamba"), torch.randn(2, 3, D_MODEL)
    step = GraphedStep(module, 2)
    with torch.no_grad():
        module.ssm.A_log += 1
        module.in_proj.weight *= 2
    torch.testing.assert_close(run(step, x), module(x)[0].detach(), **TOLERANCE)


@pytest.mark.parametrize("name", MODULES)
def test_half_precision_is_autocast_with_layers_cast_once(name: str) -> None:
    module, x = make(name), torch.randn(2, LENGTH, D_MODEL)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    step = GraphedStep(module, 2, dtype=torch.bfloat16)
    state = module.initial_state(2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for t in range(LENGTH):
            expected, state = module.step(x[:, t], state)
            found = step(x[:, t])
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)
    assert {leaf.dtype for leaf in pytree.tree_leaves(step.state)} == {torch.float32}
    for key, value in module.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[key]), f"{key} was changed"


class Pair(NamedTuple):
    count: Tensor
    parts: list


class Nested(Mixer):
    """Sums of what it saw, in a state of tuples, lists and dicts."""

    def step(self, x: Tensor, state: Pair) -> tuple[Tensor, Pair]:
        total, (twice,) = state.parts[0]["total"] + x, state.parts[1]
        return total + twice + state.count, Pair(state.count + 1, [{"total": total}, (twice + 2 * x,)])

    def initial_state(self, batch_size: int) -> Pair:
        total = torch.zeros(batch_size, self.d_model)
        return Pair(torch.zeros(()), [{"total": total}, (total,)])  # one tensor in two places

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model)
        self.weight = torch.nn.Parameter(torch.zeros(1))


def test_states_may_be_nested() -> None:
    step = GraphedStep(Nested(2), 1)
    ones = torch.ones(1, 2)
    assert [step(ones)[0, 0].item() for _ in range(3)] == [1, 2 + 2 + 1, 3 + 4 + 2]
    assert isinstance(step.state, Pair)
    assert step.state.count == 3


@pytest.mark.parametrize(
    "state",
    [Mamba(D_MODEL, d_state=5).initial_state(3), [torch.zeros(2, 3, 12), torch.zeros(2, 12, 5)], torch.zeros(2)],
    ids=["batch", "structure", "tensor"],
)
def test_a_state_of_another_shape_is_refused(state: object) -> None:
    with pytest.raises(ValueError, match=r"state must hold tensors of shapes \[\(2, 3, 12\), \(2, 12, 5\)\]; got "):
        GraphedStep(make("mamba"), 2).reset(state)


def test_bidirectional_modules_and_empty_batches_are_refused() -> None:
    with pytest.raises(RuntimeError, match="bidirectional"):
        GraphedStep(BiMamba(D_MODEL), 1)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        GraphedStep(make("mamba"), 0)
