"""HiPPO transitions and their normal-plus-low-rank forms, in float64.

A state-space model x' = A x + B u with one of these keeps a compressed history of u in x:

    legs     Legendre polynomials over the whole past, time on a logarithmic scale
    legt     Legendre polynomials over a sliding window of length 2
    lagt     Laguerre functions: the past, weighted exponentially
    fourier  a Fourier basis over a sliding window of length 2

Each is A = S - P Pᵀ with S normal (a multiple of the identity plus a skew matrix) and P of rank 1, legt of rank 2.
Sources: Gu et al., "HiPPO" (arXiv 2008.07669), appendices D.1 to D.3; "S4" (arXiv 2111.00396), theorem 1 and appendix
C.1; "How to Train Your HiPPO" (arXiv 2206.12037), section 4 (fourier).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Transition(NamedTuple):
    """A (N, N), B (N,) and P (R, N), float64, with A + Σ_r P_r P_rᵀ normal."""

    A: Tensor
    B: Tensor
    P: Tensor


class NormalPlusLowRank(NamedTuple):
    """One of each conjugate pair of the form A = U (Λ - P P*) U*, complex128.

    eigenvalues: (N/2,), imaginary parts not negative, ascending. P: (R, N/2). B: (N/2,), real and not negative.
    basis: V (N, N/2), half of the columns of U = [V, V̄].
    """

    eigenvalues: Tensor
    P: Tensor
    B: Tensor
    basis: Tensor


def _legs(n: int) -> Transition:
    k = torch.arange(n, dtype=torch.float64)
    root = torch.sqrt(2 * k + 1)
    A = -torch.tril(root[:, None] * root, -1) - torch.diag(k + 1)
    return Transition(A, root, torch.sqrt(k + 0.5)[None])


def _legt(n: int) -> Transition:
    k = torch.arange(n)
    root = torch.sqrt(2.0 * k.double() + 1)
    sign = 1.0 - 2.0 * ((k[:, None] - k) % 2).double()
    A = -0.5 * root[:, None] * root * torch.where(k[:, None] >= k, torch.ones_like(sign), sign)
    even = (k % 2 == 0).double()
    return Transition(A, 0.5 * root, torch.stack([root * (1 - even), root * even]) * math.sqrt(0.5))


def _lagt(n: int) -> Transition:
    one = torch.ones(n, dtype=torch.float64)
    A = -torch.tril(torch.ones(n, n, dtype=torch.float64), -1) - 0.5 * torch.diag(one)
    return Transition(A, one, math.sqrt(0.5) * one[None])


def _fourier(n: int) -> Transition:
    turn = torch.zeros(n - 1, dtype=torch.float64)
    turn[::2] = math.pi * torch.arange(n // 2, dtype=torch.float64)  # states 2k, 2k + 1 turn at πk
    B = torch.zeros(n, dtype=torch.float64)
    B[::2] = math.sqrt(2)
    B[0] = 1
    return Transition(torch.diag(turn, -1) - torch.diag(turn, 1) - B[:, None] * B, B, B[None])


_TRANSITIONS: dict[str, Callable[[int], Transition]] = {
    "legs": _legs,
    "legt": _legt,
    "lagt": _lagt,
    "fourier": _fourier,
}
HIPPO_NAMES = tuple(_TRANSITIONS)


def hippo(name: str, n: int) -> Transition:
    """The transition `name` (legs, legt, lagt or fourier) of N = `n` states, an even number."""
    if name not in _TRANSITIONS:
        raise ValueError(f"the HiPPO transition must be one of {', '.join(HIPPO_NAMES)}; got {name!r}")
    if n < 2 or n % 2:
        raise ValueError(f"a HiPPO transition must have an even number of states, 2 at least; got {n}")
    return _TRANSITIONS[name](n)


def normal_plus_low_rank(name: str, n: int) -> NormalPlusLowRank:
    """Diagonalize the normal part of `hippo(name, n)`; keep one of each pair of conjugate eigenvectors.

    The skew part goes through a Hermitian eigensolver, so U is unitary to rounding. Each eigenvector's phase is chosen
    so that B is real: what a solver happens to return has no influence.
    """
    A, B, P = hippo(name, n)
    normal = A + P.T @ P
    frequencies, vectors = torch.linalg.eigh(-1j * (normal - normal.T) / 2)  # ascending, symmetric about 0
    frequencies, V = frequencies[n // 2 :], vectors[:, n // 2 :]
    if frequencies[0].abs() < 1e-9 * max(1.0, float(frequencies[-1])):
        # A pair of zeros: its space is real, and the solver's vectors in it need not be conjugates of each other.
        pair = vectors[:, n // 2 - 1 : n // 2 + 1]
        _, real = torch.linalg.eigh((pair @ pair.mH).real)
        V = torch.cat([((real[:, -2] + 1j * real[:, -1]) * math.sqrt(0.5))[:, None], V[:, 1:]], dim=1)
        frequencies = torch.cat([torch.zeros_like(frequencies[:1]), frequencies[1:]])
    along_B = V.mH @ B.to(V.dtype)
    V = V * (along_B / along_B.abs())
    eigenvalues = torch.complex(normal.diagonal().mean().expand(n // 2), frequencies)
    return NormalPlusLowRank(eigenvalues, P.to(V.dtype) @ V.conj(), along_B.abs().to(V.dtype), V)
