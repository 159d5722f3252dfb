"""The zero-order hold in plain torch; with float64 inputs, its meaning. Its gradients are derived in `op.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmbio.kernels.zero_order_hold.formulas import expm1, phi_slope, zero_order_hold


def forward(log_decay: Tensor, frequency: Tensor, B: Tensor, log_dt: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """log_a and b, each (D, N)."""
    A, dt = _system(log_decay, frequency, log_dt, rate)
    return zero_order_hold(A, torch.view_as_complex(B), dt)


def backward(
    d_log_a: Tensor, d_b: Tensor, log_decay: Tensor, frequency: Tensor, B: Tensor, log_dt: Tensor, rate: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of log_decay and frequency (D, N) and of B (D, N, 2), a channel each, and that of log_dt (D,)."""
    A, dt = _system(log_decay, frequency, log_dt, rate)
    log_a, B = A * dt, torch.view_as_complex(B)
    slope = d_log_a + torch.conj_physical(dt * phi_slope(log_a) * B) * d_b
    d_B = torch.conj_physical(expm1(log_a) / A) * d_b
    along = d_log_a * torch.conj_physical(log_a) + d_b * torch.conj_physical(dt * torch.exp(log_a) * B)
    return log_a.real * slope.real, dt * slope.imag, torch.view_as_real(d_B), along.real.sum(1)


def _system(log_decay: Tensor, frequency: Tensor, log_dt: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """A (C, N) and Δ (D, 1)."""
    return torch.complex(-torch.exp(log_decay), frequency), (torch.exp(log_dt) * rate)[:, None]
