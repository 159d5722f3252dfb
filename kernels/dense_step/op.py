"""`dense_step`: LayerNorm, a linear map, GELU or GLU and a residual, of single positions, for recurrent decoding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmbio.kernels.checks import check_floats, check_shape
from ssmbio.kernels.steps import triton_steps

ACTIVATIONS = (None, "gelu", "glu")


@torch.no_grad()
def dense_step(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """y = residual + activation(W norm(x) + bias), row by row: one kernel in Triton, and in float32 whatever the input.

    With it every linear layer of a model is one launch a position: the two of a feed-forward network, a GLU, a pool's,
    the head's with the norm before it. In Triton **a row's result does not depend on the batch**: neither on its size
    nor on the other rows, bit for bit, for each row is summed in the same order wherever it stands. Torch's products
    promise no such thing. No gradients are recorded.

    Args:
        x: (B, I), each row contiguous.
        weight: (O, I), or (2O, I) for "glu"; float32, or bfloat16 or float16 to halve what is read.
        bias: (O,) or (2O,). None: none.
        norm_weight, norm_bias: (I,) of the LayerNorm of x, both or neither. Neither: no LayerNorm.
        activation: None, "gelu" (with erf), or "glu": the first O times the sigmoid of the last O.
        residual: (B, O), each row contiguous. None: none.
        eps: of the LayerNorm.
        out: (B, O), each row contiguous, for the result. It may be `residual`, not `x`. None: a new tensor like x.
        backend: "auto", "triton" or "torch".

    Returns:
        y (B, O) in the dtype of x, or `out`.

    Raises:
        ValueError, TypeError: an argument of wrong shape or dtype, which the message names.
        RuntimeError: backend="triton" where Triton cannot run.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f'activation must be None, "gelu" or "glu"; got {activation!r}')
    check_floats(x, x=x, weight=weight, bias=bias, norm_weight=norm_weight, norm_bias=norm_bias, residual=residual)
    if x.dim() != 2 or weight.dim() != 2:
        raise ValueError(f"x must be (B, I) and weight (O, I); got {tuple(x.shape)} and {tuple(weight.shape)}")
    batch, channels = x.shape
    rows = weight.shape[0]
    if activation == "glu" and rows % 2:
        raise ValueError(f'weight must be (2O, I) with activation="glu"; got {tuple(weight.shape)}')
    if (norm_weight is None) != (norm_bias is None):
        raise ValueError("norm_weight and norm_bias must be given both or neither")
    outputs = rows // 2 if activation == "glu" else rows
    check_shape("weight", weight, "O, I", (rows, channels))
    check_shape("bias", bias, "O,", (rows,))
    check_shape("norm_weight", norm_weight, "I,", (channels,))
    check_shape("norm_bias", norm_bias, "I,", (channels,))
    for name, tensor in (("residual", residual), ("out", out)):
        check_shape(name, tensor, "B, O", (batch, outputs))
    if out is None:
        out = x.new_empty(batch, outputs)
    for name, tensor in (("x", x), ("residual", residual), ("out", out)):
        check_rows_contiguous(name, tensor)
    arguments = (x, weight, bias, norm_weight, norm_bias, activation, residual, eps, out)
    if triton_steps(backend, x, weight):
        from ssmbio.kernels.dense_step import triton

        triton.step(*arguments)
    else:
        _torch_step(*arguments)
    return out


def check_rows_contiguous(name: str, tensor: Tensor | None) -> None:
    if tensor is not None and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(f"{name} must have contiguous rows; its strides are {tuple(tensor.stride())}")


def _torch_step(x, weight, bias, norm_weight, norm_bias, activation, residual, eps, out) -> None:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        y = x.to(wide)
        if norm_weight is not None:
            y = F.layer_norm(y, (x.shape[1],), norm_weight.to(wide), norm_bias.to(wide), eps)
        y = F.linear(y, weight.to(wide), None if bias is None else bias.to(wide))
        if activation is not None:
            y = F.gelu(y) if activation == "gelu" else F.glu(y, dim=-1)
        out.copy_(y if residual is None else y + residual)
