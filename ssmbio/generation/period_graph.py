"""Whole periods of the decoding loop as one CUDA graph: one launch in place of thousands.

A stage of a U-Net runs when its pool has filled, so positions differ in what they run, and repeat themselves after a
period. A graph therefore holds whole periods, with embeddings, steps, draws and likelihoods, and has fixed addresses
for the codes before, the uniform numbers, the states and the results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Decode = Callable[[Tensor, Any, Tensor], tuple[Tensor, Tensor, Any]]
"""Codes before (B,), the state, uniform numbers (B, n) → codes (B, n), bits (B, n) and the new state."""


class PeriodGraph:
    """`decode` over `count` positions, captured once and replayed, with the state kept here.

    Args:
        decode: the loop, of a prepared model on a CUDA device.
        previous, state: as `decode` takes them; examples of what `load` will be given.
        count: positions in the graph, whole periods.

    Attributes:
        stride: it runs so many positions, or a multiple of them.

    Raises:
        ValueError: after `count` positions the state has another structure than before them.
    """

    def __init__(self, decode: Decode, previous: Tensor, state: Any, count: int) -> None:
        self._decode, self.stride = decode, count
        self._previous, self._state = previous.clone(), own_tensors(state)
        self._uniforms = torch.zeros(len(previous), count, dtype=torch.float64, device=previous.device)
        with torch.no_grad():
            self._capture()

    def load(self, previous: Tensor, state: Any) -> None:
        """Go on from here; ValueError if the state is not of this structure."""
        fill(self._state, state)
        self._previous.copy_(previous)

    def unload(self) -> tuple[Tensor, Any]:
        """Copies of the last codes and the state before them."""
        return self._previous.clone(), own_tensors(self._state)

    def __call__(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """uniforms (B, n) → codes (B, n) int64 and their bits.

        If n is no multiple of the stride, it then stands past them, and can only be loaded anew.
        """
        made = []
        for part in uniforms.split(self.stride, 1):
            count = part.shape[1]
            self._uniforms[:, :count].copy_(part)
            self._graph.replay()
            made.append((self._codes[:, :count].clone(), self._bits[:, :count].clone()))
        codes, bits = zip(*made, strict=True)
        return torch.cat(codes, 1), torch.cat(bits, 1)

    def _run(self) -> tuple[Tensor, Tensor]:
        codes, bits, state = self._decode(self._previous, self._state, self._uniforms)
        kept, structure = pytree.tree_flatten(self._state)
        made, other = pytree.tree_flatten(state)
        if structure != other:
            raise ValueError(f"the state after these positions is not of the structure before them: {other}")
        # A new state may hold parts of the old one, which must not be overwritten before they are read.
        old = {leaf.untyped_storage().data_ptr() for leaf in kept}
        changed = [(buffer, leaf) for buffer, leaf in zip(kept, made, strict=True) if leaf is not buffer]
        made = [leaf.clone() if leaf.untyped_storage().data_ptr() in old else leaf for _, leaf in changed]
        if changed:
            torch._foreach_copy_([buffer for buffer, _ in changed], made)
        self._previous.copy_(codes[:, -1])
        return codes, bits

    def _capture(self) -> None:
        with torch.cuda.device(self._previous.device):
            # First runs compile kernels and allocate workspaces, which a capture cannot.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):
                    self._run()
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._codes, self._bits = self._run()


def own_tensors(state: Any, wide: bool = False) -> Any:
    """The state in contiguous tensors of its own; `wide` makes real ones float64 and complex ones complex128."""

    def own(leaf: Tensor) -> Tensor:
        dtype = leaf.dtype
        if wide and (dtype.is_floating_point or dtype.is_complex):
            dtype = torch.complex128 if dtype.is_complex else torch.float64
        return leaf.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)

    return pytree.tree_map(own, state)


def fill(buffers: Any, state: Any) -> None:
    """Copies a state, of as many rows or of one that all get, into buffers of the same structure.

    Raises:
        ValueError: the structures differ.
    """
    kept, structure = pytree.tree_flatten(buffers)
    given, other = pytree.tree_flatten(state)
    if structure != other:
        raise ValueError(f"the state must be of the structure {structure}; got {other}")
    for buffer, leaf in zip(kept, given, strict=True):
        buffer.copy_(leaf.expand(buffer.shape))
