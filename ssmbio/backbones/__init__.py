"""Backbones: mixers put together into one map from (B, L, D) to (B, L, D)."""

from ssmbio.backbones.bidirectional import Bidirectional
from ssmbio.backbones.stack import Block, Stack

__all__ = ["Bidirectional", "Block", "Stack"]
