"""The long convolution and its gradients as products of spectra, some channels at a time, time last.

With n ≥ L + K − 1 points the circular convolution of the padded rows is the linear one, and so are both correlations of
the backward pass: their negative lags fall behind the places that are read.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_BLOCK = 2**24  # points at a time, B · n · channels: 64 MiB in float32, twice that with the spectrum


def forward(u: Tensor, kernel: Tensor, D: Tensor | None) -> Tensor:
    """y (B, L, D) in the dtype of `u`."""
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    kernel = kernel[:, : u.shape[1]]  # later taps meet nothing
    n = points(u.shape[1] + kernel.shape[1] - 1)
    for ch in channel_blocks(u, n):
        x, taps = time_last(u[..., ch]), widen(kernel[ch])
        out = convolve(x, taps, n)
        if D is not None:
            out.addcmul_(x, D[ch].to(x.dtype).unsqueeze(1))
        y[..., ch] = out.transpose(1, 2)
    return y


def backward(dy: Tensor, u: Tensor, kernel: Tensor, D: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of u, kernel and D, in their dtypes; None for what is None."""
    du, d_kernel = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (u, kernel))
    dD = None if D is None else torch.empty_like(D)
    kernel = kernel[:, : u.shape[1]]
    met = kernel.shape[1]
    d_kernel[:, met:] = 0
    n = points(u.shape[1] + met - 1)
    for ch in channel_blocks(u, n):
        d, x = time_last(dy[..., ch]), time_last(u[..., ch])
        dx, d_kernel[ch, :met] = correlate(d, x, widen(kernel[ch]), n)
        if D is not None and dD is not None:
            dx.addcmul_(d, D[ch].to(x.dtype).unsqueeze(1))
            dD[ch] = (d * x).sum((0, 2)).to(D.dtype)
        du[..., ch] = dx.transpose(1, 2)
    return du, d_kernel, dD


def convolve(x: Tensor, taps: Tensor, n: int) -> Tensor:
    """Σ_k taps_k x_{l−k} over n points: x (B, D, L), taps (D, K) → (B, D, L)."""
    spectrum = torch.fft.rfft(x, n).mul_(torch.fft.rfft(taps, n))
    return torch.fft.irfft(spectrum, n)[..., : x.shape[2]]


def correlate(d: Tensor, x: Tensor, taps: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The gradients of x (B, D, L) and taps (D, K) from d (B, D, L), that of `convolve(x, taps, n)`."""
    spectrum = torch.fft.rfft(d, n)
    across = torch.fft.rfft(x, n).conj_physical_().mul_(spectrum).sum(0)
    d_taps = torch.fft.irfft(across, n)[:, : taps.shape[1]]
    spectrum.mul_(torch.fft.rfft(taps, n).conj_physical_())
    return torch.fft.irfft(spectrum, n)[..., : x.shape[2]], d_taps


def time_last(rows: Tensor) -> Tensor:
    """(B, L, D) to (B, D, L), widened."""
    return widen(rows).transpose(1, 2).contiguous()


def widen(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float64 if tensor.dtype == torch.float64 else torch.float32)


def points(needed: int) -> int:
    """The smallest even number that is at least `needed` and has no prime factor above 5: transforms of it are fast."""
    best = 2 << needed.bit_length()
    fives = 1
    while fives < best:
        odd = fives
        while odd < best:
            pairs = max(2, -(-needed // odd))
            best = min(best, odd << (pairs - 1).bit_length())
            odd *= 3
        fives *= 5
    return best


def channel_blocks(u: Tensor, n: int) -> Iterator[slice]:
    size = max(1, _BLOCK // (u.shape[0] * n))
    for first in range(0, u.shape[2], size):
        yield slice(first, min(first + size, u.shape[2]))
