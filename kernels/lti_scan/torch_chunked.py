"""The time-invariant scan in plain torch, in chunks of T steps: matrix products and a short walk.

Because the system does not change, all chunks of all rows share the same matrices (see `torch_operators.py`):

1. what each chunk alone adds to the state: u times (T, 2N);
2. the walk over the chunks (`torch_walk.py`): the state that enters each, (D, M, N), which is all the states there are;
3. outputs: u times the (T, T) Toeplitz matrix, plus the entering states times (2N, T).

The backward pass keeps nothing but the inputs. It repeats steps 1 and 2, walks the adjoints from the last chunk to the
first, and gets the gradients of the matrices as sums over all chunks; those of log_a, b and c follow from these alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ssmbio.kernels.lti_scan.powers import powers
from ssmbio.kernels.lti_scan.torch_layout import Layout
from ssmbio.kernels.lti_scan.torch_operators import Operators, as_reals, as_states
from ssmbio.kernels.lti_scan.torch_walk import walk

_BLOCK = 2**20  # numbers of u worked on at a time: B · L · channels


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
    """y (B, L, D), the final state (B or S, D, N), and no checkpoints."""
    layout = Layout.of(u, cu_seqlens, reverse)
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    final_state = log_a.new_empty(len(layout.rests), *log_a.shape)
    for ch in _channel_blocks(u):
        system = Operators.of(log_a[ch], b[ch], c[ch], None if D is None else D[ch], layout.steps)
        x = layout.load(u[..., ch], log_a.real.dtype)
        enter = _entering(x, system, _decays(log_a[ch], layout), layout, initial_state, ch)
        out = torch.bmm(as_reals(enter), system.writing)
        layout.store(out.baddbmm_(x[:, 1:], system.toeplitz), y[..., ch])
        carried = enter[:, layout.lasts] * system.p[:, layout.rests]
        added = as_states(torch.bmm(layout.tails(x[:, 1:]), system.reading))
        final_state[:, ch] = carried.add_(added).transpose(0, 1)
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
    layout = Layout.of(u, cu_seqlens, reverse)
    du = torch.empty_like(u, memory_format=torch.contiguous_format)
    d_log_a, db, dc = (torch.empty_like(log_a) for _ in range(3))
    dD = None if D is None else torch.empty_like(D)
    d_given = None if initial_state is None else torch.empty_like(initial_state)
    for ch in _channel_blocks(u):
        system = Operators.of(log_a[ch], b[ch], c[ch], None if D is None else D[ch], layout.steps)
        decays = _decays(log_a[ch], layout)
        x, d = (layout.load(rows[..., ch], log_a.real.dtype) for rows in (u, dy))
        enter = _entering(x, system, decays, layout, initial_state, ch)
        # 1. The adjoints of the entering states: from outputs, from final states, then from the chunks after.
        adjoint = as_states(torch.bmm(d[:, 1:], system.writing.transpose(1, 2)))
        if d_final_state is not None:
            d_final = d_final_state[:, ch].transpose(0, 1).contiguous()
            remaining = system.p[:, layout.rests]
            adjoint[:, layout.lasts] += d_final * remaining.conj_physical()
        walk(adjoint, decays.conj_physical(), layout.cuts, descending=True)
        if d_given is not None:
            d_given[:, ch] = adjoint[:, layout.firsts].transpose(0, 1)
        # 2. Now it is the adjoint of what leaves the chunk before, if that belongs to the same sequence.
        adjoint[:, layout.firsts] = 0
        left = as_reals(adjoint)
        dx = torch.bmm(d, system.toeplitz.transpose(1, 2))
        dx[:, :-1] += torch.bmm(left, system.reading.transpose(1, 2))
        d_reading = torch.bmm(x[:, :-1].transpose(1, 2), left)
        d_writing = torch.bmm(as_reals(enter).transpose(1, 2), d[:, 1:])
        d_toeplitz = torch.bmm(x.transpose(1, 2), d)
        if d_final_state is not None:
            windows = torch.bmm(as_reals(d_final), system.reading.transpose(1, 2))
            layout.add_tails(windows, dx)
            d_reading.baddbmm_(layout.tails(x[:, 1:]).transpose(1, 2), as_reals(d_final))
        layout.store(dx[:, 1:], du[..., ch])
        d_log_a[ch], db[ch], dc[ch], d_D = system.gradients(d_toeplitz, d_reading, d_writing)
        # 3. The decays of states over whole chunks, and over the last ones.
        passed = (adjoint[:, 1:] * enter[:, :-1].conj_physical()).sum(1)
        d_log_a[ch] += layout.steps * system.p[:, -1].conj_physical() * passed
        if d_final_state is not None:
            kept = d_final * (remaining * enter[:, layout.lasts]).conj_physical()
            d_log_a[ch] += (layout.rests.unsqueeze(1) * kept).sum(1)
        if dD is not None:
            dD[ch] = d_D
    return du, d_log_a, db, dc, dD, d_given


def _entering(
    x: Tensor, system: Operators, decays: Tensor, layout: Layout, initial_state: Tensor | None, ch: slice
) -> Tensor:
    """The states that enter the chunks, (D, M, N), of the inputs (D, 1 + M, T)."""
    enter = as_states(torch.bmm(x[:, :-1], system.reading))
    enter[:, layout.firsts] = 0 if initial_state is None else initial_state[:, ch].transpose(0, 1)
    walk(enter, decays, layout.cuts)
    return enter


def _decays(log_a: Tensor, layout: Layout) -> Tensor:
    """Over 1 to J chunks: (D, J, N)."""
    return powers(log_a, layout.groups[1] + 1, layout.steps)[:, 1:]


def _channel_blocks(u: Tensor) -> Iterator[slice]:
    size = max(16, _BLOCK // (u.shape[0] * u.shape[1]))
    for first in range(0, u.shape[2], size):
        yield slice(first, min(first + size, u.shape[2]))
