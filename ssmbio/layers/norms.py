"""`torch.nn.LayerNorm` and `torch.nn.RMSNorm` for long sequences of few channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssmbio.kernels.dispatch import triton_obstacle
from ssmbio.kernels.row_norm import row_norm, row_norm_beside

_MOST_CHANNELS = 8192  # a row is held by one program


class _RowNorm(nn.Module):
    """What both norms do; the class of torch's that comes after it does it where there is no kernel."""

    narrow: bool

    def forward(self, input: Tensor, beside: bool = False) -> Any:
        """input (…, D) → (…, D); `beside`: a view of the input and that, for x + f(norm(x)), as `row_norm_beside`."""
        if _fits(input):
            return (row_norm_beside if beside else row_norm)(input, *_arguments(self, input))
        y = super().forward(input)
        return (input, y) if beside else y


class LayerNorm(_RowNorm, nn.LayerNorm):
    """Layer norm over D channels; on a GPU one pass over memory each way.

    Args:
        d_model: D.
        narrow: under autocast give its dtype, for layers that would cast to it anyway.
    """

    def __init__(self, d_model: int, narrow: bool = False) -> None:
        super().__init__(d_model)
        self.narrow = narrow


class RMSNorm(_RowNorm, nn.RMSNorm):
    """RMS norm over D channels, eps 1e-5; arguments and cost as in `LayerNorm`."""

    def __init__(self, d_model: int, narrow: bool = False) -> None:
        super().__init__(d_model, eps=1e-5)
        self.narrow = narrow


def _fits(x: Tensor) -> bool:
    """Whether the kernel is for it; elsewhere torch's own is as fast."""
    return x.device.type == "cuda" and triton_obstacle(x) is None and x.shape[-1] <= _MOST_CHANNELS and x.numel() > 0


def _arguments(norm: Any, x: Tensor) -> tuple[Any, ...]:
    """Of `row_norm`. The dtype is torch's choice, x's own and float32 under autocast, unless a narrow one is wanted."""
    kind, dtype = x.device.type, x.dtype
    if torch.is_autocast_enabled(kind) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind) if norm.narrow else torch.float32
    centred = isinstance(norm, LayerNorm)
    return norm.weight, norm.bias if centred else None, norm.eps, centred, dtype
