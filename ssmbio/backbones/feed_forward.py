"""The feed-forward network between mixers, and the residual block round it: each position by itself."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ssmbio.layers import LayerNorm, Linear


class FeedForward(nn.Module):
    """Linear to `expand` times the channels → GELU → dropout → Linear back.

    Args:
        d_model: D, channels in and out.
        expand: inner channels / d_model.
        dropout: after the GELU.
    """

    def __init__(self, d_model: int, expand: float = 2, dropout: float = 0.0) -> None:
        super().__init__()
        inner = int(expand * d_model)
        if inner < 1:
            raise ValueError(f"expand times d_model must be at least 1, got {expand} times {d_model}")
        self.widen = Linear(d_model, inner)
        self.dropout = nn.Dropout(dropout)
        self.narrow = Linear(inner, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, D) → (…, D)."""
        return self.narrow(self.dropout(F.gelu(self.widen(x))))


class FeedForwardBlock(nn.Module):
    """x + dropout(feed_forward(norm(x))): x stays float32 under autocast, as in `Block`."""

    def __init__(self, d_model: int, expand: float, dropout: float) -> None:
        super().__init__()
        self.norm = LayerNorm(d_model, narrow=True)
        self.feed_forward = FeedForward(d_model, expand, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, D) → (…, D)."""
        x, y = self.norm(x, beside=True)
        return x + self.dropout(self.feed_forward(y))
