"""Forward pass of the time-invariant scan on tensor cores; `triton_plan.py` says how the work is cut.

1. `make_tables`: powers of a and the first taps of the kernel K_k = 2 Re Σ_n c b a^k (and D).
2. `stage`: u into tiles, positions side by side.
3. `row_ends`: every row from a zero state; its last state, for b = 1.
4. `carry_states`: row after row, the state that enters each; the final states.
5. `scan_tiles`: every row from the state that enters it; y takes the place of u in the tiles.
6. `unstage`: y from its tiles.

Counts at B1 D256 L2^20 N32 in bfloat16 (T = 64): u and y 0.54 GB each; 2 and 6 move 1.07 GB each, 3 reads 0.54, 5
moves 1.07: 3.8 GB, 0.9 ms at 4.2 TB/s. Products, multiply-adds an element: 3: 2 terms × 64; 5: 2 × 64 (Toeplitz),
2 × 64 (into the state), 3 × 64 (out of it); 576 in all, 0.31 TFLOP, 0.33 ms at Hopper's rate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmbio.kernels.lti_scan.triton_carry import carry_states
from ssmbio.kernels.lti_scan.triton_heads import add_initial_outputs
from ssmbio.kernels.lti_scan.triton_plan import checkpoints_shape, find_places, first_row_lengths, make_plan
from ssmbio.kernels.lti_scan.triton_rows import row_ends
from ssmbio.kernels.lti_scan.triton_scan import scan_tiles
from ssmbio.kernels.lti_scan.triton_staging import stage, tile_dtype, unstage
from ssmbio.kernels.lti_scan.triton_tables import make_tables


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
    """y (B, L, D), the final state (B or S, D, N), and the states that enter the rows, for the backward pass."""
    sequences = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    batch, length, channels = u.shape
    plan = make_plan(batch, length, channels, log_a.shape[1], sequences)
    places = find_places(cu_seqlens, plan)
    steps = plan.steps(tile_dtype(u.dtype))
    taps, powers, decays = make_tables(log_a, b, c, D, plan, steps)

    tiles = stage(u, plan, places, reverse, steps)
    (ends,) = row_ends(tiles, powers, plan, backwards=False)
    passed = None
    if initial_state is not None:
        _, sizes = first_row_lengths(cu_seqlens, plan, u.device)
        passed = initial_state * decay_over(log_a, sizes)
    entering, bare, final_state = carry_states(ends, decays, b, passed, plan, places)
    tiles = scan_tiles(tiles, entering, taps, powers, b, c, plan, backwards=False)
    if initial_state is not None:
        add_initial_outputs(tiles, initial_state, sizes, powers, c, plan, places)
    y = unstage(tiles, u, plan, places, reverse, steps)
    shape = checkpoints_shape(batch, length, channels, log_a.shape[1], sequences)
    return y, final_state, bare.view(torch.complex64).view(shape)


def decay_over(log_a: Tensor, lengths: Tensor) -> Tensor:
    """a^length (S, D, N) complex64, in float64 for the sake of the phase."""
    return torch.exp(log_a.to(torch.complex128) * lengths[:, None, None]).to(torch.complex64)
