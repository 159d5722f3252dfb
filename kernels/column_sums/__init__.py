"""Sums over the rows of a matrix: `op.py` the public function, one module a backend beside it."""

from ssmbio.kernels.column_sums.op import column_sums

__all__ = ["column_sums"]
