"""A linear layer of single positions with what stands around it: `op.py` the function, `triton.py` the kernel.

`triton_blocks.py` holds what the kernels of all three fused steps are put together from.
"""

from ssmbio.kernels.dense_step.op import dense_step

__all__ = ["dense_step"]
