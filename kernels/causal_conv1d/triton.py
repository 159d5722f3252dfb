"""Triton backend of `causal_conv1d`: `forward` and `backward`, as `torch_path.py` has them."""

from ssmbio.kernels.causal_conv1d.triton_backward import backward
from ssmbio.kernels.causal_conv1d.triton_forward import forward

__all__ = ["backward", "forward"]
