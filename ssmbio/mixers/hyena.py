"""Hyena: gates between long convolutions with implicit filters (Poli et al., arXiv 2302.10866)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssmbio.kernels import causal_conv1d, causal_conv1d_step
from ssmbio.layers import Linear
from ssmbio.mixers.base import Mixer
from ssmbio.mixers.derived import Derived
from ssmbio.mixers.hyena_filter import HyenaFilter
from ssmbio.mixers.long_filter import long_filter, long_filter_step
from ssmbio.mixers.selective_ssm import in_autocast_dtype
from ssmbio.mixers.settings import check_whole


class HyenaState(NamedTuple):
    """The last inputs: of the short convolution (B, K - 1, (order + 1) D), of the filters (B, l_max - 1, order · D)."""

    short: Tensor
    long: Tensor


class Hyena(Mixer):
    """[x¹ … xⁿ, v] = short convolution(in_proj(x)); v ← xⁱ ∘ (hⁱ ∗ v + dⁱ v) for i = 1 … order; out_proj(v).

    The filters have `l_max` taps, so what lies further back has no influence; sequences may be longer. A step costs
    O(l_max), for the state is the cache of the inputs.

    Args:
        d_model: D, channels in and out.
        l_max: taps of the long filters.
        order: number of gates and long filters.
        d_conv: taps of the short convolution, 2 to 8.
        features, width, sine: of the network that makes the filters, see `HyenaFilter`.
        lr: learning rate of that network; None: the optimizer's.
    """

    def __init__(
        self,
        d_model: int,
        l_max: int = 1024,
        order: int = 2,
        d_conv: int = 3,
        features: int = 5,
        width: int = 64,
        sine: float = 1.0,
        lr: float | None = 1e-3,
    ) -> None:
        super().__init__(d_model)
        check_whole(1, order=order)
        check_whole(2, 8, d_conv=d_conv)
        self.order = order
        inner, bound = (order + 1) * d_model, d_conv**-0.5
        self.in_proj = Linear(d_model, inner)
        self.conv_weight = nn.Parameter(torch.empty(inner, d_conv).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.empty(inner).uniform_(-bound, bound))
        self.filter = HyenaFilter(order * d_model, l_max, features, width, sine, lr)
        self.skip = nn.Parameter(torch.randn(order * d_model))
        self.out_proj = Linear(d_model, d_model)
        self._kept = Derived()

    def forward(
        self, x: Tensor, state: HyenaState | None = None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, HyenaState]:
        self.check_input(x, state, cu_seqlens)
        x = self.in_proj(in_autocast_dtype(x))
        short, long = (None, None) if state is None else state
        x, short = causal_conv1d(
            x, self.conv_weight, self.conv_bias, None, short, return_final_state=True, cu_seqlens=cu_seqlens
        )
        *gates, v = x.chunk(self.order + 1, dim=-1)
        # Without a past, taps beyond the length meet nothing.
        length = self.filter.l_max
        taps = self.filter(length if long is not None else x.shape[1]).chunk(self.order)
        caches = [None] * self.order if long is None else long.chunk(self.order, dim=-1)
        new_caches = []
        for gate, h, d, cache in zip(gates, taps, self.skip.chunk(self.order), caches, strict=True):
            v, cache = long_filter(v, h, length, d, cache, cu_seqlens)
            v = gate * v
            new_caches.append(cache)
        return self.out_proj(v), HyenaState(short, torch.cat(new_caches, dim=-1))

    def step(self, x: Tensor, state: HyenaState) -> tuple[Tensor, HyenaState]:
        self.check_step(x, state)
        x = self.in_proj(in_autocast_dtype(x))
        x, short = causal_conv1d_step(x, self.conv_weight, self.conv_bias, None, state.short)
        *gates, v = x.chunk(self.order + 1, dim=-1)
        taps = self._kept.get(self.filter, lambda: self.filter(self.filter.l_max)).chunk(self.order)
        new_caches = []
        for gate, h, d, cache in zip(
            gates, taps, self.skip.chunk(self.order), state.long.chunk(self.order, dim=-1), strict=True
        ):
            v, cache = long_filter_step(v, h, d, cache)
            v = gate * v
            new_caches.append(cache)
        return self.out_proj(v), HyenaState(short, torch.cat(new_caches, dim=-1))

    def initial_state(self, batch_size: int) -> HyenaState:
        inner, taps = self.conv_weight.shape
        wide = self.order * self.d_model
        return HyenaState(
            self.conv_weight.new_zeros(batch_size, taps - 1, inner),
            self.conv_weight.new_zeros(batch_size, self.filter.l_max - 1, wide),
        )
