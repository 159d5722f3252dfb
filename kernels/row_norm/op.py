"""`row_norm`: checks and the registration with `torch.library`.

A backend is a module with `forward` and `backward` (see `torch_path.py`); it sees contiguous rows, (R, D).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmbio.kernels.checks import check_floats, check_reverse_mode, check_shape
from ssmbio.kernels.dispatch import implementation, on_its_device


def row_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    centred: bool = True,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """Layer norm of rows (Ba, Kiros and Hinton, arXiv 1607.06450), or RMS norm (Zhang and Sennrich, arXiv 1910.07467).

    y = w (x - m) / √(mean (x - m)² + eps) + b, with m the mean of x, or 0 in an RMS norm. One pass over memory each
    way; statistics and sums are float32 whatever the input, and nothing but x is kept for the backward pass.

    Args:
        x: (…, D), float32, bfloat16, float16 (or float64 throughout).
        weight, bias: (D,).
        centred: subtract the mean: layer norm.
        dtype: of the output; None: that of x. A narrower one saves the cast of what takes the output.
        backend: "auto", "triton" or "torch".

    Returns:
        A tensor like x, of `dtype`.

    Raises:
        ValueError, TypeError: an argument of wrong shape or dtype, which the message names.
        RuntimeError: backend="triton" where Triton cannot run.
        NotImplementedError: an input carries a forward-mode derivative.
    """
    _check(x, weight, bias)
    check_reverse_mode("row_norm", x, weight, bias)
    return _forward_op(x, weight, bias, eps, centred, dtype or x.dtype, backend)


def row_norm_beside(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    centred: bool = True,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """A view of x and `row_norm` of it, for a residual stream and the branch beside it: x + f(norm(x)).

    The gradients that come back through the two are added in the kernel, which saves a pass over memory. Arguments and
    errors as in `row_norm`.
    """
    _check(x, weight, bias)
    return _Beside.apply(x, weight, bias, eps, centred, dtype or x.dtype, backend)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    check_floats(x, x=x, weight=weight, bias=bias)
    if x.dim() < 1 or 0 in x.shape:
        raise ValueError(f"x must be (..., D), no axis empty; got {tuple(x.shape)}")
    check_shape("weight", weight, "D", x.shape[-1:])
    check_shape("bias", bias, "D", x.shape[-1:])


def _backend(backend: str, x: Tensor):
    return implementation("ssmbio.kernels.row_norm", "torch_path", backend, x)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).contiguous()


@on_its_device
def _run_forward(x, weight, bias, eps, centred, dtype, backend):
    with torch.autocast(x.device.type, enabled=False):
        return _backend(backend, x).forward(_rows(x), weight, bias, eps, centred, dtype).view(x.shape)


def _fake_forward(x, weight, bias, eps, centred, dtype, backend):
    _backend(backend, x)  # an impossible choice of backend fails here, as it does with real tensors
    return x.new_empty(x.shape, dtype=dtype)


@on_its_device
def _run_backward(dy, x, weight, residual, eps, centred, backend):
    with torch.autocast(x.device.type, enabled=False):
        beside = None if residual is None else _rows(residual)
        dx, sums = _backend(backend, x).backward(_rows(dy), _rows(x), weight, eps, centred, beside)
    return dx.view(x.shape), sums


def _fake_backward(dy, x, weight, residual, eps, centred, backend):
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape), x.new_empty(2, x.shape[-1], dtype=wide)


def _setup_context(ctx, inputs, output):
    x, weight, bias, ctx.eps, ctx.centred, _, ctx.backend = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight)


def _autograd_backward(ctx, dy):
    return _gradients(ctx, dy, None)


def _gradients(ctx, dy, residual):
    x, weight = ctx.saved_tensors
    dx, (d_weight, d_bias) = _backward_op(dy, x, weight, residual, ctx.eps, ctx.centred, ctx.backend)
    bias_gradient = None if ctx.bias_dtype is None else d_bias.to(ctx.bias_dtype)
    return dx, d_weight.to(weight.dtype), bias_gradient, None, None, None, None


class _Beside(torch.autograd.Function):
    """An op of `torch.library` may not return what it was given."""

    @staticmethod
    def forward(ctx, *inputs):
        _setup_context(ctx, inputs, None)
        ctx.set_materialize_grads(False)
        return inputs[0].view_as(inputs[0]), _forward_op(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, residual, dy):
        if dy is None:
            return residual, None, None, None, None, None, None
        return _gradients(ctx, dy, residual)


_forward_op = torch.library.custom_op(
    "ssmbio::row_norm_forward",
    _run_forward,
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, float eps, bool centred, ScalarType dtype, str backend) -> Tensor",
)
_forward_op.register_fake(_fake_forward)
_forward_op.register_autograd(_autograd_backward, setup_context=_setup_context)

_backward_op = torch.library.custom_op(
    "ssmbio::row_norm_backward",
    _run_backward,
    mutates_args=(),
    schema="(Tensor dy, Tensor x, Tensor weight, Tensor? residual, float eps, bool centred, str backend) "
    "-> (Tensor dx, Tensor sums)",
)
_backward_op.register_fake(_fake_backward)
