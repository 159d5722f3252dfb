"""One position of LayerNorm, diagonal state space and GELU: `op.py` the function, `triton.py` the kernel."""

from ssmbio.kernels.s4d_layer_step.op import s4d_layer_step

__all__ = ["s4d_layer_step"]
