"""The long causal convolution by fast Fourier transforms: `op.py` the public function, `transforms.py` the work."""

from ssmbio.kernels.fft_convolution.op import fft_convolution

__all__ = ["fft_convolution"]
