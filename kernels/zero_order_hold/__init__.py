"""Diagonal systems from continuous to discrete time: `op.py` the public function, one module a backend beside it."""

from ssmbio.kernels.zero_order_hold.op import zero_order_hold

__all__ = ["zero_order_hold"]
