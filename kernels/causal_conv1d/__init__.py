"""The short causal depthwise convolution before a scan: `op.py` the public functions, one module a backend."""

from ssmbio.kernels.causal_conv1d.op import causal_conv1d, causal_conv1d_step

__all__ = ["causal_conv1d", "causal_conv1d_step"]
