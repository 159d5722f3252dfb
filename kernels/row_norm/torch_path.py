"""Norms of rows in plain torch; with float64 inputs, their meaning."""

from __future__ import annotations

import torch
from torch import Tensor


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool, dtype: torch.dtype) -> Tensor:
    normal, _ = _normal(x, eps, centred)
    y = normal * weight.to(normal.dtype)
    return (y if bias is None else y + bias.to(normal.dtype)).to(dtype)


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, eps: float, centred: bool, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The gradients of x, to which `residual` is added, and of weight and bias, (2, D)."""
    normal, scale = _normal(x, eps, centred)
    d = dy.to(normal.dtype)
    g = d * weight.to(normal.dtype)
    dx = g - normal * (g * normal).mean(1, keepdim=True)
    if centred:
        dx = dx - g.mean(1, keepdim=True)
    dx = dx * scale
    if residual is not None:
        dx = dx + residual.to(dx.dtype)
    return dx.to(x.dtype), torch.stack([(d * normal).sum(0), d.sum(0)])


def _normal(x: Tensor, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
    """Rows of mean square 1, and what they were multiplied with."""
    wide = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    if centred:
        wide = wide - wide.mean(1, keepdim=True)
    scale = torch.rsqrt(wide.square().mean(1, keepdim=True) + eps)
    return wide * scale, scale
