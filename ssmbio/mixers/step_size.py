"""Δ, the step by which a continuous system is discretized: its parameter, its start, and other sample rates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssmbio.mixers.complex_parameters import widened
from ssmbio.mixers.own_group import own_group
from ssmbio.mixers.settings import check_dt, check_lr, check_positive


class StepSize(nn.Module):
    """Δ = exp(log_dt) · rate, log-uniform in [dt_min, dt_max] at the start (S4, arXiv 2111.00396, appendix D).

    Args:
        count: how many: one a channel, or one a state.
        dt_min, dt_max: the range at the start.
        rate: samples of the training data a sample of this model. A model trained at 16 kHz runs at 8 kHz with rate 2.
        lr: learning rate of its own; None: the optimizer's.

    Attributes:
        rate: may be changed at any time; no parameter depends on it.
    """

    def __init__(self, count: int, dt_min: float, dt_max: float, rate: float = 1.0, lr: float | None = 1e-3) -> None:
        super().__init__()
        check_dt(dt_min, dt_max)
        check_positive(rate=rate)
        check_lr(lr)
        self.rate, self.lr = rate, lr
        self.log_dt = nn.Parameter(torch.empty(count).uniform_(math.log(dt_min), math.log(dt_max)))

    def forward(self) -> Tensor:
        """Δ, (count,)."""
        return torch.exp(widened(self.log_dt)) * self.rate

    def optimizer_settings(self) -> dict[str, dict[str, float]]:
        return own_group(("log_dt",), self.lr)


def set_rate(model: nn.Module, rate: float) -> int:
    """Re-sample every state-space model in `model`, as `rate` of `StepSize` says; returns how many there are.

    Convolutions with a fixed number of taps (Hyena's filters, H3's shift) have no step size and stay as they are.
    """
    check_positive(rate=rate)
    steps = [module for module in model.modules() if isinstance(module, StepSize)]
    for step in steps:
        step.rate = rate
    return len(steps)
