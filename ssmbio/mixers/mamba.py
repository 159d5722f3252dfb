"""Mamba: an input-dependent diagonal state space behind a gate (Gu and Dao, arXiv 2312.00752, figure 3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ssmbio.kernels.mamba_step import mamba_step
from ssmbio.mixers.base import Mixer
from ssmbio.mixers.linear_weights import weight_of
from ssmbio.mixers.selective_ssm import (
    SelectiveSSM,
    SelectiveState,
    in_autocast_dtype,
    inner_channels,
    rank_of_steps,
)


class Mamba(Mixer):
    """Causal Mamba layer: in_proj → [x, z]; convolution, scan and gate; out_proj.

    Args:
        d_model: D, channels in and out.
        d_state: N, state size of each inner channel.
        d_conv: taps of the short causal convolution, 2 to 8.
        expand: inner channels are `expand * d_model`.
        dt_rank: rank of the projection that makes Δ; None means ⌈d_model / 16⌉.
        dt_min, dt_max: range of Δ at the start.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
    ) -> None:
        super().__init__(d_model)
        d_inner = inner_channels(d_model, expand)
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.ssm = SelectiveSSM(d_inner, d_state, d_conv, rank_of_steps(d_model, dt_rank), dt_min, dt_max)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(
        self, x: Tensor, state: SelectiveState | None = None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, SelectiveState]:
        self.check_input(x, state, cu_seqlens)
        # Two products: the gradients of the halves of one would be put together by a copy.
        x = in_autocast_dtype(x)
        inner, z = (F.linear(x, weight) for weight in weight_of(self.in_proj, "in_proj").chunk(2))
        y, state = self.ssm(inner, z, state, cu_seqlens)
        return self.out_proj(y), state

    def step(self, x: Tensor, state: SelectiveState) -> tuple[Tensor, SelectiveState]:
        self.check_step(x, state)
        ssm = self.ssm
        in_weight, x_weight, out_weight = (
            weight_of(layer, name)
            for layer, name in ((self.in_proj, "in_proj"), (ssm.x_proj, "x_proj"), (self.out_proj, "out_proj"))
        )
        y, conv_state, ssm_state = mamba_step(
            *(x, in_weight, ssm.conv_weight, ssm.conv_bias, x_weight, ssm.dt_weight, ssm.dt_bias),
            *(ssm.A_log, ssm.D, out_weight, state.conv, state.ssm),
        )
        return y, SelectiveState(conv_state, ssm_state)

    def initial_state(self, batch_size: int) -> SelectiveState:
        return self.ssm.initial_state(batch_size)
