"""Layers of torch on our own kernels where the tensors are on a GPU; names and meaning of parameters are torch's."""

from ssmbio.layers.linear import Linear
from ssmbio.layers.norms import LayerNorm, RMSNorm

__all__ = ["LayerNorm", "Linear", "RMSNorm"]
