"""`torch.nn.LayerNorm` and `torch.nn.RMSNorm` for long sequences of few channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssmbio.kernels.row_norm import row_norm

_MOST_CHANNELS = 8192  # a row is held by one program


class LayerNorm(nn.LayerNorm):
    """Layer norm over D channels; on a GPU one pass over memory each way.

    Args:
        d_model: D.
        narrow: under autocast give its dtype, for layers that would cast to it anyway.
    """

    def __init__(self, d_model: int, narrow: bool = False) -> None:
        super().__init__(d_model)
        self.narrow = narrow

    def forward(self, input: Tensor) -> Tensor:
        if not _ours(input):
            return super().forward(input)
        return row_norm(input, self.weight, self.bias, self.eps, True, _dtype(input, self.narrow))


class RMSNorm(nn.RMSNorm):
    """RMS norm over D channels, eps 1e-5; arguments and cost as in `LayerNorm`."""

    def __init__(self, d_model: int, narrow: bool = False) -> None:
        super().__init__(d_model, eps=1e-5)
        self.narrow = narrow

    def forward(self, input: Tensor) -> Tensor:
        if not _ours(input):
            return super().forward(input)
        assert self.eps is not None
        return row_norm(input, self.weight, None, self.eps, False, _dtype(input, self.narrow))


def _ours(x: Tensor) -> bool:
    return x.device.type == "cuda" and x.shape[-1] <= _MOST_CHANNELS and x.numel() > 0


def _dtype(x: Tensor, narrow: bool) -> torch.dtype:
    """As torch's norms do, x's own, and under autocast float32, unless a narrow one is wanted."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return x.dtype
    return torch.get_autocast_dtype(kind) if narrow else torch.float32
