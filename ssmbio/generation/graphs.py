"""One position of a causal module as a CUDA graph: one launch a token in place of dozens.

A step is a chain of kernels of a few microseconds, so on a GPU it is Python and launches that take the time. A graph
replays them with fixed addresses: the input, the output and the states live in buffers that every call reuses.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ssmbio.backbones import Stack
from ssmbio.mixers import Mixer


class GraphedStep:
    """`module.step` with the state kept here: `y = step(x)` position by position.

    On a CUDA device the step is captured once, at construction, and replayed by every call; elsewhere it just runs,
    with the same meaning. No gradients are recorded. The weights are read where they lie: values changed in place
    count from the next call on (not with `dtype`, which takes a copy), weights that are replaced do not.

    Args:
        module: a causal mixer or a stack of them, in the mode (training or evaluation) it is to run in.
        batch_size: B, sequences decoded side by side.
        dtype: bfloat16 or float16 to compute as under autocast, on a copy whose linear layers are cast once, not at
            every position; states and other parameters stay as they are. None: as the module is.

    Attributes:
        x: (B, D), the input's buffer. Whoever writes there calls `advance()` and saves the copy.
        y: (B, D), the output's buffer, overwritten by every call.

    Raises:
        RuntimeError: the module is bidirectional and has no steps.
    """

    def __init__(self, module: Mixer | Stack, batch_size: int, dtype: torch.dtype | None = None) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if getattr(module, "period", 1) != 1:
            raise ValueError(f"steps of {type(module).__name__} differ over {module.period} positions: use PeriodGraph")
        self._module = module if dtype is None else _with_cast_layers(module, dtype)
        self._dtype = dtype
        self._batch_size = batch_size
        parameter = next(module.parameters())
        self.x = torch.zeros(batch_size, module.d_model, dtype=parameter.dtype, device=parameter.device)
        self._state = self._initial_state()
        self._graph: torch.cuda.CUDAGraph | None = None
        if self.x.is_cuda:
            with torch.cuda.device(self.x.device):
                self._capture()
        else:
            self.y = self._step()
        self.reset()

    def __call__(self, x: Tensor) -> Tensor:
        """x (B, D), the input of the next position → y (B, D), which the next call overwrites."""
        self.x.copy_(x)
        return self.advance()

    def advance(self) -> Tensor:
        """The next position with what stands in `x`."""
        if self._graph is None:
            self.y.copy_(self._step())
        else:
            self._graph.replay()
        return self.y

    def reset(self, state: Any = None) -> None:
        """Back to before the first position, or to `state`: of an earlier forward pass over a prefix, say.

        Raises:
            ValueError: the state's structure or shapes are not those of this module and batch.
        """
        state = self._initial_state() if state is None else state
        given, structure = pytree.tree_flatten(state)
        kept, own_structure = pytree.tree_flatten(self._state)
        shapes, own_shapes = ([tuple(leaf.shape) for leaf in leaves] for leaves in (given, kept))
        if structure != own_structure or shapes != own_shapes:
            raise ValueError(f"state must hold tensors of shapes {own_shapes}; got {shapes}")
        for buffer, leaf in zip(kept, given, strict=True):
            buffer.copy_(leaf.detach())

    @property
    def state(self) -> Any:
        """A copy of the state after the last position, as `module.step` and `module.forward` take it."""
        return pytree.tree_map(torch.clone, self._state)

    def _initial_state(self) -> Any:
        """In contiguous tensors of its own, as the kernels write the new states, so that one kernel copies all."""
        state = self._module.initial_state(self._batch_size)
        return pytree.tree_map(lambda leaf: leaf.detach().clone(memory_format=torch.contiguous_format), state)

    def _step(self) -> Tensor:
        with torch.no_grad(), self._autocast():
            y, state = self._module.step(self.x, self._state)
            torch._foreach_copy_(pytree.tree_leaves(self._state), pytree.tree_leaves(state))
        return y

    def _autocast(self) -> torch.autocast:
        kind = self.x.device.type
        return torch.autocast(kind, self._dtype) if self._dtype else torch.autocast(kind, enabled=False)

    def _capture(self) -> None:
        # First runs compile kernels and allocate workspaces, which a capture cannot.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.y = self._step()


def _with_cast_layers(module: Mixer | Stack, dtype: torch.dtype) -> Mixer | Stack:
    module = copy.deepcopy(module)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            part.to(dtype)
    return module
