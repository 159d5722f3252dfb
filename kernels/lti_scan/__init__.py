"""The scan of a time-invariant diagonal system: `op.py` the public function, `reference.py` its meaning, one module a
backend beside them."""

from ssmbio.kernels.lti_scan.op import lti_scan
from ssmbio.kernels.lti_scan.step import lti_scan_step

__all__ = ["lti_scan", "lti_scan_step"]
