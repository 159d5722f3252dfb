"""The matrices of a chunk of T steps, shared by all chunks and rows, and what their gradients mean for the system.

With p_k = exp(k log_a), a chunk that is entered by the state E (before its first step) and reads u has, i, j < T:

    y_j    = Σ_{i≤j} K_{j−i} u_i + Re Σ_n W_{n,j} E_n       K_k = 2 Re Σ_n c_n b_n p_{n,k} (+ D at k = 0)
    leaves = p_T E + Σ_i V_i u_i                           W_j = 2 c p_{j+1},  V_i = b p_{T−1−i}

States are handled as 2 N real numbers, (Re, Im) of each, so every product is one of real matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssmbio.kernels.lti_scan.powers import powers


@dataclass(frozen=True)
class Operators:
    """The matrices of some channels; see the top of this file."""

    b: Tensor  # (D, N)
    c: Tensor
    p: Tensor  # (D, T + 1, N)
    toeplitz: Tensor  # (D, T, T): u_i to y_j
    reading: Tensor  # V, (D, T, 2N): u_i to the state that leaves
    writing: Tensor  # W, (D, 2N, T): the state that enters to y_j

    @classmethod
    def of(cls, log_a: Tensor, b: Tensor, c: Tensor, D: Tensor | None, steps: int) -> Operators:
        p = powers(log_a, steps + 1)
        # As rows (Re, −Im), for these meet (Re, Im) to give the real part of a product.
        mixing = as_reals((2 * b * c).conj_physical()).unsqueeze(2)
        K = torch.bmm(as_reals(p[:, :steps]), mixing).squeeze(2)
        if D is not None:
            K[:, 0] += D
        reading = as_reals(b.unsqueeze(1) * p[:, :steps].flip(1))
        writing = as_reals((2 * c.unsqueeze(1) * p[:, 1:]).conj_physical_())
        return cls(b, c, p, _toeplitz(K), reading, writing.transpose(1, 2))

    def gradients(self, d_toeplitz: Tensor, d_reading: Tensor, d_writing: Tensor) -> tuple[Tensor, ...]:
        """The gradients of log_a, b, c (D, N) and D (D,) from those of the matrices."""
        b, c, p = (states.conj_physical() for states in (self.b, self.c, self.p))
        early, late = p[:, :-1], p[:, 1:]
        k = torch.arange(p.shape[1], device=p.device, dtype=d_toeplitz.dtype)
        weights = torch.stack([torch.ones_like(k), k])  # sums over k come plain, and times k for log_a
        d_K = _diagonal_sums(d_toeplitz)
        plain, timed = as_states(torch.bmm(d_K.unsqueeze(1) * weights[:, :-1], as_reals(early))).mul_(2).unbind(1)
        d_log_a, d_b, d_c = b * c * timed, c * plain, b * plain
        through_V = early * as_states(d_reading.flip(1))
        plain, timed = as_states(torch.matmul(weights[:, :-1], as_reals(through_V))).unbind(1)
        d_log_a, d_b = d_log_a + b * timed, d_b + plain
        through_W = late * as_states(d_writing.transpose(1, 2).contiguous()).conj_physical()
        plain, timed = as_states(torch.matmul(weights[:, 1:], as_reals(through_W))).mul_(2).unbind(1)
        return d_log_a + c * timed, d_b, d_c + plain, d_K[:, 0]


def as_states(reals: Tensor) -> Tensor:
    """(…, 2N) real to (…, N) complex, the same memory."""
    return torch.view_as_complex(reals.unflatten(-1, (-1, 2)))


def as_reals(states: Tensor) -> Tensor:
    """The inverse of `as_states`."""
    return torch.view_as_real(states).flatten(-2)


# In rows of 2T numbers, the second half zero or not read, the diagonal j − i = k has the places i (2T + 1) + k.


def _diagonals(rows: Tensor) -> Tensor:
    """(D, T, 2T) to its (D, T, T) view by rows i and diagonals k."""
    channels, steps, width = rows.shape
    return rows.as_strided((channels, steps, steps), (steps * width, width + 1, 1))


def _toeplitz(K: Tensor) -> Tensor:
    """(D, T) to (D, T, T) with K_{j−i} at i, j: upper triangular."""
    channels, steps = K.shape
    rows = K.new_zeros(channels, steps, 2 * steps)
    _diagonals(rows).copy_(K.unsqueeze(1))
    return rows[..., :steps]


def _diagonal_sums(matrices: Tensor) -> Tensor:
    """(D, T, T) to (D, T): the sums of the diagonals j − i = k ≥ 0."""
    steps = matrices.shape[1]
    rows = matrices.new_zeros(matrices.shape[0], steps, 2 * steps)
    rows[..., :steps] = matrices
    return _diagonals(rows).sum(1)
