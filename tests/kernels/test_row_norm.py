"""Norms of rows, in torch and in Triton, with their gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from op_cases import DEVICE, TRITON
from torch import Tensor

from ssmbio.kernels.row_norm import row_norm, row_norm_beside

over_backends = pytest.mark.parametrize("backend", ["torch", TRITON])
EPS = 1e-5


def rows(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x with a mean, weight, bias, and the gradient of the output."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    x, dy = normal(*shape) * 3 + 1, normal(*shape)
    return x.to(DEVICE, dtype), normal(shape[-1]).to(DEVICE), normal(shape[-1]).to(DEVICE), dy.to(DEVICE, dtype)


def results(
    x: Tensor, weight: Tensor, bias: Tensor | None, dy: Tensor, centred: bool, backend: str
) -> tuple[Tensor, ...]:
    leaves = [leaf.detach().requires_grad_() for leaf in (x, weight, bias) if leaf is not None]
    y = row_norm(*leaves, eps=EPS, centred=centred, dtype=dy.dtype, backend=backend)
    return y.detach(), *torch.autograd.grad(y, leaves, dy)


def defined(x: Tensor, weight: Tensor, bias: Tensor | None, dy: Tensor, centred: bool) -> tuple[Tensor, ...]:
    """By torch's own norms, in float64."""
    leaves = [leaf.detach().double().requires_grad_() for leaf in (x, weight, bias) if leaf is not None]
    norm = torch.nn.functional.layer_norm if centred else torch.nn.functional.rms_norm
    y = norm(leaves[0], x.shape[-1:], *leaves[1:], eps=EPS)
    return y.detach(), *torch.autograd.grad(y, leaves, dy.double())


def check(found: tuple[Tensor, ...], exact: tuple[Tensor, ...], tolerance: float) -> None:
    assert len(found) == len(exact)
    for value, expected in zip(found, exact, strict=True):
        assert value.shape == expected.shape
        assert ((value.double() - expected).norm() / expected.norm()).item() < tolerance


@over_backends
@pytest.mark.parametrize("shape", [(2, 70, 64), (1, 7), (3, 5), (130, 100), (2, 4100)], ids=str)
@pytest.mark.parametrize("kind", ["layer norm", "no bias", "rms norm"])
def test_output_and_gradients_are_those_of_torch(shape: tuple[int, ...], kind: str, backend: str) -> None:
    x, weight, bias, dy = rows(shape)
    case = (x, weight.float(), bias.float() if kind == "layer norm" else None, dy, kind != "rms norm")
    check(results(*case, backend), defined(*case), 1e-6)


@over_backends
def test_gradients_of_the_parameters_are_sums_over_more_rows_than_there_are_programs(backend: str) -> None:
    x, weight, bias, dy = rows((2**16 + 3, 64) if DEVICE == "cuda" else (33000, 4))
    case = (x, weight.float(), bias.float(), dy, True)
    check(results(*case, backend), defined(*case), 1e-6)


@over_backends
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_narrow_output_is_rounded_once(dtype: torch.dtype, backend: str) -> None:
    """It is the float32 output rounded to the nearest, but for the last bit of that."""
    x, weight, bias, _ = rows((40, 48))
    weight, bias = weight.float(), bias.float()
    wide = row_norm(x, weight, bias, EPS, backend=backend)
    narrow = row_norm(x, weight, bias, EPS, dtype=dtype, backend=backend)
    assert narrow.dtype == dtype
    cut_off = dtype == torch.bfloat16 and backend == "triton" and DEVICE == "cpu"  # as the interpreter does
    most = torch.finfo(dtype).eps * (1 if cut_off else 0.501)
    assert ((narrow.float() - wide).abs() <= most * wide.abs() + 1e-7).all()


@over_backends
def test_half_precision_rows_have_float32_statistics(backend: str) -> None:
    x, weight, bias, dy = rows((50, 64), torch.bfloat16)
    case = (x, weight.float(), bias.float(), dy, True)
    y, dx, d_weight, d_bias = results(*case, backend)
    exact_y, exact_dx, exact_weight, exact_bias = defined(*case)
    check((y, dx), (exact_y, exact_dx), 4e-3)
    check((d_weight, d_bias), (exact_weight, exact_bias), 1e-6)


