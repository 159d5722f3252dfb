"""The convolution kernel of a normal-plus-low-rank system by Cauchy sums and one inverse FFT (S4, arXiv 2111.00396,
theorem 3 and appendix C.3).

The truncated generating function of K_l = C Ā^l B̄ at the M-th roots of unity ω_j = exp(-2iφ_j), φ_j = πj/M, is

    K̂(ω) = 2/(1 + ω) · [k(C̃, B) - k(C̃, P) (1 + k(P*, P))⁻¹ k(P*, B)],    C̃ = C (I - Ā^M)
    k(u, v) = Σ u_n v_n / (g - λ_n),    g = (2/Δ) (1 - ω)/(1 + ω) = (2i/Δ) tan φ

over all N states. Written with S(u, v) = Σ u_n v_n / (i sin φ - (Δ/2) λ_n cos φ), for k = (Δ/2) cos φ S, nothing is
infinite at ω = -1:  K̂ = (Δ/2) e^{iφ} [S(C̃, B) - h S(C̃, P) (1 + h S(P*, P))⁻¹ S(P*, B)],  h = (Δ/2) cos φ.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ssmbio.mixers.nplr import BilinearNPLR, from_halves

_BLOCK = 2**22  # of the D · N · nodes terms of the sums, how many at a time: 32 MiB in float64


def kernel_by_cauchy_sums(system: BilinearNPLR, powers: list[Tensor], length: int) -> Tensor:
    """K_0 … K_{L-1}, (D, L), float64.

    Args:
        system: complex128.
        powers: `system.powers(nodes(length))`.
        length: L.
    """
    points = nodes(length)
    rank = system.P.shape[0]
    # 1. C̃ = C - C Ā^M, by the binary digits of M; C is a row that acts on [Re x, Im x].
    row = system.dense_output()[:, None]
    for k, power in enumerate(powers):
        if points >> k & 1:
            row = row @ power
    C = system.C - from_halves(row[:, 0]).conj() / 2
    # 2. All products of a row, C̃ or P*, with a column, B or P.
    rows = torch.cat([C[None], system.P.conj()])[:, None]
    columns = torch.cat([system.B[None], system.P])[None]
    products = (rows * columns).flatten(0, 1)
    # 3. The generating function, some nodes at a time.
    phi = torch.arange(points // 2 + 1, dtype=torch.float64, device=C.device) * (math.pi / points)
    size = max(1, _BLOCK // C.numel())
    arguments = [(system.dt, system.eigenvalues, products, part, rank) for part in phi.split(size)]
    if len(arguments) > 1 and torch.is_grad_enabled():
        spectrum = [checkpoint(_spectrum, *a, use_reentrant=False, preserve_rng_state=False) for a in arguments]
    else:
        spectrum = [_spectrum(*a) for a in arguments]
    return torch.fft.irfft(torch.cat(spectrum, dim=-1), points)[:, :length]


def nodes(length: int) -> int:
    """M: an even number from L on, at most an eighth above it, of small prime factors."""
    scale = 2 ** max(1, length.bit_length() - 4)
    return -(-length // scale) * scale


def _spectrum(dt: Tensor, eigenvalues: Tensor, products: Tensor, phi: Tensor, rank: int) -> Tensor:
    """K̂ at the nodes φ (J,), (D, J)."""
    half = dt[:, None] / 2
    S = cauchy_sums(products, half * eigenvalues, phi).unflatten(0, (rank + 1, rank + 1))
    h = half * phi.cos()
    found = S[0, 0]
    if rank == 1:
        found = found - h * S[0, 1] * S[1, 0] / (1 + h * S[1, 1])
    else:
        small = torch.eye(rank, dtype=h.dtype, device=h.device) + (h * S[1:, 1:]).permute(2, 3, 0, 1)
        solved = torch.linalg.solve_ex(small, S[1:, 0].permute(1, 2, 0)).result  # unchecked, as in `step_matrices`
        found = found - h * torch.einsum("sdj,djs->dj", S[0, 1:], solved)
    return half * torch.exp(1j * phi) * found


def cauchy_sums(products: Tensor, w: Tensor, phi: Tensor) -> Tensor:
    """S = Σ_n v_n / (z - w_n c) + v̄_n / (z - w̄_n c), with z = i sin φ and c = cos φ.

    The terms of a pair together are 2 (i s Re v - c Re(v w̄)) / (c²|w|² - s² - 2i s c Re w): two real matrices over
    (n, φ) that all products share, and real matrix products.

    Args:
        products: (K, D, N), v, complex128. w: (D, N), complex128. phi: (J,), float64.

    Returns:
        (K, D, J), complex128.
    """
    s, c = phi.sin(), phi.cos()
    real = (w.real.square() + w.imag.square())[..., None] * c.square() - s.square()
    imag = w.real[..., None] * (-2 * s * c)
    inverse = 1 / (real.square() + imag.square())
    terms = torch.cat([real * inverse, -imag * inverse], dim=-1)  # (D, N, 2J)
    weights = torch.cat([products.real, (products * w.conj()).real]).transpose(0, 1)  # (D, 2K, N)
    re, im = (weights @ terms).transpose(0, 1).unflatten(2, (2, -1)).unbind(2)  # (2K, D, J) each
    (re_v, re_w), (im_v, im_w) = re.chunk(2), im.chunk(2)
    return 2 * torch.complex(-s * im_v - c * re_w, s * re_v - c * im_w)
