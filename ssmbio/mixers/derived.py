"""What is computed from parameters alone, kept from one step of a recurrence to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Derived:
    """Keeps the last result of a computation while no gradient is recorded and nothing it depends on has changed.

    A CUDA graph that is being captured gets the computation itself: its replays then see parameters as they are. What
    is kept is of this process: a copy, or what is read from a file, begins with nothing.
    """

    def __init__(self) -> None:
        self._depends_on: list[Tensor] = []
        self._settings: tuple[Any, ...] = ()
        self._value: Any = None

    def __reduce__(self) -> tuple[type[Derived], tuple[()]]:
        return type(self), ()

    def get(self, module: nn.Module, compute: Callable[[], Any], *settings: Any) -> Any:
        """`compute()`, or what it returned before; it depends on the tensors of `module` and on `settings`."""
        tensors = [*module.parameters(), *module.buffers()]
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return compute()
        if any(x.is_cuda for x in tensors) and torch.cuda.is_current_stream_capturing():
            return compute()
        if settings != self._settings or not self._unchanged(tensors):
            self._value = compute()
            self._depends_on = [x.detach().clone() for x in tensors]
            self._settings = settings
        return self._value

    def _unchanged(self, tensors: list[Tensor]) -> bool:
        """By their values: fused optimizers and writes to `.data` leave no other trace."""
        return len(tensors) == len(self._depends_on) and all(
            x.dtype == kept.dtype and x.device == kept.device and torch.equal(x, kept)
            for x, kept in zip(tensors, self._depends_on, strict=True)
        )
