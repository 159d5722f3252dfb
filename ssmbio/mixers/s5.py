"""S5: one state space for all channels, many inputs and many outputs (Smith, Warrington and Linderman, arXiv
2208.04933)."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmbio.kernels import lti_scan
from ssmbio.mixers.complex_parameters import Eigenvalues, as_complex, complex_normal, complex_parameter, pairs_of
from ssmbio.mixers.derived import Derived
from ssmbio.mixers.discretization import DISCRETIZATIONS
from ssmbio.mixers.hippo import normal_plus_low_rank
from ssmbio.mixers.own_group import own_group
from ssmbio.mixers.settings import check_choice, check_whole
from ssmbio.mixers.ssm_layer import SSMLayer
from ssmbio.mixers.step_size import StepSize


class SharedSSM(nn.Module):
    """h_l = ā h_{l-1} + B̄ u_l, elementwise in ā; y_l = 2 Re(C h_l) + D u_l: one system for all D channels.

    B starts as V⁻¹ times a real Gaussian matrix of variance 1/D, which makes its entries CN(0, 1/D); the entries of C
    are CN(0, 2/N), as the paper's products with V are.

    Args:
        d_model: D, channels.
        d_state: N, real states of the whole system; N/2 conjugate pairs are kept.
        blocks: A starts as this many copies of the HiPPO-LegS eigenvalues of N/blocks states.
        discretization: zoh or bilinear.
        dt_min, dt_max, rate: see `StepSize`; here each kept state has a Δ.
        lr: learning rate of A, B and Δ; None: the optimizer's.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        blocks: int = 1,
        discretization: str = "zoh",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        rate: float = 1.0,
        lr: float | None = 1e-3,
    ) -> None:
        super().__init__()
        self.pairs = pairs_of(d_state)
        check_whole(1, blocks=blocks)
        if d_state % (2 * blocks):
            raise ValueError(f"blocks must divide d_state into even parts; got {blocks} and {d_state}")
        check_choice(DISCRETIZATIONS, discretization=discretization)
        self.discretize = DISCRETIZATIONS[discretization]
        self.lr = lr
        self.A = Eigenvalues(normal_plus_low_rank("legs", d_state // blocks).eigenvalues.repeat(blocks), lr)
        self.B = complex_parameter(complex_normal(self.pairs, d_model) / math.sqrt(d_model))
        self.C = complex_parameter(complex_normal(d_model, self.pairs) / math.sqrt(self.pairs))
        self.dt = StepSize(self.pairs, dt_min, dt_max, rate, lr)
        self._kept = Derived()

    def system(self) -> tuple[Tensor, Tensor, Tensor]:
        """log_a (N,) complex; B̄ (2N, D) real, the real parts above the imaginary; 2 C (D, 2N) real, to [Re h, Im h]."""
        log_a, scale = self.discretize(self.A(), torch.ones_like(self.A()), self.dt())
        B = scale[:, None] * as_complex(self.B)
        C = as_complex(self.C)
        return log_a, torch.cat([B.real, B.imag]), 2 * torch.cat([C.real, -C.imag], dim=1)

    def forward(
        self,
        u: Tensor,
        D: Tensor | None = None,
        state: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        reverse: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """u (B, L, D), D (D,), state (B or S, N) complex → y like u, and the state after the last position."""
        log_a, B, C = self.system()
        v = F.linear(u, B.to(u.dtype))
        h, state = scan_complex(v, log_a, state, cu_seqlens, reverse)
        y = F.linear(h, C.to(h.dtype))
        return (y if D is None else y + D.to(u.dtype) * u), state

    def step(self, u: Tensor, D: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        """u (B, D), state (B, N) → y (B, D) and the new state."""
        log_a, B, C = self._kept.get(self, self.system, self.dt.rate)
        v = F.linear(u, B.to(u.dtype)).to(state.real.dtype)
        state = torch.exp(log_a) * state + torch.complex(*v.chunk(2, dim=-1))
        h = torch.cat([state.real, state.imag], dim=-1).to(u.dtype)
        y = F.linear(h, C.to(h.dtype))
        return (y if D is None else y + D.to(u.dtype) * u), state

    def initial_state(self, batch_size: int) -> Tensor:
        dtype = torch.complex128 if self.C.dtype == torch.float64 else torch.complex64
        return torch.zeros(batch_size, self.pairs, dtype=dtype, device=self.C.device)

    def optimizer_settings(self) -> dict[str, dict[str, float]]:
        return own_group(("B",), self.lr)


def scan_complex(
    v: Tensor, log_a: Tensor, state: Tensor | None, cu_seqlens: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """h_l = exp(log_a) h_{l-1} + v_l of complex v by `lti_scan`, whose inputs and outputs are real.

    h is linear in v: with s the states of Re v and t those of Im v, Re h = Re s - Im t and Im h = Im s + Re t. So four
    channels of one state each, from either part to either part.

    Args:
        v: (B, L, 2N), [Re v, Im v].
        log_a: (N,), complex.
        state: (B or S, N), complex, or None.

    Returns:
        (B, L, 2N), [Re h, Im h], and the last h (B or S, N).
    """
    n = log_a.shape[0]
    # 2 Re(c s) is Re s with c = ½, Im s with c = -i/2, -Im s with c = i/2.
    real, imag = log_a.new_full((n,), 0.5), log_a.new_full((n,), 0.5j)  # made on the device: a CUDA graph holds no copy
    c = torch.cat([real, imag, -imag, real])[:, None]
    log_a = log_a.repeat(4)[:, None]
    if state is not None:
        nothing = torch.zeros_like(state)
        state = torch.cat([state, nothing, state, nothing], dim=1)[..., None]
    y, last = lti_scan(v.repeat(1, 1, 2), log_a, torch.ones_like(c), c, None, state, True, cu_seqlens, reverse)
    to_real, to_imag = y.unflatten(-1, (2, 2, n)).sum(-2).unbind(-2)
    s, t = last[..., 0].unflatten(-1, (4, n))[:, :2].unbind(1)
    return torch.cat([to_real, to_imag], dim=-1), s + 1j * t


class S5(SSMLayer):
    """S5 layer: shared SSM → GELU → dropout → Linear + GLU.

    Args: those of `SharedSSM`, and
        dropout: after the GELU.
        bidirectional: two systems, one from either end; causal otherwise.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        blocks: int = 1,
        discretization: str = "zoh",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        rate: float = 1.0,
        lr: float | None = 1e-3,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        make = partial(SharedSSM, d_model, d_state, blocks, discretization, dt_min, dt_max, rate, lr)
        super().__init__(d_model, make, dropout, bidirectional)
