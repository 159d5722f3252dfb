"""Learning-rate schedules, as a factor of the step."""

from __future__ import annotations

import math

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ssmbio.errors import UserError


def cosine_with_warmup(optimizer: Optimizer, total_steps: int, warmup: float = 0.1, minimum: float = 0.0) -> LambdaLR:
    """Linear rise from 0, then half a cosine down (Loshchilov and Hutter, arXiv 1608.03983).

    Args:
        optimizer: its groups keep the ratios of their learning rates.
        total_steps: optimizer steps of the whole run.
        warmup: steps of the rise; below 1, a fraction of `total_steps`.
        minimum: factor of the learning rate at the end.
    """
    rise = _steps(warmup, total_steps)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        progress = min(1.0, (step - rise) / max(1, total_steps - rise))
        return minimum + (1 - minimum) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def constant_with_warmup(optimizer: Optimizer, total_steps: int, warmup: float = 0.0) -> LambdaLR:
    """Linear rise from 0, then flat. Arguments as for `cosine_with_warmup`."""
    rise = _steps(warmup, total_steps)
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (rise + 1)))


def _steps(warmup: float, total_steps: int) -> int:
    if warmup < 0:
        raise ValueError(f"warmup must not be negative, got {warmup}")
    return round(warmup * total_steps) if warmup < 1 else int(warmup)


def training_steps(trainer: Trainer, batches: int) -> int:
    """Optimizer steps of the whole run, of epochs of `batches` batches.

    Lightning's own `estimated_stepping_batches` sets the loader up before a checkpoint's state of it is read, so a run
    resumed inside an epoch would start that epoch's data again.
    """
    overfit: int | float = getattr(trainer, "overfit_batches", 0)
    limit = overfit or trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else max(1, int(batches * limit))
    epochs = trainer.max_epochs if trainer.max_epochs is not None else -1
    steps = math.ceil(batches / trainer.accumulate_grad_batches) * epochs if epochs >= 0 else math.inf
    if trainer.max_steps >= 0:
        steps = min(steps, trainer.max_steps)
    if math.isinf(steps):
        raise UserError("the length of the run is not set", mend="set trainer.max_epochs or trainer.max_steps")
    return max(1, int(steps))
