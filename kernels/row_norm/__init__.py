"""Layer norm and RMS norm of rows: `op.py` the public function, one module a backend beside it."""

from ssmbio.kernels.row_norm.op import row_norm, row_norm_beside

__all__ = ["row_norm", "row_norm_beside"]
