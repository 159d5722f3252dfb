"""From one vector a position to one vector a sequence, blind to padding. Every sequence has a valid position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssmbio.layers import Linear


class MeanPool(nn.Module):
    """Mean over the valid positions."""

    def __init__(self, d_model: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, L, D), valid (B, L) bool → (B, D)."""
        total = x.masked_fill(~valid[..., None], 0).sum(1, dtype=_wide(x))
        return (total / valid.sum(1, keepdim=True)).to(x.dtype)


class LastPool(nn.Module):
    """The last valid position: what a causal backbone knows after the whole sequence."""

    def __init__(self, d_model: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, L, D), valid (B, L) bool → (B, D)."""
        positions = torch.arange(valid.shape[1], device=x.device)
        last = torch.where(valid, positions, -1).amax(1)
        return x[torch.arange(len(x), device=x.device), last]


class MaxPool(nn.Module):
    """The largest value of each channel over the valid positions."""

    def __init__(self, d_model: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, L, D), valid (B, L) bool → (B, D)."""
        return x.masked_fill(~valid[..., None], -torch.inf).amax(1)


class AttentionPool(nn.Module):
    """A learned weighting of the positions, softmax over the valid ones (Bahdanau-style, one query)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.score = nn.Sequential(Linear(d_model, d_model), nn.Tanh(), Linear(d_model, 1))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, L, D), valid (B, L) bool → (B, D)."""
        scores = self.score(x).squeeze(-1).float().masked_fill(~valid, -torch.inf)
        return torch.einsum("bl,bld->bd", scores.softmax(1).to(x.dtype), x.masked_fill(~valid[..., None], 0))


def _wide(x: Tensor) -> torch.dtype:
    """For sums over positions: float16 ends at 65,504."""
    return torch.promote_types(x.dtype, torch.float32)


POOLINGS: dict[str, type[nn.Module]] = {
    "mean": MeanPool,
    "last": LastPool,
    "max": MaxPool,
    "attention": AttentionPool,
}
