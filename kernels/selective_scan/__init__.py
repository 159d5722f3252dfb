"""Mamba's selective scan: `op.py` the public function, `reference.py` its meaning, one module a backend beside them."""

from ssmbio.kernels.selective_scan.op import selective_scan
from ssmbio.kernels.selective_scan.step import selective_scan_step

__all__ = ["selective_scan", "selective_scan_step"]
