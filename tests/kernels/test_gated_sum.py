"""The gated sum of two directions: (a + b) silu(z), in torch and in Triton, with its gradients."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from op_cases import DEVICE, TRITON
from torch import Tensor

from ssmbio.kernels.gated_sum import gated_sum

over_backends = pytest.mark.parametrize("backend", ["torch", TRITON])


def rows(dtype: torch.dtype, shape: tuple[int, ...] = (2, 700, 3)) -> list[Tensor]:
    """a, b, z and the gradient of the output; more elements than one program takes, and not a multiple of it."""
    random = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(DEVICE, dtype) for _ in range(4)]


def defined(a: Tensor, b: Tensor, z: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    a, b, z, dy = (tensor.double() for tensor in (a, b, z, dy))
    s = torch.sigmoid(z)
    d_sum = dy * z * s
    return (a + b) * z * s, d_sum, d_sum, dy * (a + b) * s * (1 + z * (1 - s))


def results(tensors: list[Tensor], backend: str) -> tuple[Tensor, ...]:
    *leaves, dy = tensors
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    y = gated_sum(*leaves, backend=backend)
    return y.detach(), *torch.autograd.grad(y, leaves, dy)


@over_backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_output_and_gradients_are_as_defined(dtype: torch.dtype, backend: str) -> None:
    tensors = rows(dtype)
    for found, exact in zip(results(tensors, backend), defined(*tensors), strict=True):
        assert found.dtype == dtype
        eps = torch.finfo(dtype).eps  # a + b is rounded once more before the gradient of z is taken from it
        torch.testing.assert_close(found.double(), exact, rtol=2 * eps, atol=2 * eps)


def test_gradients_are_those_of_finite_differences() -> None:
    leaves = [tensor.requires_grad_() for tensor in rows(torch.float64, (2, 3))[:3]]
    assert torch.autograd.gradcheck(gated_sum, leaves)


@over_backends
def test_extreme_gates_give_numbers(backend: str) -> None:
    a, b, _, dy = rows(torch.float32, (5,))
    z = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4], device=DEVICE)
    for found, exact in zip(results([a, b, z, dy], backend), defined(a, b, z, dy), strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)


@over_backends
def test_foreign_strides_and_the_gradient_of_a_sum_are_taken(backend: str) -> None:
    a, b, z, _ = rows(torch.float32, (2, 7, 6))
    ones = torch.ones((), device=DEVICE).expand(2, 7, 3)
    halves = [tensor[..., :3] for tensor in (a, b, z)]
    copies = [half.contiguous() for half in halves]
    for found, expected in zip(
        results([*halves, ones], backend), results([*copies, ones.contiguous()], backend), strict=True
    ):
        assert torch.equal(found, expected)


def test_directions_may_differ_in_dtype() -> None:
    a, b, z, dy = rows(torch.float32, (4,))
    found = results([a.bfloat16(), b, z, dy.bfloat16()], "auto")
    assert [tensor.dtype for tensor in found] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]


def test_compiled_in_one_graph_gives_the_same_bits() -> None:
    leaves = [tensor.requires_grad_() for tensor in rows(torch.float32)[:3]]
    compiled = torch.compile(gated_sum, fullgraph=True, backend="aot_eager")
    plain = gated_sum(*leaves)
    for found, expected in zip(
        chain([compiled(*leaves)], torch.autograd.grad(compiled(*leaves).sum(), leaves)),
        chain([plain], torch.autograd.grad(plain.sum(), leaves)),
        strict=True,
    ):
        assert torch.equal(found, expected)


def test_ops_are_registered_as_torch_expects() -> None:
    a, b, z, dy = rows(torch.float32, (4,))
    leaves = [tensor.requires_grad_() for tensor in (a, b, z)]
    torch.library.opcheck(torch.ops.ssmbio.gated_sum_forward.default, (*leaves, "auto"))
    torch.library.opcheck(torch.ops.ssmbio.gated_sum_backward.default, (dy, a.detach(), z.detach(), "auto"))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"b": torch.zeros(3)}, ValueError, r"b must be \(as a\) = \(4,\); got \(3,\)"),
        ({"z": torch.zeros(4, 1)}, ValueError, r"z must be .* got \(4, 1\)"),
        ({"z": torch.zeros(4, dtype=torch.float64)}, TypeError, "z must not mix float64"),
        ({"a": torch.zeros(4, dtype=torch.int32)}, TypeError, "a must be float32"),
    ],
)
def test_the_argument_at_fault_is_named(changed: dict[str, Tensor], error: type, message: str) -> None:
    right = {name: torch.zeros(4) for name in ("a", "b", "z")}
    with pytest.raises(error, match=message):
        gated_sum(**(right | changed))
