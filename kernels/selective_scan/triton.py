"""Triton backend of `selective_scan`: `forward`, `backward`, `checkpoints_shape`, as `torch_chunked.py` has them."""

from ssmbio.kernels.selective_scan.triton_state_blocks import backward, checkpoints_shape, forward

__all__ = ["backward", "checkpoints_shape", "forward"]
