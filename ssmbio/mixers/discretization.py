"""From continuous to discrete time, for diagonal systems: x' = A x + B u becomes h_l = exp(log_a) h_{l-1} + b u_l.

Both ways are written so that small Δ A keep their digits in float32: exp(ΔA) - 1 and log((1 + ΔA/2) / (1 - ΔA/2)) are
never differences of numbers near 1. Sources: S4D (arXiv 2206.11893), section 3.1 (both ways).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmbio.kernels.zero_order_hold.formulas import expm1, zero_order_hold

__all__ = ["DISCRETIZATIONS", "bilinear", "expm1", "log_ratio", "zero_order_hold"]


def bilinear(A: Tensor, B: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """The trapezoid rule: log_a = log((1 + ΔA/2) / (1 - ΔA/2)), b = Δ B / (1 - ΔA/2).

    Arguments and result are those of `zero_order_hold`.
    """
    half = A * dt / 2
    return log_ratio(half), dt * B / (1 - half)


DISCRETIZATIONS = {"zoh": zero_order_hold, "bilinear": bilinear}


def log_ratio(z: Tensor) -> Tensor:
    """log((1 + z) / (1 - z)) of complex z with Re z < 0; where 1 + z = 0, a number whose exponential is nearly 0."""
    x, y = z.real, z.imag
    # |1 + z|² and |1 - z|²; their ratio is 1 + 4x / |1 - z|².
    above, below = (1 + x).square() + y.square(), (1 - x).square() + y.square()
    vanishes = above < 1e-24
    near_one = torch.log1p((4 * x / below).clamp(min=-0.75))
    far = torch.log(above.clamp(min=1e-24) / below)
    angle = torch.atan2(y, torch.where(vanishes, torch.ones_like(x), 1 + x)) + torch.atan2(y, 1 - x)
    return torch.complex(torch.where(4 * x > -0.5 * below, near_one, far) / 2, angle)
