"""The time-invariant scan as one long convolution by fast Fourier transforms: what others do, kept for comparison.

    K_l = 2 Re Σ_n c_n b_n a_n^l,   y = K ∗ u + D u,   a = exp(log_a)

An initial state adds 2 Re Σ_n c_n a_n^{l+1} h_n to the outputs, and the final state is a^L h + b Σ_l a^{L−1−l} u_l. All
three, and every gradient, are sums against the powers a^l, which `_Powers` takes as a table of some √L by √L. Memory
and time are those of the transforms, so `torch_chunked.py` is the path to use.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmbio.kernels.fft_convolution.transforms import channel_blocks, convolve, correlate, points, time_last
from ssmbio.kernels.lti_scan.powers import powers
from ssmbio.kernels.lti_scan.torch_operators import as_reals, as_states


def checkpoints_shape(batch: int, length: int, channels: int, pairs: int, sequences: int) -> tuple[int, ...]:
    """Nothing is kept."""
    return (0,)


def forward(
    u: Tensor,
    log_a: Tensor,
    b: Tensor,
    c: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, L, D), the final state (B, D, N), and no checkpoints; `cu_seqlens` is None."""
    length = u.shape[1]
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    final_state = log_a.new_empty(u.shape[0], *log_a.shape)
    n = points(2 * length - 1)
    for ch in channel_blocks(u, n):
        a = _Powers(log_a[ch], length)
        x = _in_order(u[..., ch], reverse)
        out = convolve(x, _kernel(a, b[ch], c[ch], D, ch), n)
        final = b[ch] * a.gather(x.flip(2))
        if initial_state is not None:
            given = initial_state[:, ch]
            out = out + a.spread(2 * c[ch] * a.power(1) * given)
            final = final + a.power(length) * given
        final_state[:, ch] = final
        _store(out, y[..., ch], reverse)
    return y, final_state, log_a.new_empty(0)


def backward(
    dy: Tensor,
    d_final_state: Tensor | None,
    checkpoints: Tensor,
    u: Tensor,
    log_a: Tensor,
    b: Tensor,
    c: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """The gradients of u, log_a, b, c, D and initial_state, None for what is None."""
    length = u.shape[1]
    du = torch.empty_like(u, memory_format=torch.contiguous_format)
    d_log_a, db, dc = (torch.empty_like(log_a) for _ in range(3))
    dD = None if D is None else torch.empty_like(D)
    d_given = None if initial_state is None else torch.empty_like(initial_state)
    n = points(2 * length - 1)
    l = torch.arange(length, device=u.device, dtype=log_a.real.dtype)
    for ch in channel_blocks(u, n):
        a, b_, c_ = _Powers(log_a[ch], length), b[ch], c[ch]
        x, d = _in_order(u[..., ch], reverse), _in_order(dy[..., ch], reverse)
        # 1. The convolution: K_l = Re(2 b c a^l), whose derivative by log_a has the factor l.
        dx, dK = correlate(d, x, _kernel(a, b_, c_, D, ch), n)
        if dD is not None:
            dD[ch] = dK[:, 0]
        plain, timed = 2 * a.gather(torch.stack([dK, l * dK])).conj_physical()
        d_log_a[ch] = (b_ * c_).conj_physical() * timed
        db[ch], dc[ch] = c_.conj_physical() * plain, b_.conj_physical() * plain
        # 2. What the initial state adds to the outputs.
        if d_given is not None and initial_state is not None:
            given = initial_state[:, ch]
            d_out = 2 * a.gather(d).conj_physical()
            d_given[:, ch] = (c_ * a.power(1)).conj_physical() * d_out
            dc[ch] += ((a.power(1) * given).conj_physical() * d_out).sum(0)
            timed = 2 * a.gather((l + 1) * d).conj_physical()
            d_log_a[ch] += ((c_ * a.power(1) * given).conj_physical() * timed).sum(0)
        # 3. The final state.
        if d_final_state is not None:
            d_final, backwards = d_final_state[:, ch], x.flip(2)
            dx = dx + a.spread(b_ * d_final.conj_physical()).flip(2)
            db[ch] += (a.gather(backwards).conj_physical() * d_final).sum(0)
            d_log_a[ch] += ((b_ * a.gather(l * backwards)).conj_physical() * d_final).sum(0)
            if d_given is not None and initial_state is not None:
                kept = a.power(length).conj_physical() * d_final
                d_given[:, ch] += kept
                d_log_a[ch] += length * (initial_state[:, ch].conj_physical() * kept).sum(0)
        _store(dx, du[..., ch], reverse)
    return du, d_log_a, db, dc, dD, d_given


class _Powers:
    """a^l for l < L, as a^{iS} a^j with j < S."""

    def __init__(self, log_a: Tensor, length: int) -> None:
        self._log_a, self._length = log_a, length
        self._fine = math.isqrt(length - 1) + 1  # S
        self._blocks = -(-length // self._fine)
        self._coarse = powers(log_a, self._blocks, self._fine)  # (D, I, N)
        self._table = as_reals(powers(log_a, self._fine))  # (D, S, 2N)

    def power(self, l: int) -> Tensor:
        """(D, N)"""
        return torch.exp(l * self._log_a.to(torch.complex128)).to(self._log_a.dtype)

    def spread(self, states: Tensor) -> Tensor:
        """Re Σ_n states_n a_n^l: (R, D, N) to (R, D, L)."""
        starts = (states.transpose(0, 1).unsqueeze(2) * self._coarse.unsqueeze(1)).conj_physical()  # (D, R, I, N)
        rows = torch.bmm(as_reals(starts).flatten(1, 2), self._table.transpose(1, 2))
        return rows.view(len(rows), len(states), -1)[..., : self._length].transpose(0, 1)

    def gather(self, rows: Tensor) -> Tensor:
        """Σ_l rows_l a^l: (R, D, L) to (R, D, N)."""
        filled = F.pad(rows, (0, self._blocks * self._fine - self._length)).transpose(0, 1)  # (D, R, I · S)
        sums = torch.bmm(filled.reshape(len(filled), -1, self._fine), self._table)
        by_block = as_states(sums).view(len(filled), len(rows), self._blocks, -1)
        return (by_block * self._coarse.unsqueeze(1)).sum(2).transpose(0, 1)


def _kernel(a: _Powers, b: Tensor, c: Tensor, D: Tensor | None, ch: slice) -> Tensor:
    """K (D, L), with the skip at its first tap."""
    K = a.spread(2 * (b * c).unsqueeze(0))[0]
    if D is not None:
        K[:, 0] += D[ch]
    return K


def _in_order(rows: Tensor, reverse: bool) -> Tensor:
    """(B, L, D) to (B, D, L) in the order of the scan."""
    rows = time_last(rows)
    return rows.flip(2) if reverse else rows


def _store(values: Tensor, rows: Tensor, reverse: bool) -> None:
    rows.copy_((values.flip(2) if reverse else values).transpose(1, 2))
