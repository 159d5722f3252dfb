"""Mixers: layers that carry information along a sequence. One file a mixer; `base.py` is the contract."""

from ssmbio.mixers.base import Mixer
from ssmbio.mixers.bimamba import BiMamba
from ssmbio.mixers.dss import DSS
from ssmbio.mixers.gss import GSS
from ssmbio.mixers.h3 import H3
from ssmbio.mixers.hyena import Hyena
from ssmbio.mixers.mamba import Mamba
from ssmbio.mixers.s4 import S4
from ssmbio.mixers.s4d import S4D
from ssmbio.mixers.s5 import S5

__all__ = ["DSS", "GSS", "H3", "S4", "S4D", "S5", "BiMamba", "Hyena", "Mamba", "Mixer"]
