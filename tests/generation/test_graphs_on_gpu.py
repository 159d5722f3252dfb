"""Decoding and training of whole layers on a GPU: `pytest -m gpu` on a machine with a CUDA GPU."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ssmbio.backbones import Stack
from ssmbio.generation import GraphedStep
from ssmbio.kernels import causal_conv1d_step, selective_scan_step
from ssmbio.mixers import BiMamba, Mamba, Mixer

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

D_MODEL, LENGTH = 256, 40
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}  # float32 products in other orders; values of order one
MODULES = {
    "mamba": Mamba,
    "many_states": partial(Mamba, d_state=128),  # past what the fused kernels take
    "ragged": partial(Mamba, d_state=5, expand=1.5, d_conv=2),
    "stack": lambda d_model: Stack(d_model, 3, Mamba),
}


def make(name: str) -> Mixer | Stack:
    torch.manual_seed(0)
    module = MODULES[name](D_MODEL)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter) * parameter.std(correction=0)
    return module.cuda().eval()


def run(step: GraphedStep, x: Tensor) -> Tensor:
    return torch.stack([step(x[:, t]).clone() for t in range(x.shape[1])], dim=1)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("batch", [1, 8, 9, 256])
def test_graph_is_the_forward_pass_and_goes_on_from_a_prefix(name: str, batch: int) -> None:
    module, x = make(name), torch.randn(batch, LENGTH, D_MODEL, device="cuda")
    with torch.no_grad():
        whole, final = module(x)
        _, prefix = module(x[:, :23])
    step = GraphedStep(module, batch)
    torch.testing.assert_close(run(step, x), whole, **TOLERANCE)
    for found, expected in zip(pytree.tree_leaves(step.state), pytree.tree_leaves(final), strict=True):
        torch.testing.assert_close(found, expected, **TOLERANCE)
    step.reset(prefix)
    torch.testing.assert_close(run(step, x[:, 23:]), whole[:, 23:], **TOLERANCE)
    step.reset()
    torch.testing.assert_close(run(step, x[:, :5]), whole[:, :5], **TOLERANCE)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("batch", [1, 256])
def test_graph_gives_what_plain_steps_give_and_repeats_bit_for_bit(name: str, batch: int) -> None:
    module, x = make(name), torch.randn(batch, 10, D_MODEL, device="cuda")
    step = GraphedStep(module, batch)
    found = run(step, x)
    step.reset()
    assert torch.equal(run(step, x), found)
    state, plain = module.initial_state(batch), []
    with torch.no_grad():
        for t in range(10):
            y, state = module.step(x[:, t], state)
            plain.append(y)
    torch.testing.assert_close(torch.stack(plain, dim=1), found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 256])
def test_graph_in_half_precision_comes_close_to_float32(batch: int) -> None:
    module, x = make("stack"), torch.randn(batch, LENGTH, D_MODEL, device="cuda")
    with torch.no_grad():
        whole, _ = module(x)
    found = run(GraphedStep(module, batch, dtype=torch.bfloat16), x)
    error = (found - whole).square().mean() / whole.square().mean()
    assert error.sqrt() < 0.02


def test_weights_changed_in_place_count_in_a_captured_graph() -> None:
    module, x = make("mamba"), torch.randn(2, 5, D_MODEL, device="cuda")
    step = GraphedStep(module, 2)
    with torch.no_grad():
        module.ssm.A_log += 0.5
        module.in_proj.weight *= 2
        torch.testing.assert_close(run(step, x), module(x)[0], **TOLERANCE)


def test_step_kernels_at_full_size_are_as_exact_as_torch() -> None:
    batch, channels, states, groups, taps = 256, 512, 256, 4, 4

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda")

    scan = (
        *(normal(batch, channels), normal(batch, channels) - 1, -torch.exp(normal(channels, states))),
        *(normal(batch, groups, states), normal(batch, groups, states), normal(batch, channels, states)),
        *(normal(channels), normal(batch, channels), normal(channels), True),
    )
    conv = (
        normal(batch, channels),
        normal(channels, taps),
        normal(channels),
        "silu",
        normal(batch, taps - 1, channels),
    )
    for op, arguments in ((selective_scan_step, scan), (causal_conv1d_step, conv)):
        exact = [a.double() if isinstance(a, Tensor) else a for a in arguments]
        for found, expected in zip(op(*arguments, backend="triton"), op(*exact, backend="torch"), strict=True):
            torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def train(module: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.autocast("cuda", torch.bfloat16):
        y, _ = module(x)
    return [y, *torch.autograd.grad(y.float().square().mean(), [x, *module.parameters()])]


@pytest.mark.parametrize("mixer", [Mamba, BiMamba])
def test_training_repeats_bit_for_bit(mixer) -> None:
    torch.manual_seed(0)
    module, x = mixer(D_MODEL).cuda(), torch.randn(2, 5000, D_MODEL, device="cuda", requires_grad=True)
    for name, one, other in zip(
        ["y", "x", *dict(module.named_parameters())], train(module, x), train(module, x), strict=True
    ):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("mixer", [Mamba, BiMamba])
def test_peak_memory_of_training_stays_within_the_target(mixer) -> None:
    """12 GiB at 2^20 positions, measured at a quarter of them."""
    module, x = mixer(D_MODEL).cuda(), torch.randn(8, 2**15, D_MODEL, device="cuda", requires_grad=True)
    train(module, x[:, :100].detach().requires_grad_())
    torch.cuda.synchronize()
    dy = torch.randn_like(x, dtype=torch.bfloat16)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch.autocast("cuda", torch.bfloat16):
        y, _ = module(x)
    y.backward(dy)
    peak = (torch.cuda.max_memory_allocated() - before) / 2**30
    assert peak <= 12 / 4, f"{peak:.2f} GiB"
