"""One position of a whole Mamba layer: `op.py` the function and its meaning in torch, `triton.py` the kernels."""

from ssmbio.kernels.mamba_step.op import mamba_step

__all__ = ["mamba_step"]
