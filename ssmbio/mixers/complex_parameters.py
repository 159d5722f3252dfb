"""Complex parameters, kept as real ones with a last axis of two: optimizers and casts then treat both parts alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssmbio.mixers.own_group import own_group
from ssmbio.mixers.settings import check_d_state

# Systems whose eigenvalues have real part 0 start this far left of it, for the logarithm that keeps them there.
_LEAST_DECAY = 1e-4


class Eigenvalues(nn.Module):
    """A = -exp(log_decay) + i frequency: real parts stay negative, so no state can grow.

    Args:
        initial: (…, N), complex.
        lr: learning rate of its own; None: the optimizer's.
    """

    def __init__(self, initial: Tensor, lr: float | None) -> None:
        super().__init__()
        self.lr = lr
        self.log_decay = nn.Parameter((-initial.real).clamp(min=_LEAST_DECAY).log().float())
        self.frequency = nn.Parameter(initial.imag.float().clone())

    def forward(self) -> Tensor:
        return torch.complex(-torch.exp(widened(self.log_decay)), widened(self.frequency))

    def optimizer_settings(self) -> dict[str, dict[str, float]]:
        return own_group(("log_decay", "frequency"), self.lr)


def complex_parameter(initial: Tensor) -> nn.Parameter:
    """(…) complex → a parameter (…, 2), float32."""
    return nn.Parameter(torch.view_as_real(initial.to(torch.complex64).resolve_conj()).clone())


def as_complex(parameter: Tensor) -> Tensor:
    """(…, 2) → (…) complex."""
    return torch.view_as_complex(widened(parameter))


def widened(parameter: Tensor) -> Tensor:
    """In float32 where a model was cast to less: complex numbers and time scales want it."""
    return parameter if parameter.dtype in (torch.float32, torch.float64) else parameter.float()


def complex_normal(*shape: int) -> Tensor:
    """CN(0, 1): real and imaginary part each of variance ½."""
    return torch.complex(*(torch.randn(2, *shape) * math.sqrt(0.5)))


def pairs_of(d_state: int) -> int:
    """The number of conjugate pairs that are kept of N = `d_state` states."""
    check_d_state(d_state)
    return d_state // 2
