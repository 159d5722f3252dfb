"""Sums over rows, and the linear map whose bias they train."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from op_cases import DEVICE, TRITON
from torch import Tensor

from ssmbio.kernels.column_sums import column_sums
from ssmbio.kernels.linear import linear

over_backends = pytest.mark.parametrize("backend", ["torch", TRITON])


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


@over_backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (1000, 65), (70000, 3)], ids=str)
def test_sums_are_as_exact_as_float32_allows(shape: tuple[int, int], dtype: torch.dtype, backend: str) -> None:
    x = normal(*shape, dtype=dtype)
    found, exact = column_sums(x, backend), x.double().sum(0)
    assert found.dtype == torch.float32
    assert ((found - exact).abs() <= 1e-6 * x.double().abs().sum(0)).all()


def test_sums_of_float64_stay_float64() -> None:
    x = normal(50, 3).double()
    assert torch.equal(column_sums(x), x.sum(0))


@over_backends
def test_sums_take_foreign_strides(backend: str) -> None:
    x = normal(40, 30)
    assert torch.equal(column_sums(x.t(), backend), column_sums(x.t().contiguous(), backend))


def test_what_is_no_matrix_is_named() -> None:
    with pytest.raises(ValueError, match=r"x must be \(R, C\), no axis empty; got \(2, 3, 4\)"):
        column_sums(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="no axis empty"):
        column_sums(torch.zeros(0, 4))


@over_backends
@pytest.mark.parametrize("shape", [(5,), (2, 300, 5)], ids=str)
def test_linear_and_its_gradients_are_those_of_torch(shape: tuple[int, ...], backend: str) -> None:
    x, weight, bias = normal(*shape), normal(7, 5, seed=1), normal(7, seed=2)
    dy = normal(*shape[:-1], 7, seed=3)

    def results(function, *extra: str) -> tuple[Tensor, ...]:
        leaves = [leaf.detach().requires_grad_() for leaf in (x, weight, bias)]
        y = function(*leaves, *extra)
        return y.detach(), *torch.autograd.grad(y, leaves, dy)

    for found, expected in zip(results(linear, backend), results(F.linear), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_linear_passes_gradcheck() -> None:
    leaves = [normal(*shape, seed=i).double().requires_grad_() for i, shape in enumerate([(4, 3), (2, 3), (2,)])]
    assert torch.autograd.gradcheck(linear, leaves)


@over_backends
def test_under_autocast_it_is_as_torch_has_it_and_the_bias_is_summed_in_float32(backend: str) -> None:
    x, weight, bias = normal(4000, 5), normal(7, 5, seed=1), normal(7, seed=2).requires_grad_()
    dy = normal(4000, 7, seed=3, dtype=torch.bfloat16)
    with torch.autocast(DEVICE, torch.bfloat16):
        y, expected = linear(x, weight, bias, backend), F.linear(x, weight, bias)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)
    (found,) = torch.autograd.grad(y, [bias], dy)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, dy.double().sum(0).float(), rtol=1e-5, atol=1e-4)


@over_backends
def test_sums_repeat_bit_for_bit_and_are_registered_as_torch_expects(backend: str) -> None:
    x = normal(5000, 70)
    assert torch.equal(column_sums(x, backend), column_sums(x, backend))
    torch.library.opcheck(torch.ops.ssmbio.column_sums.default, (x, "torch"))


def test_nothing_in_gives_zero_gradients() -> None:
    x, weight, bias = normal(0, 5).requires_grad_(), normal(7, 5).requires_grad_(), normal(7).requires_grad_()
    linear(x, weight, bias).sum().backward()
    assert not weight.grad.any()
    assert not bias.grad.any()


def test_arguments_of_linear_are_named() -> None:
    with pytest.raises(ValueError, match=r"x must be \(..., I\) = \(4, 5\); got \(4, 3\)"):
        linear(normal(4, 3), normal(7, 5), normal(7))
    with pytest.raises(ValueError, match=r"bias must be \(O\) = \(7,\); got \(6,\)"):
        linear(normal(4, 5), normal(7, 5), normal(6))
    with pytest.raises(ValueError, match=r"weight must be \(O, I\)"):
        linear(normal(4, 5), normal(7), normal(7))
