"""Stops a run whose loss is not a number, without making a GPU wait for the answer at every step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssmbio.errors import UserError


class LossGuard:
    """Looks at each loss: at once on a CPU, and one step late on a GPU, when it has long been computed.

    A late look comes after the weights were stepped, so whoever keeps weights (a checkpoint) or uses them (validation)
    calls `check` first.
    """

    def __init__(self) -> None:
        self._waiting: tuple[Tensor, Callable[[float], str]] | None = None

    def watch(self, loss: Tensor, what: Callable[[float], str], late: bool | None = None) -> None:
        """Take over the loss of a step.

        Args:
            what: makes the message of its value.
            late: look when the next step comes; None: if it is on a GPU.

        Raises:
            UserError: the loss before, or this one if it is looked at now, is not finite.
        """
        self.check()
        self._waiting = loss.detach(), what
        if not (loss.is_cuda if late is None else late):
            self.check()

    def check(self) -> None:
        """Raises UserError if a loss that waits to be looked at is not finite."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        loss, what = waiting
        if not torch.isfinite(loss):
            raise UserError(what(loss.item()), mend="lower optimizer.lr, or look at these records")
