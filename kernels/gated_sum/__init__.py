"""The sum of two directions behind one gate: `op.py` the public function, one module a backend beside it."""

from ssmbio.kernels.gated_sum.op import gated_sum

__all__ = ["gated_sum"]
