"""Mixers: layers that carry information along a sequence. One file a mixer; `base.py` is the contract."""

from ssmbio.mixers.base import Mixer
from ssmbio.mixers.bimamba import BiMamba
from ssmbio.mixers.mamba import Mamba

__all__ = ["BiMamba", "Mamba", "Mixer"]
