"""The exponentials that the Triton kernels of `selective_scan` take in float32, against float64."""

from __future__ import annotations

import pytest
import torch
from op_cases import DEVICE, relative_error
from torch import Tensor

from ssmbio.kernels import dispatch, selective_scan

if not dispatch.triton_installed():
    pytest.skip("needs Triton", allow_module_level=True)

import triton
import triton.language as tl

from ssmbio.kernels.selective_scan.triton_exponentials import exp_exact, exp_parts, sigmoid, softplus, softplus_slope

UNIT = 2.0**-23  # of a number in [1, 2), in its last place


@triton.jit
def values_kernel(x, minus_one, exp, soft, slope, gate, COUNT: tl.constexpr):
    i = tl.arange(0, COUNT)
    v = tl.load(x + i)
    q, s = exp_parts(v)
    tl.store(minus_one + i, q * s + (s - 1.0))
    tl.store(exp + i, exp_exact(v))
    y = softplus(v, True)
    tl.store(soft + i, y)
    tl.store(slope + i, softplus_slope(v, y, True))
    tl.store(gate + i, sigmoid(v, True))


def values(x: Tensor) -> tuple[Tensor, ...]:
    """e^x - 1, e^x, softplus, its derivative, sigmoid."""
    out = tuple(torch.empty_like(x) for _ in range(5))
    values_kernel[(1,)](x, *out, COUNT=x.numel())
    return out


def uniform(low: float, high: float) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.empty(2**14).uniform_(low, high, generator=random).to(DEVICE)


def worst(found: Tensor, exact: Tensor) -> float:
    """Largest relative error, in units of the last place of 1."""
    return ((found - exact) / exact).abs().max().item() / UNIT


@pytest.mark.parametrize(("low", "high"), [(-87, 88), (-2, 0), (-1e-2, 0), (-1e-6, 0)])
def test_exponentials_are_within_a_unit_in_the_last_place(low: float, high: float) -> None:
    x = uniform(low, high)
    _, exp, soft, slope, gate = values(x)
    exact = x.double()
    assert worst(exp, exact.exp()) < 1
    assert worst(soft, torch.nn.functional.softplus(exact, threshold=1e3)) < 2
    assert worst(slope, exact.sigmoid()) < 2
    assert worst(gate, exact.sigmoid()) < 2


@pytest.mark.parametrize("scale", [0.3, 1e-2, 1e-4, 1e-6])
def test_what_a_decay_lacks_to_one_keeps_its_own_digits(scale: float) -> None:
    """A decay rounded to float32 would have it wrong by 3e-8 / `scale`."""
    x = -scale * uniform(0.5, 1)
    assert worst(values(x)[0], x.double().expm1()) < 1


def test_exponentials_end_in_zero_and_pass_on_nan() -> None:
    x = torch.tensor([-87.0, -87.8, -1e6, -1e30, -torch.inf, torch.nan, 0.0, -1e-40], device=DEVICE)
    _, exp, soft, slope, gate = values(x)
    for found in (exp, soft, slope, gate):
        assert found[5].isnan()
        assert found[[0, 1, 2, 3, 4, 6, 7]].isfinite().all()
    assert exp[0] > 1e-38
    assert exp[1:5].eq(0).all()
    assert soft[1:5].eq(0).all()
    assert exp[6:].eq(1).all()


def test_slow_decays_at_equal_steps_do_not_drift() -> None:
    """Steps whose decays float32 rounds most: rounded, each would be off to the same side, 32 positions a chunk."""
    steps = torch.linspace(1e-3, 2e-3, 4096)
    decay = torch.exp(-steps.double())
    steps = steps[(decay.float() - decay).abs().argsort()[-64:]].to(DEVICE)
    length, rows = 64, torch.zeros(1, 64, 1, device=DEVICE)
    delta = steps.expand(1, length, 64).contiguous()
    state = torch.ones(1, 64, 1, device=DEVICE)
    _, final = selective_scan(
        *(torch.zeros_like(delta), delta, -torch.ones(64, 1, device=DEVICE), rows, rows),
        initial_state=state, return_final_state=True, backend="triton",
    )  # fmt: skip
    assert relative_error(final[0, :, 0], torch.exp(-length * steps.double())) < 4e-7
