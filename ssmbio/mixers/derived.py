"""What is computed from parameters alone, kept from one step of a recurrence to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Derived:
    """Keeps the last result of a computation while no gradient is recorded and nothing it depends on has changed.

    A CUDA graph that is being captured gets the computation itself: its replays then see parameters as they are.
    """

    def __init__(self) -> None:
        self._depends_on: list[tuple[Tensor, int]] = []
        self._settings: tuple[Any, ...] = ()
        self._value: Any = None

    def get(self, module: nn.Module, compute: Callable[[], Any], *settings: Any) -> Any:
        """`compute()`, or what it returned before; it depends on the parameters of `module` and on `settings`."""
        parameters = list(module.parameters())
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or any(p.is_inference() for p in parameters):
            return compute()
        if any(p.is_cuda for p in parameters) and torch.cuda.is_current_stream_capturing():
            return compute()
        if settings != self._settings or not self._unchanged(parameters):
            self._value = compute()
            # The storages are held, so no other parameter can come to lie at the same address.
            self._depends_on = [(p.detach(), p._version) for p in parameters]
            self._settings = settings
        return self._value

    def _unchanged(self, parameters: list[nn.Parameter]) -> bool:
        return len(parameters) == len(self._depends_on) and all(
            p.data_ptr() == kept.data_ptr() and p.dtype == kept.dtype and p._version == version
            for p, (kept, version) in zip(parameters, self._depends_on, strict=True)
        )
