"""Triton backend of `lti_scan`: `forward`, `backward`, `checkpoints_shape`, as `torch_chunked.py` has them."""

from ssmbio.kernels.lti_scan.triton_backward import backward
from ssmbio.kernels.lti_scan.triton_forward import forward
from ssmbio.kernels.lti_scan.triton_plan import checkpoints_shape

__all__ = ["backward", "checkpoints_shape", "forward"]
