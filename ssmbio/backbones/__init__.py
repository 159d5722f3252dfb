"""Backbones: mixers put together into one map from (B, L, D) to (B, L, D)."""

from typing import TypeAlias

from ssmbio.backbones.bidirectional import Bidirectional
from ssmbio.backbones.stack import Block, Stack
from ssmbio.backbones.unet import UNet
from ssmbio.backbones.unet_walks import UNetState

Backbone: TypeAlias = Stack | UNet

__all__ = ["Backbone", "Bidirectional", "Block", "Stack", "UNet", "UNetState"]
