"""The gated sum in plain torch; with float64 inputs, its meaning."""

from __future__ import annotations

import torch
from torch import Tensor


def forward(a: Tensor, b: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """y = (a + b) silu(z), and a + b for the backward pass, in the dtype of `a`."""
    wide = torch.float64 if a.dtype == torch.float64 else torch.float32
    total = a.to(wide) + b.to(wide)
    y = total * torch.nn.functional.silu(z.to(wide))
    return y.to(a.dtype), total.to(a.dtype)


def backward(dy: Tensor, total: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of a + b and of z."""
    wide = torch.float64 if dy.dtype == torch.float64 else torch.float32
    d, gate = dy.to(wide), z.to(wide)
    d_total = d * torch.nn.functional.silu(gate)
    dz = torch.ops.aten.silu_backward(d * total.to(wide), gate)
    return d_total.to(total.dtype), dz.to(z.dtype)