def test_gradients_are_those_of_finite_differences() -> None:
    x, weight, bias, _ = rows((3, 5), torch.float64)
    for centred in (True, False):
        leaves = [leaf.requires_grad_() for leaf in (x, weight, bias)]
        for function in (row_norm, row_norm_beside):
            assert torch.autograd.gradcheck(partial(function, eps=EPS, centred=centred), leaves)


@over_backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_beside_the_norm_x_comes_back_and_the_gradients_of_both_are_added(
    bias: bool, dtype: torch.dtype, backend: str
) -> None:
    x, weight, b, dy = rows((3, 70, 24))
    b = b.float() if bias else None
    d_residual = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    leaves = [leaf.detach().requires_grad_() for leaf in (x, weight.float(), b) if leaf is not None]
    same, y = row_norm_beside(*leaves, eps=EPS, centred=bias, dtype=dtype, backend=backend)
    assert torch.equal(same, x)
    assert torch.equal(y, row_norm(x, weight.float(), b, EPS, bias, dtype, backend))
    found = torch.autograd.grad([same, y], leaves, [d_residual, dy.to(dtype)], retain_graph=True)
    exact = defined(x, weight.float(), b, dy.to(dtype), bias)[1:]
    check(found, (exact[0] + d_residual, *exact[1:]), 1e-6)
    # One of the two alone.
    check(torch.autograd.grad(y, leaves, dy.to(dtype), retain_graph=True), exact, 1e-6)
    (through,) = torch.autograd.grad(same, leaves[:1], d_residual)
    assert torch.equal(through, d_residual)


@over_backends
def test_equal_rows_of_great_numbers_give_numbers(backend: str) -> None:
    """A row without variance is its bias, and its gradient is finite."""
    x = torch.full((3, 16), 1e4, device=DEVICE)
    ones, bias = torch.ones(16, device=DEVICE), torch.arange(16.0, device=DEVICE)
    y, dx, *_ = results(x, ones, bias, torch.ones_like(x), True, backend)
    assert torch.equal(y, bias.expand(3, 16))
    assert dx.isfinite().all()


@over_backends
def test_foreign_strides_are_taken(backend: str) -> None:
    x, weight, bias, dy = rows((6, 5, 32))
    turned, dy_turned = x.transpose(0, 1), dy.transpose(0, 1)
    case = (weight.float(), bias.float())
    found = results(turned, *case, dy_turned, True, backend)
    expected = results(turned.contiguous(), *case, dy_turned.contiguous(), True, backend)
    for value, right in zip(found, expected, strict=True):
        assert torch.equal(value, right)


def test_arguments_of_a_wrong_shape_or_dtype_are_named() -> None:
    x = torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"weight must be \(D\) = \(4,\); got \(3,\)"):
        row_norm(x, torch.ones(3))
    with pytest.raises(ValueError, match=r"bias must be \(D\)"):
        row_norm(x, torch.ones(4), torch.ones(5))
    with pytest.raises(ValueError, match="no axis empty"):
        row_norm(torch.zeros(0, 4), torch.ones(4))
    with pytest.raises(TypeError, match="x must be float32"):
        row_norm(torch.zeros(2, 4, dtype=torch.int64), torch.ones(4))


def test_registration_holds_for_every_use_of_torch() -> None:
    x, weight, bias, _ = rows((3, 8))
    for leaves in ((x, weight.float(), bias.float()), (x, weight.float(), None)):
        leaves = tuple(leaf if leaf is None else leaf.detach().requires_grad_() for leaf in leaves)
        torch.library.opcheck(
            torch.ops.ssmbio.row_norm_forward.default, (*leaves, EPS, leaves[2] is not None, torch.bfloat16, "torch")
        )


@over_backends
def test_results_repeat_bit_for_bit(backend: str) -> None:
    x, weight, bias, dy = rows((5000, 24))
    first, second = (results(x, weight.float(), bias.float(), dy, True, backend) for _ in range(2))
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("residual", [True, False])
def test_the_backward_op_is_registered_as_torch_expects(residual: bool) -> None:
    x, weight, _, dy = rows((3, 8))
    beside = torch.ones_like(x) if residual else None
    torch.library.opcheck(
        torch.ops.ssmbio.row_norm_backward.default, (dy, x, weight.float(), beside, EPS, True, "torch")
    )
