"""The inside of a Mamba layer: short convolution, input-dependent Δ, B, C, and the selective scan.

Mamba (Gu and Dao, arXiv 2312.00752, section 3) wraps one of these, bidirectional Mamba two that run from either end.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssmbio.mixers.linear_weights import weight_of
from ssmbio.mixers.selective_inner import selective_inner
from ssmbio.mixers.settings import check_dt, check_positive, check_whole


def in_autocast_dtype(x: Tensor) -> Tensor:
    """`x` as autocast would cast it for a product: once for several products, not once for each."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(kind))
    return x


def inner_channels(d_model: int, expand: float) -> int:
    """Channels of the scan of a layer of `d_model`."""
    check_positive(expand=expand)
    d_inner = int(expand * d_model)
    if d_inner < 1:
        raise ValueError(f"expand times d_model must be at least 1; got {expand} times {d_model}")
    return d_inner


def rank_of_steps(d_model: int, dt_rank: int | None) -> int:
    """The rank of the projection that makes Δ: ⌈d_model / 16⌉ unless it is given."""
    return math.ceil(d_model / 16) if dt_rank is None else dt_rank


class SelectiveState(NamedTuple):
    """State of a selective SSM with D channels: conv (B, K-1, D), its last inputs; ssm (B, D, N). Both float32."""

    conv: Tensor
    ssm: Tensor


class SelectiveSSM(nn.Module):
    """x → silu(conv(x)) → selective scan with Δ, B, C from x → gate silu(z).

    Args:
        d_inner: D, channels.
        d_state: N, state size of one channel.
        d_conv: K, taps of the short convolution.
        dt_rank: rank of the projection that makes Δ.
        dt_min, dt_max, dt_init_floor: at the start Δ is log-uniform in [dt_min, dt_max], floored.
    """

    def __init__(
        self,
        d_inner: int,
        d_state: int,
        d_conv: int,
        dt_rank: int,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        dt_init_floor: float = 1e-4,
    ) -> None:
        super().__init__()
        check_whole(2, 8, d_conv=d_conv)
        check_whole(1, d_state=d_state, dt_rank=dt_rank)
        check_dt(dt_min, dt_max)
        self.d_inner, self.d_state, self.d_conv, self.dt_rank = d_inner, d_state, d_conv, dt_rank
        # A depthwise convolution's default bounds in torch: 1 / √K for weight and bias.
        bound = d_conv**-0.5
        self.conv_weight = nn.Parameter(torch.empty(d_inner, d_conv).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.empty(d_inner).uniform_(-bound, bound))
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_weight = nn.Parameter(torch.empty(d_inner, dt_rank).uniform_(-(dt_rank**-0.5), dt_rank**-0.5))
        dt = torch.exp(torch.empty(d_inner).uniform_(math.log(dt_min), math.log(dt_max))).clamp(min=dt_init_floor)
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # softplus⁻¹(dt), without overflow
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1).float().log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))

    def optimizer_settings(self) -> dict[str, dict[str, float]]:
        """A, D and Δ's bias set time scales and gains, not weights: no decay."""
        return {name: {"weight_decay": 0.0} for name in ("A_log", "D", "dt_bias")}

    def forward(
        self,
        x: Tensor,
        z: Tensor | None,
        state: SelectiveState | None = None,
        cu_seqlens: Tensor | None = None,
        reverse: bool = False,
    ) -> tuple[Tensor, SelectiveState]:
        """x, z (B, L, D) → y (B, L, D), gated by silu(z) unless z is None; and the state after the last position."""
        conv_state, ssm_state = state if state is not None else (None, None)
        y, conv_state, ssm_state = selective_inner(
            *(x, z, self.conv_weight, self.conv_bias, weight_of(self.x_proj, "x_proj"), self.dt_weight, self.dt_bias),
            *(self.A_log, self.D, conv_state, ssm_state, cu_seqlens, reverse),
        )
        return y, SelectiveState(conv_state, ssm_state)

    def initial_state(self, batch_size: int) -> SelectiveState:
        conv = self.A_log.new_zeros(batch_size, self.d_conv - 1, self.d_inner, dtype=torch.float32)
        ssm = self.A_log.new_zeros(batch_size, self.d_inner, self.d_state, dtype=torch.float32)
        return SelectiveState(conv, ssm)
