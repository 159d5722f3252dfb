"""Powers of the state's decay, as exact as float64 holds them.

Between positions lies exp(log_a), and over k of them exp(k log_a). Rounded to float32 and multiplied k times, its phase
would be off by k roundings; here k log_a is a sum of exact multiples 2^i log_a, whose exponentials are multiplied in
complex128. So a table's entry is exact to about log2(k) roundings of float64 before it is rounded once to float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# What has decayed so far adds nothing to a sum, and arithmetic on numbers that underflow is a hundred times slower.
_FORGOTTEN = 1e-30


def powers(log_a: Tensor, count: int, stride: int = 1) -> Tensor:
    """exp(k · stride · log_a) for k < count: (D, N) complex to (D, count, N) in its dtype, zero where below 1e-30."""
    exponent = log_a.to(torch.complex128) * stride
    table = torch.ones_like(exponent).unsqueeze(1)
    while table.shape[1] < count:
        size = table.shape[1]
        leap = _without_the_forgotten(torch.exp(size * exponent)).unsqueeze(1)
        table = torch.cat([table, table[:, : count - size] * leap], dim=1)
    return _without_the_forgotten(table.to(log_a.dtype))


def _without_the_forgotten(states: Tensor) -> Tensor:
    return torch.view_as_complex(F.hardshrink(torch.view_as_real(states), _FORGOTTEN))
