"""Hyena's implicit filters: a small network of the position under an exponential window (arXiv 2302.10866, section
3.3). Their length costs no parameters."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmbio.mixers.own_group import own_group
from ssmbio.mixers.settings import check_lr, check_positive, check_whole


class HyenaFilter(nn.Module):
    """h_t = window(t) · MLP(features of t), for t < l_max; sines between the layers, of trainable frequencies.

    The features are t / (l_max - 1) and cosines and sines of (features - 1)/2 frequencies; the window of channel d is
    exp(-α_d t / (l_max - 1)), α from ln(100)/1.5 (slow) to ln(100)/0.3 (fast).

    Args:
        channels: filters that are made.
        l_max: taps of each.
        features: of a position, odd and at least 3.
        width: of the network's three hidden layers.
        sine: the sines' frequency at the start.
        lr: learning rate of the network, which has no decay; None: the optimizer's.
    """

    def __init__(
        self,
        channels: int,
        l_max: int,
        features: int = 5,
        width: int = 64,
        sine: float = 1.0,
        lr: float | None = 1e-3,
    ) -> None:
        super().__init__()
        check_whole(1, l_max=l_max, width=width)
        check_whole(3, features=features)
        if features % 2 == 0:
            raise ValueError(f"features must be odd and at least 3; got {features}")
        check_positive(sine=sine)
        check_lr(lr)
        self.l_max, self.features, self.lr = l_max, features, lr
        sizes = [features, width, width, width]
        self.layers = nn.Sequential(*(nn.Linear(*pair) for pair in pairwise(sizes)))
        self.sine = nn.Parameter(torch.full((width,), float(sine)))
        self.last = nn.Linear(width, channels, bias=False)

    def forward(self, length: int) -> Tensor:
        """The first min(length, l_max) taps of every filter, (channels, taps), in the dtype of the parameters."""
        # Positions of a long filter are more than bfloat16 can tell apart.
        with torch.autocast(self.sine.device.type, enabled=False):
            t = torch.arange(min(length, self.l_max), device=self.sine.device, dtype=self.sine.dtype)[:, None]
            share = t / max(1, self.l_max - 1)
            bands = (self.features - 1) // 2
            frequencies = torch.linspace(1e-4, max(bands - 1, 1e-4), bands, device=t.device, dtype=t.dtype)
            angle = 2 * math.pi / self.l_max * t * frequencies
            hidden = torch.cat([share, angle.cos(), -angle.sin()], dim=1)
            for layer in self.layers:
                hidden = torch.sin(self.sine * _linear(cast(nn.Linear, layer), hidden))
            slow, fast = math.log(100) / 1.5, math.log(100) / 0.3
            alpha = torch.linspace(slow, fast, self.last.out_features, device=t.device, dtype=t.dtype)
            return (_linear(self.last, hidden) * torch.exp(-share * alpha)).t()

    def optimizer_settings(self) -> dict[str, dict[str, float]]:
        return own_group(tuple(name for name, _ in self.named_parameters()), self.lr)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer` in the dtype of `x`: decoding may have cast the layers of a model."""
    return F.linear(x, layer.weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype))
