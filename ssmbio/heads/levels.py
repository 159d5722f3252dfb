"""Initial values for maps from and to codes of levels: codes that lie side by side begin with like vectors.

Codes of audio are numbers, which a table of random vectors hides: each of 256 rows has to learn on its own what its
neighbours know. Sines and cosines of the level, at wavelengths from four times the range down to a few levels, say it
from the start, as they do of positions (Vaswani et al. 2017, arXiv 1706.03762; Tancik et al. 2020, arXiv 2006.10739):
sums of them over the channels are peaks anywhere, which is what a head has to make. The tables train as any others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssmbio.layers import Linear

HIGHEST = 16.0
"""The highest frequency over the lowest."""


def level_features(levels: int, channels: int) -> Tensor:
    """(levels, channels), of mean square 1: sines, then cosines, of the level at frequencies in geometric progression.

    The lowest has a quarter of a wave over half of the range.
    """
    level = (torch.arange(levels) + 0.5) / levels * 2 - 1
    count = -(-channels // 2)
    frequency = math.pi / 2 * HIGHEST ** (torch.arange(count) / max(1, count - 1))
    angle = level[:, None] * frequency
    return math.sqrt(2) * torch.cat([angle.sin(), angle.cos()], 1)[:, :channels]


def code_embedding(levels: int, channels: int) -> nn.Embedding:
    """codes (…) → (…, channels)."""
    embedding = nn.Embedding(levels, channels)
    with torch.no_grad():
        embedding.weight.copy_(level_features(levels, channels))
    return embedding


def code_logits(channels: int, levels: int) -> nn.Linear:
    """(…, channels) → logits (…, levels), of the order of 1 where the channels are."""
    head = Linear(channels, levels)
    with torch.no_grad():
        head.weight.copy_(level_features(levels, channels) / math.sqrt(channels))
        head.bias.zero_()
    return head
