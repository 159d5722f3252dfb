"""GSS: a narrow diagonal state space inside a gated unit (Mehta et al., "Long Range Language Modeling via Gated State
Spaces", arXiv 2206.13947, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmbio.layers import Linear
from ssmbio.mixers.base import Mixer
from ssmbio.mixers.dss import DiagonalSoftmaxSSM
from ssmbio.mixers.selective_ssm import in_autocast_dtype
from ssmbio.mixers.settings import check_positive, check_whole


class GSS(Mixer):
    """out_proj(gelu(W_u x) ∘ W_y DSS(gelu(W_v x))): the scan has D/4 channels, the gate 4 D.

    Args:
        d_model: D, channels in and out.
        d_state: N, real states of a channel of the DSS, whose kernel is the one of `scale=exp`.
        expand: channels of the gate are expand · D.
        shrink: channels of the DSS are ⌈D / shrink⌉.
        dt_min, dt_max, rate, lr: see `DiagonalSoftmaxSSM`.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        expand: float = 4,
        shrink: int = 4,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        rate: float = 1.0,
        lr: float | None = 1e-3,
    ) -> None:
        super().__init__(d_model)
        check_positive(expand=expand)
        check_whole(1, shrink=shrink)
        wide, narrow = max(1, int(expand * d_model)), -(-d_model // shrink)
        self.to_gate = Linear(d_model, wide)
        self.to_ssm = Linear(d_model, narrow)
        self.ssm = DiagonalSoftmaxSSM(narrow, d_state, "exp", 1, dt_min, dt_max, rate, lr)
        self.D = nn.Parameter(torch.randn(narrow))
        self.from_ssm = Linear(narrow, wide)
        self.out_proj = Linear(wide, d_model)

    def forward(
        self, x: Tensor, state: Tensor | None = None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        self.check_input(x, state, cu_seqlens)
        x = in_autocast_dtype(x)
        y, state = self.ssm(F.gelu(self.to_ssm(x)), self.D, state, cu_seqlens)
        return self._output(x, y), state

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        self.check_step(x, state)
        x = in_autocast_dtype(x)
        y, state = self.ssm.step(F.gelu(self.to_ssm(x)), self.D, state)
        return self._output(x, y), state

    def initial_state(self, batch_size: int) -> Tensor:
        return self.ssm.initial_state(batch_size)

    def _output(self, x: Tensor, y: Tensor) -> Tensor:
        return self.out_proj(F.gelu(self.to_gate(x)) * self.from_ssm(y))
