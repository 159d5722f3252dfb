"""The public ops: functions of tensors, each one PyTorch reference beside one fast kernel that are proven equal."""

from ssmbio.kernels.causal_conv1d import causal_conv1d, causal_conv1d_step
from ssmbio.kernels.fft_convolution import fft_convolution
from ssmbio.kernels.lti_scan import lti_scan, lti_scan_step
from ssmbio.kernels.selective_scan import selective_scan, selective_scan_step

__all__ = [
    "causal_conv1d",
    "causal_conv1d_step",
    "fft_convolution",
    "lti_scan",
    "lti_scan_step",
    "selective_scan",
    "selective_scan_step",
]
