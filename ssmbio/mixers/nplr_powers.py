"""The convolution kernel of a normal-plus-low-rank system from powers of Ā: K_{iT+j} = (C Ā^{iT}) (Ā^j B̄).

The same numbers as the Cauchy sums of `nplr_cauchy.py`, without a transform: about √L rows and √L columns, each found
by doubling, and one matrix product a channel. It does D L N multiplications as the sums do, as matrix products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmbio.mixers.nplr import BilinearNPLR


def kernel_by_powers(system: BilinearNPLR, powers: list[Tensor], length: int) -> Tensor:
    """K_0 … K_{L-1}, (D, L), float64; `powers` is `system.powers(most)` with most at least `length`."""
    digits = (length - 1).bit_length()
    half = digits // 2
    # 1. B̄, Ā B̄, … Ā^{T-1} B̄, T = 2^half: (D, 2N, T).
    columns = system.dense_input()[..., None]
    for power in powers[:half]:
        columns = torch.cat([columns, power @ columns], dim=-1)
    # 2. C, C Ā^T, C Ā^{2T}, … past the length: (D, ≥ L/T, 2N).
    rows = system.dense_output()[:, None]
    for power in powers[half:digits]:
        rows = torch.cat([rows, rows @ power], dim=1)
    count = -(-length // 2**half)
    return (rows[:, :count] @ columns).flatten(1)[:, :length]
