"""A loss that is no number stops a run, and no checkpoint is written after it."""

from __future__ import annotations

import pytest
import torch

from ssmbio.errors import UserError
from ssmbio.training.loss_guard import LossGuard

NAN = torch.tensor(float("nan"))


def what(value: float) -> str:
    return f"the loss is {value} at step 7"


def test_at_once():
    guard = LossGuard()
    guard.watch(torch.tensor(1.0), what)
    with pytest.raises(UserError, match=r"the loss is inf at step 7; lower optimizer.lr"):
        guard.watch(torch.tensor(float("inf")), what)


def test_late_it_is_the_step_that_was_wrong_which_is_named():
    guard = LossGuard()
    guard.watch(NAN, what, late=True)
    with pytest.raises(UserError, match="the loss is nan at step 7"):
        guard.watch(torch.tensor(1.0), lambda value: "another step", late=True)


def test_late_a_checkpoint_asks_first():
    guard = LossGuard()
    guard.watch(NAN, what, late=True)
    with pytest.raises(UserError, match="at step 7"):
        guard.check()
    guard.check()  # said once
