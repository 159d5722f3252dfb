"""H3: two state spaces between three projections, as in linear attention (Fu et al., "Hungry Hungry Hippos", arXiv
2212.14052, section 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssmbio.layers import Linear
from ssmbio.mixers.base import Mixer
from ssmbio.mixers.long_filter import long_filter, long_filter_step
from ssmbio.mixers.s4d import DiagonalSSM
from ssmbio.mixers.selective_ssm import in_autocast_dtype
from ssmbio.mixers.settings import check_whole


class H3State(NamedTuple):
    """shift (B, d_shift - 1, D), the last keys; ssm (B, D, N), complex."""

    shift: Tensor
    ssm: Tensor


class H3(Mixer):
    """q, k, v = in_proj(x); out_proj(q ∘ SSM_diag(SSM_shift(k) ∘ v)).

    A shift SSM moves its state on by one place a step, so with C it is a filter of as many taps as it has states.

    Args:
        d_model: D, channels in and out (heads of one channel each).
        d_shift: states of the shift SSM.
        d_state, init, discretization, dt_min, dt_max, rate, lr: of the diagonal SSM, see `DiagonalSSM`.
    """

    def __init__(
        self,
        d_model: int,
        d_shift: int = 64,
        d_state: int = 64,
        init: str = "lin",
        discretization: str = "zoh",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        rate: float = 1.0,
        lr: float | None = 1e-3,
    ) -> None:
        super().__init__(d_model)
        check_whole(1, d_shift=d_shift)
        self.in_proj = Linear(d_model, 3 * d_model)
        self.shift = nn.Parameter(torch.randn(d_model, d_shift))
        self.ssm = DiagonalSSM(d_model, d_state, init, discretization, dt_min, dt_max, rate, lr=lr)
        self.D = nn.Parameter(torch.randn(d_model))
        self.out_proj = Linear(d_model, d_model)

    def forward(
        self, x: Tensor, state: H3State | None = None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, H3State]:
        self.check_input(x, state, cu_seqlens)
        q, k, v = self.in_proj(in_autocast_dtype(x)).chunk(3, dim=-1)
        shift, ssm = (None, None) if state is None else state
        k, shift = long_filter(k, self.shift, self.shift.shape[1], None, shift, cu_seqlens)
        y, ssm = self.ssm(k * v, self.D, ssm, cu_seqlens)
        return self.out_proj(q * y), H3State(shift, ssm)

    def step(self, x: Tensor, state: H3State) -> tuple[Tensor, H3State]:
        self.check_step(x, state)
        q, k, v = self.in_proj(in_autocast_dtype(x)).chunk(3, dim=-1)
        k, shift = long_filter_step(k, self.shift, None, state.shift)
        y, ssm = self.ssm.step(k * v, self.D, state.ssm)
        return self.out_proj(q * y), H3State(shift, ssm)

    def initial_state(self, batch_size: int) -> H3State:
        taps = self.shift.shape[1]
        shift = self.shift.new_zeros(batch_size, taps - 1, self.d_model)
        return H3State(shift, self.ssm.initial_state(batch_size))
