"""`linear`: the products are those of torch; the gradient of the bias is `column_sums`.

Of many rows and few channels, torch's own sum over rows takes several times as long as reading them does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmbio.kernels.checks import check_floats, check_shape
from ssmbio.kernels.column_sums import column_sums


def linear(x: Tensor, weight: Tensor, bias: Tensor, backend: str = "auto") -> Tensor:
    """x Wᵀ + b, as `torch.nn.functional.linear`, under autocast too.

    Args:
        x: (…, I). weight: (O, I). bias: (O,).
        backend: of the bias's gradient, "auto", "triton" or "torch".

    Returns:
        (…, O). The bias's gradient is summed in float32 (float64 of float64) and rounded once.

    Raises:
        ValueError, TypeError: an argument of wrong shape or dtype, which the message names.
        RuntimeError: backend="triton" where Triton cannot run.
    """
    check_floats(x, x=x, weight=weight, bias=bias)
    if weight.dim() != 2:
        raise ValueError(f"weight must be (O, I); got {tuple(weight.shape)}")
    check_shape("x", x, "..., I", (*x.shape[:-1], weight.shape[1]))
    check_shape("bias", bias, "O", weight.shape[:1])
    if not x.numel():
        return F.linear(x, weight, bias)
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
        x, weight = x.to(dtype), weight.to(dtype)
    return _Linear.apply(x, weight, bias, backend)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, backend):
        ctx.save_for_backward(x, weight)
        ctx.backend, ctx.bias_dtype = backend, bias.dtype
        return F.linear(x, weight, bias.to(weight.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        rows = dy.reshape(-1, dy.shape[-1])
        dx = (rows @ weight).view(x.shape) if ctx.needs_input_grad[0] else None
        d_weight = rows.t() @ x.reshape(-1, x.shape[-1]) if ctx.needs_input_grad[1] else None
        d_bias = column_sums(rows, ctx.backend).to(ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        return dx, d_weight, d_bias, None
