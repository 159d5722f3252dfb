"""Bidirectional Mamba with tied projections (Caduceus, Schiff et al., arXiv 2403.03234, section 3.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ssmbio.kernels.gated_sum import gated_sum
from ssmbio.mixers.base import Mixer
from ssmbio.mixers.linear_weights import weight_of
from ssmbio.mixers.selective_ssm import SelectiveSSM, in_autocast_dtype, inner_channels, rank_of_steps


class BiMamba(Mixer):
    """Two selective SSMs, one from either end, between one in_proj and one out_proj.

    out_proj is linear, so out_proj(y_f silu(z)) + out_proj(y_b silu(z)) = out_proj((y_f + y_b) silu(z)): the gate and
    both projections run once. The backward direction scans from the end inside the kernels; nothing is flipped.

    Args: as for `Mamba`.
    """

    causal = False

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
        dt_rank = rank_of_steps(d_model, dt_rank)
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.ssm_forward = SelectiveSSM(d_inner, d_state, d_conv, dt_rank, dt_min, dt_max)
        self.ssm_backward = SelectiveSSM(d_inner, d_state, d_conv, dt_rank, dt_min, dt_max)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(self, x: Tensor, state: None = None, cu_seqlens: Tensor | None = None) -> tuple[Tensor, None]:
        self.check_input(x, state, cu_seqlens)
        x = in_autocast_dtype(x)
        to_inner, to_gate = weight_of(self.in_proj, "in_proj").chunk(2)
        inner = F.linear(x, to_inner)
        y_forward, _ = self.ssm_forward(inner, None, cu_seqlens=cu_seqlens)
        y_backward, _ = self.ssm_backward(inner, None, cu_seqlens=cu_seqlens, reverse=True)
        # Made last, for then its gradient is used up before the backward passes of the scans need their memory.
        z = F.linear(x, to_gate)
        return self.out_proj(gated_sum(y_forward, y_backward, z)), None
