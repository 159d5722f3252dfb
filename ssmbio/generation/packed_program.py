"""A model as a list of operations on places in two stretches of float32: what `packed_step.c` runs.

A vector takes whole lanes of 16 floats, the rest of them zero; what a layer keeps for each channel is laid out lane by
lane, so that the inner loops run over channels and never add across them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 16
KINDS = (
    *("embed", "layer_norm", "rms_norm", "linear", "gelu", "glu", "add", "copy", "gather", "pending"),
    *("diagonal", "low_rank", "convolution", "selective", "draw"),
)  # fmt: skip
_FIELDS = ("kind", "every", "in", "out", "n", "m", "weights", "state", "pool")
OP = np.dtype([(name, np.int64) for name in _FIELDS])


def whole_lanes(n: int) -> int:
    return -(-n // LANES) * LANES


def padded(x: Tensor) -> Tensor:
    """(…, n) → (…, whole lanes)."""
    return F.pad(x, (0, whole_lanes(x.shape[-1]) - x.shape[-1]))


def by_lanes(x: Tensor) -> Tensor:
    """(…, D, K) → (…, D / 16, K, 16)."""
    return padded(x.mT).unflatten(-1, (-1, LANES)).movedim(-3, -2)


def parts(x: Tensor) -> Tensor:
    """(…, K) complex → (…, 2K), each number's real part and then its imaginary part."""
    return torch.view_as_real(x.resolve_conj()).flatten(-2)


class Program:
    """Operations, the weights they read, and the places they use in the arena of a clip."""

    def __init__(self) -> None:
        self.size = 0
        """Floats in the arena of one clip."""
        self.loads: list[tuple[int, Callable[[Any], Tensor]]] = []
        """Where a state goes, and what of the model's state, (B, floats), goes there."""
        self._ops: list[tuple[int, ...]] = []
        self._weights: list[Tensor] = []
        self._weight_count = 0

    def place(self, floats: int) -> int:
        """A new place of so many floats in the arena, zero at the start."""
        start = self.size
        self.size += whole_lanes(floats)
        return start

    def state(self, floats: int, take: Callable[[Any], Tensor]) -> int:
        """A place that starts with `take(state of the model)`, (B, …)."""
        start = self.place(floats)
        self.loads.append((start, lambda state: take(state).flatten(1)))
        return start

    def weights(self, *tensors: Tensor) -> int:
        """A place for these tensors, one after another."""
        start = self._weight_count
        for tensor in tensors:
            flat = padded(tensor.detach().float().flatten())
            self._weights.append(flat)
            self._weight_count += len(flat)
        return start

    def add(
        self,
        kind: str,
        every: int,
        source: int = 0,
        out: int = 0,
        n: int = 0,
        m: int = 0,
        weights: int = 0,
        state: int = 0,
        pool: int = 0,
    ) -> int:
        """An operation at every `every`-th position; returns `out`."""
        self._ops.append((KINDS.index(kind), every, source, out, n, m, weights, state, pool))
        return out

    def linear(
        self, every: int, source: int, weight: Tensor, bias: Tensor | None = None, out: int | None = None
    ) -> int:
        """weight (n, m), n in whole lanes, times the m floats at `source`."""
        n, m = weight.shape
        bias = weight.new_zeros(n) if bias is None else bias
        out = self.place(n) if out is None else out
        return self.add("linear", every, source, out, n, m, self.weights(weight.mT, bias))

    def finished(self) -> tuple[np.ndarray, np.ndarray]:
        """The operations, and all weights."""
        return np.array(self._ops, dtype=OP), torch.cat(self._weights).numpy()
