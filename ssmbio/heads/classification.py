"""Classification of whole sequences: (B, L, D) → (B, C) logits."""

from __future__ import annotations

from torch import Tensor, nn

from ssmbio.heads.pooling import POOLINGS


class ClassificationHead(nn.Module):
    """Pool over the valid positions, then one linear map to a logit for each class.

    Args:
        d_model: D, channels of the backbone.
        n_classes: C. Two for a binary task: the logits then go through a softmax like any others.
        pooling: mean, last, max or attention.
        dropout: on the pooled vector.
    """

    def __init__(self, d_model: int, n_classes: int, pooling: str = "mean", dropout: float = 0.0) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        self.pool = POOLINGS[pooling](d_model)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(d_model, n_classes)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, L, D), valid (B, L) bool → logits (B, C)."""
        return self.linear(self.dropout(self.pool(x, valid)))
