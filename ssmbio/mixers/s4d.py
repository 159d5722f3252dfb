"""S4D: a diagonal state space in each channel (Gu, Gupta, Goel and Ré, arXiv 2206.11893)."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from ssmbio.kernels.zero_order_hold import zero_order_hold
from ssmbio.mixers.complex_parameters import (
    Eigenvalues,
    as_complex,
    complex_normal,
    complex_parameter,
    pairs_of,
    widened,
)
from ssmbio.mixers.discretization import DISCRETIZATIONS
from ssmbio.mixers.hippo import normal_plus_low_rank
from ssmbio.mixers.own_group import own_group
from ssmbio.mixers.scanned_ssm import ScannedSSM
from ssmbio.mixers.settings import check_choice, check_flag
from ssmbio.mixers.ssm_layer import SSMLayer
from ssmbio.mixers.step_size import StepSize

S4D_INITS = ("lin", "inv", "legs", "real")


def s4d_eigenvalues(init: str, d_state: int) -> Tensor:
    """A at the start, (N/2,) complex128, for n < N/2 of N = `d_state` (arXiv 2206.11893, section 4.3).

    lin   -½ + iπn                       inv   -½ + i (N/π) (N / (2n + 1) - 1)
    legs  the eigenvalues of the normal part of HiPPO-LegS                real  -(n + 1)
    """
    check_choice(S4D_INITS, init=init)
    pairs = pairs_of(d_state)
    n = torch.arange(pairs, dtype=torch.float64)
    if init == "lin":
        return torch.complex(torch.full_like(n, -0.5), math.pi * n)
    if init == "inv":
        return torch.complex(torch.full_like(n, -0.5), d_state / math.pi * (d_state / (2 * n + 1) - 1))
    if init == "legs":
        return normal_plus_low_rank("legs", d_state).eigenvalues
    return torch.complex(-(n + 1), torch.zeros_like(n))


class DiagonalSSM(ScannedSSM):
    """K_l = 2 Re Σ_n C_n exp(l log_a_n) b_n in each channel, log_a and b by the discretization of A, B and Δ.

    Args:
        d_model: D, channels.
        d_state: N, real states a channel; N/2 conjugate pairs are kept.
        init: lin, inv, legs or real.
        discretization: zoh or bilinear.
        dt_min, dt_max, rate: see `StepSize`.
        shared: one A and B for all channels, which then differ in Δ and C.
        lr: learning rate of A, B and Δ; None: the optimizer's.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        init: str = "lin",
        discretization: str = "zoh",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        rate: float = 1.0,
        shared: bool = False,
        lr: float | None = 1e-3,
    ) -> None:
        super().__init__(d_model, pairs_of(d_state))
        check_choice(DISCRETIZATIONS, discretization=discretization)
        check_flag(shared=shared)
        self.discretization = discretization
        self.lr = lr
        copies = 1 if shared else d_model
        self.A = Eigenvalues(s4d_eigenvalues(init, d_state).repeat(copies, 1), lr)
        self.B = complex_parameter(torch.ones(copies, self.pairs, dtype=torch.complex64))
        self.C = complex_parameter(complex_normal(d_model, self.pairs))
        self.dt = StepSize(d_model, dt_min, dt_max, rate, lr)

    @property
    def rate(self) -> float:
        return self.dt.rate

    def system(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.discretization == "zoh" and self.B.is_cuda:
            # One kernel each way, in place of one for every operation on (D, N) numbers.
            log_decay, frequency, log_dt = map(widened, (self.A.log_decay, self.A.frequency, self.dt.log_dt))
            log_a, b = zero_order_hold(log_decay, frequency, widened(self.B), log_dt, self.rate)
        else:
            discretize = DISCRETIZATIONS[self.discretization]
            log_a, b = discretize(self.A(), as_complex(self.B), self.dt()[:, None])
        return log_a, b, as_complex(self.C)

    def optimizer_settings(self) -> dict[str, dict[str, float]]:
        return own_group(("B",), self.lr)


class S4D(SSMLayer):
    """S4D layer: diagonal SSM → GELU → dropout → Linear + GLU.

    Args: those of `DiagonalSSM`, and
        dropout: after the GELU.
        bidirectional: two systems, one from either end; causal otherwise.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        init: str = "lin",
        discretization: str = "zoh",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        rate: float = 1.0,
        shared: bool = False,
        lr: float | None = 1e-3,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        make = partial(DiagonalSSM, d_model, d_state, init, discretization, dt_min, dt_max, rate, shared, lr)
        super().__init__(d_model, make, dropout, bidirectional)
