"""The zero-order hold of a diagonal system, and what it is made of, on complex tensors; autograd passes through.

Small z keep their digits: exp(z) - 1 is never a difference of numbers near 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# With so many terms, the first that is left out is below half a rounding of the sum wherever |z| < 1.
_TERMS = {torch.complex64: 11, torch.complex128: 19}


def zero_order_hold(A: Tensor, B: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """u constant over a step: log_a = ΔA, b = (exp(ΔA) - 1) / A · B (S4D, arXiv 2206.11893, section 3.1).

    Args:
        A, B: (…, N), complex, real parts of A negative. dt: Δ, real, of a shape that broadcasts.

    Returns:
        log_a and b, complex, of the broadcast shape.
    """
    log_a = A * dt
    return log_a, expm1(log_a) / A * B


def expm1(z: Tensor) -> Tensor:
    """exp(z) - 1 of complex z: e^x cos y - 1 = (e^x - 1) cos y - 2 sin²(y/2)."""
    x, y = z.real, z.imag
    return torch.complex(torch.expm1(x) * y.cos() - 2 * (y / 2).sin().square(), x.exp() * y.sin())


def phi_slope(z: Tensor) -> Tensor:
    """φ'(z) of complex z, for φ(z) = (exp(z) - 1) / z.

    φ'(z) = (exp(z) - φ(z)) / z, where |z| < 1 its series Σ_k (k + 1) / (k + 2)! z^k: there the difference would cancel.
    """
    small = z.abs() < 1
    near, far = torch.where(small, z, 0), torch.where(small, 1, z)
    series = torch.zeros_like(z)
    for k in reversed(range(_TERMS[z.dtype])):
        series = series * near + (k + 1) / math.factorial(k + 2)
    return torch.where(small, series, (torch.exp(far) - expm1(far) / far) / far)
