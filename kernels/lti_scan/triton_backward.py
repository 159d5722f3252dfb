"""Backward pass of the time-invariant scan on tensor cores; `triton_plan.py` says how the work is cut.

With x̄ = ∂L/∂x, and the adjoint of the state p_t = Σ_(t'>=t) 2c a^(t'-t) ȳ_t' + a^(L-1-t) conj(h̄_(L-1)):

    ū_s = Σ_(t>=s) K_(t-s) ȳ_t = D ȳ_s + Re Σ_n b p_s     the same products as forward, from the end: `scan_tiles`;
    c̄ = conj(2 b X),  b̄ = conj(2 c X),  log ā = conj(2 b c Y),  D̄ = Σ ȳ u     X and Y of `triton_moments.py`,

so no state of a single position is ever made. Then the parts of the final state's gradient (`triton_carry.py`) and of
the initial state: in closed form, for they are one number a sequence, channel and pair.

1. `make_tables`, `stage` of u and dy.       4. `carry_adjoints`: row after row from the last; also sums over rows.
2. `row_ends` of dy, from the ends.          5. `scan_tiles`: du takes the place of dy in the tiles.
3. `moments`: sums over u and dy.            6. `unstage` of du; `parameter_gradients`: partial sums to gradients.

Counts at B1 D256 L2^20 N32 in bfloat16: 1 and 6 move 3.2 GB, 2 reads 0.54, 3 reads 1.07, 5 moves 1.07: 5.9 GB, 1.4 ms
at 4.2 TB/s. Products, multiply-adds an element: 2: 128; 3: 2 × 256 and 64; 5: 448: 1152 in all, 0.62 TFLOP, 0.65 ms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmbio.kernels.lti_scan.triton_carry import carry_adjoints
from ssmbio.kernels.lti_scan.triton_forward import decay_over
from ssmbio.kernels.lti_scan.triton_heads import first_row_moments
from ssmbio.kernels.lti_scan.triton_moments import moments, parameter_gradients
from ssmbio.kernels.lti_scan.triton_plan import find_places, first_row_lengths, make_plan
from ssmbio.kernels.lti_scan.triton_rows import row_ends
from ssmbio.kernels.lti_scan.triton_scan import scan_tiles
from ssmbio.kernels.lti_scan.triton_staging import stage, tile_dtype, unstage
from ssmbio.kernels.lti_scan.triton_tables import make_tables


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
) -> tuple[Tensor | None, ...]:
    """Gradients (du, dlog_a, db, dc, dD, d_initial_state), None where the input is None."""
    sequences = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    batch, length, channels = u.shape
    plan = make_plan(batch, length, channels, log_a.shape[1], sequences)
    places = find_places(cu_seqlens, plan)
    steps = plan.steps(tile_dtype(u.dtype))
    taps, powers, decays = make_tables(log_a, b, c, D, plan, steps)
    bare = torch.view_as_real(checkpoints)  # the bytes of real parts, then imaginary parts, of each tile
    adjoint_of_final = None if d_final_state is None else d_final_state.conj_physical()
    has_state = initial_state is not None

    x, g = (stage(tensor, plan, places, reverse, steps) for tensor in (u, dy))
    sums, lags, slopes, finals = moments(g, x, bare, powers, plan, with_finals=d_final_state is not None)
    del x
    # A lone first row passes nothing on that this walk needs.
    ends = [slopes]
    if plan.packed or plan.rows_of_each > 1:
        ends = row_ends(g, powers, plan, backwards=True, moment=has_state)
    entering, row_sums, edges = carry_adjoints(
        ends, slopes, finals, adjoint_of_final, decays, c, plan, places, with_edges=has_state
    )
    d_initial = None
    if has_state:
        lengths, sizes = first_row_lengths(cu_seqlens, plan, u.device)
        head = first_row_moments(g, sizes, powers, plan, places)
    g = scan_tiles(g, entering, taps, powers, b, c, plan, backwards=True)
    du = unstage(g, u, plan, places, reverse, steps)
    dlog_a, db, dc, dD = parameter_gradients(sums, lags, row_sums, powers, b, c, D is not None, plan)

    if edges is not None and initial_state is not None:
        decay, size = decay_over(log_a, sizes), sizes[:, None, None]
        adjoint = head[0] + decay * edges[..., 0]
        slope = head[1] + decay * (edges[..., 1] + size * edges[..., 0])
        of_final = decay * edges[..., 2]
        d_initial = (2 * c * adjoint + of_final).conj_physical()
        dc += (2 * initial_state * adjoint).sum(0).conj_physical()
        dlog_a += (initial_state * (2 * c * slope + lengths[:, None, None] * of_final)).sum(0).conj_physical()
    return du, dlog_a, db, dc, dD, d_initial
