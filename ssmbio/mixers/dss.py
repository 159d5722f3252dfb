"""DSS: a diagonal state space whose kernel is scaled by a softmax over positions, or not (Gupta, Gu and Berant,
"Diagonal State Spaces are as Effective as Structured State Spaces", arXiv 2203.14343, propositions 1 and 2)."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ssmbio.mixers.complex_parameters import Eigenvalues, as_complex, complex_normal, complex_parameter, pairs_of
from ssmbio.mixers.discretization import expm1
from ssmbio.mixers.hippo import normal_plus_low_rank
from ssmbio.mixers.scanned_ssm import ScannedSSM
from ssmbio.mixers.settings import check_choice, check_whole
from ssmbio.mixers.ssm_layer import SSMLayer
from ssmbio.mixers.step_size import StepSize

DSS_SCALES = ("softmax", "exp")
# The paper's regularized reciprocal, x̄ / (x x̄ + ε): the softmax of complex numbers can have a denominator near 0.
_EPSILON = 1e-7


class DiagonalSoftmaxSSM(ScannedSSM):
    """Kernels of the same exponentials exp(l Δ λ_n), weighted by W:

        exp       K_l = 2 Re Σ_n W_n (exp(Δλ_n) - 1) / λ_n · exp(l Δ λ_n)
        softmax   K_l = 2 Re Σ_n W_n / λ_n · exp(l Δ λ_n) / Σ_{m < l_max} exp(m Δ λ_n)

    One Λ serves all channels, which differ in Δ and W. Real parts stay negative in both, so a state can be carried
    past `l_max`; the paper's softmax also takes modes that grow. With another rate, l_max covers the same time.

    Args:
        d_model: D, channels.
        d_state: N, real states a channel; N/2 conjugate pairs are kept. Λ starts at those of S4D-LegS.
        scale: softmax or exp.
        l_max: positions under the softmax; of no use to exp.
        dt_min, dt_max, rate: see `StepSize`.
        lr: learning rate of Λ and Δ; None: the optimizer's.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        scale: str = "softmax",
        l_max: int = 1024,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        rate: float = 1.0,
        lr: float | None = 1e-3,
    ) -> None:
        super().__init__(d_model, pairs_of(d_state))
        check_choice(DSS_SCALES, scale=scale)
        check_whole(1, l_max=l_max)
        self.scale, self.l_max = scale, l_max
        self.A = Eigenvalues(normal_plus_low_rank("legs", d_state).eigenvalues, lr)
        self.W = complex_parameter(complex_normal(d_model, self.pairs))
        self.dt = StepSize(d_model, dt_min, dt_max, rate, lr)

    @property
    def rate(self) -> float:
        return self.dt.rate

    def system(self) -> tuple[Tensor, Tensor, Tensor]:
        A = self.A()
        log_a = A * self.dt()[:, None]
        divisor = A.expand_as(log_a)
        if self.scale == "softmax":
            # The geometric series: Σ_{m < M} exp(mz) = (exp(Mz) - 1) / (exp(z) - 1).
            divisor = divisor * expm1(log_a * (self.l_max / self.rate))
        b = expm1(log_a) * divisor.conj() / (divisor.real.square() + divisor.imag.square() + _EPSILON)
        return log_a, b, as_complex(self.W)


class DSS(SSMLayer):
    """DSS layer: diagonal SSM → GELU → dropout → Linear + GLU.

    Args: those of `DiagonalSoftmaxSSM`, and
        dropout: after the GELU.
        bidirectional: two systems, one from either end; causal otherwise.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        scale: str = "softmax",
        l_max: int = 1024,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        rate: float = 1.0,
        lr: float | None = 1e-3,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        make = partial(DiagonalSoftmaxSSM, d_model, d_state, scale, l_max, dt_min, dt_max, rate, lr)
        super().__init__(d_model, make, dropout, bidirectional)
