"""The long causal convolution by transforms against the sum it stands for, in outputs and every gradient."""

from __future__ import annotations

import pytest
import torch
from op_cases import DEVICE, check_equal
from torch import Tensor

from ssmbio.kernels import fft_convolution
from ssmbio.kernels.fft_convolution import transforms

Tensors = dict[str, Tensor]


def inputs(
    length: int, taps: int, batch: int = 2, channels: int = 5, skip: bool = True, dtype: torch.dtype = torch.float64
) -> Tensors:
    random = torch.Generator().manual_seed(length * 1000 + taps)

    def normal(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(DEVICE, dtype)

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    tensors = {"u": normal(batch, length, channels), "kernel": normal(channels, taps, dtype=wide)}
    if skip:
        tensors["D"] = normal(channels, dtype=wide)
    tensors = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
    return tensors | {"dy": normal(batch, length, channels)}


def as_defined(u: Tensor, kernel: Tensor, D: Tensor | None = None) -> Tensor:
    """One tap after another."""
    y = torch.zeros_like(u) if D is None else u * D
    for k in range(min(kernel.shape[1], u.shape[1])):
        y = y + torch.nn.functional.pad(u[:, : u.shape[1] - k], (0, 0, k, 0)) * kernel[:, k]
    return y


def results(op, tensors: Tensors) -> Tensors:
    leaves = {name: tensor for name, tensor in tensors.items() if name != "dy"}
    y = op(**leaves)
    gradients = torch.autograd.grad(y, list(leaves.values()), tensors["dy"])
    return {"y": y.detach(), **dict(zip(leaves, gradients, strict=True))}


LENGTHS = [(1, 1), (2, 2), (3, 3), (63, 63), (64, 64), (65, 65), (127, 127), (1000, 1000)]
OTHER_TAPS = [(1, 9), (64, 3), (65, 200), (7, 6), (1000, 1)]


@pytest.mark.parametrize(("length", "taps"), LENGTHS + OTHER_TAPS)
def test_outputs_and_gradients_are_as_defined(length: int, taps: int) -> None:
    tensors = inputs(length, taps, skip=length % 2 == 1)
    check_equal(results(fft_convolution, tensors), results(as_defined, tensors), 1e-12)


@pytest.mark.parametrize("length", [3, 65, 1000])
def test_float32_is_exact_to_a_few_roundings_of_the_largest_output(length: int) -> None:
    tensors = inputs(length, length, dtype=torch.float32)
    exact = results(as_defined, {n: t.detach().double().requires_grad_(n != "dy") for n, t in tensors.items()})
    found = results(fft_convolution, tensors)
    assert all(tensor.dtype == torch.float32 for tensor in found.values())
    check_equal(found, exact, 8 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    """Inside all is float32: outputs and gradients are those of the widened inputs, rounded."""
    tensors = inputs(65, 65, dtype=dtype)
    wide = {name: tensor.detach().float().requires_grad_(name != "dy") for name, tensor in tensors.items()}
    found, expected = results(fft_convolution, tensors), results(fft_convolution, wide)
    for name, value in found.items():
        assert value.dtype == (dtype if name == "y" else tensors[name].dtype), name
        assert torch.equal(value, expected[name].to(value.dtype)), name


def test_nothing_wraps_around() -> None:
    """An impulse at the end meets no tap but the first; one in the last tap reaches the last position alone."""
    u, kernel = torch.zeros(1, 50, 1), torch.ones(1, 50)
    u[0, -1] = 1
    y = fft_convolution(u, kernel)[0, :, 0]
    assert y[:-1].abs().max() < 1e-6
    assert abs(y[-1] - 1) < 1e-6


def test_gradients_are_those_of_finite_differences() -> None:
    for length, taps in ((4, 4), (3, 5), (5, 2)):
        tensors = inputs(length, taps, channels=2)
        assert torch.autograd.gradcheck(fft_convolution, [tensors[name] for name in ("u", "kernel", "D")])


def test_channels_in_blocks_and_foreign_strides_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = inputs(65, 65)
    expected = results(fft_convolution, tensors)
    monkeypatch.setattr(transforms, "_BLOCK", 600)
    tensors["u"] = tensors["u"].detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    tensors["dy"] = tensors["dy"].transpose(1, 2).contiguous().transpose(1, 2)
    check_equal(results(fft_convolution, tensors), expected, 1e-13)


def test_numbers_of_points_are_fast_and_enough() -> None:
    def is_fast(n: int) -> bool:
        for prime in (2, 3, 5):
            while n % prime == 0:
                n //= prime
        return n == 1

    for needed in range(1, 500):
        fast = next(n for n in range(needed, 2 * needed + 2) if n % 2 == 0 and is_fast(n))
        assert transforms.points(needed) == fast


def test_under_autocast_and_compiled_the_bits_are_the_same() -> None:
    tensors = inputs(20, 20, dtype=torch.float32)
    expected = results(fft_convolution, tensors)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        check_equal(results(fft_convolution, tensors), expected, 0)
    compiled = torch.compile(fft_convolution, fullgraph=True, backend="aot_eager")
    check_equal(results(compiled, tensors), expected, 0)


@pytest.mark.parametrize("skip", [False, True])
def test_ops_are_registered_as_torch_expects(skip: bool) -> None:
    tensors = inputs(6, 4, skip=skip, dtype=torch.float32)
    leaves = [tensors.get(name) for name in ("u", "kernel", "D")]
    torch.library.opcheck(torch.ops.ssmbio.fft_convolution_forward.default, tuple(leaves))
    plain = [None if leaf is None else leaf.detach() for leaf in leaves]
    torch.library.opcheck(torch.ops.ssmbio.fft_convolution_backward.default, (tensors["dy"], *plain))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"u": torch.zeros(7, 6)}, ValueError, r"u must be \(B, L, D\), no axis empty; got \(7, 6\)"),
        ({"kernel": torch.zeros(7, 6)}, ValueError, r"kernel must be \(D, K\) = \(6, K\); got \(7, 6\)"),
        ({"kernel": torch.zeros(6, 0)}, ValueError, r"kernel must be \(D, K\) = \(6, K\); got \(6, 0\)"),
        ({"kernel": torch.zeros(6, 3) + 0j}, TypeError, "kernel must be float32, .*; got torch.complex64"),
        ({"kernel": torch.zeros(6, 3).double()}, TypeError, "kernel must not mix float64 with other dtypes"),
        ({"kernel": torch.zeros(6, 3, device="meta")}, ValueError, "kernel must be on cpu as u is; got meta"),
        ({"D": torch.zeros(5)}, ValueError, r"D must be \(D,\) = \(6,\); got \(5,\)"),
        ({"u": torch.zeros(2, 7, 6).numpy()}, TypeError, "u must be a tensor; got ndarray"),
        ({"kernel": None}, TypeError, "kernel must be a tensor; got NoneType"),
        ({"D": 1.0}, TypeError, "D must be a tensor; got float"),
    ],
)
def test_the_argument_at_fault_is_named(changed: Tensors, error: type, message: str) -> None:
    right = {"u": torch.zeros(2, 7, 6), "kernel": torch.zeros(6, 7)}
    with pytest.raises(error, match=message):
        fft_convolution(**(right | changed))
