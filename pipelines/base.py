"""The base of every task: optimizer, schedule, the guard against NaN, and what a checkpoint carries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

import ssmbio
from ssmbio.errors import UserError
from ssmbio.training.loss_guard import LossGuard
from ssmbio.training.optimizer import parameter_groups
from ssmbio.training.schedule import training_steps

CHECKPOINT_KEY = "ssmbio"


class Pipeline(LightningModule):
    """A task: a model, its loss and its measures.

    Subclasses set `task_name` and `measures` and write `inputs`, `loss(batch) -> Tensor` and the evaluation steps.

    Args:
        facts: what the datamodule knows and prediction will need; JSON-safe.
        optimizer: makes an optimizer from parameter groups; None when the pipeline is built for prediction.
        scheduler: makes a schedule from an optimizer and `total_steps`.

    Attributes:
        test_outputs: what a test leaves of each record, rows in step; the first are the records' places in the split.
        recipe: the configuration and facts this pipeline was built from, saved with every checkpoint.
        seed: of everything random in training (dropout); set by the entry point.
    """

    task_name = ""
    loss_unit = "nats"
    reads = "sequences"
    """The kind of data it takes: sequences, images or audio."""
    measures: tuple[str, ...] = ()
    """What validation measures, which is what callbacks may monitor."""

    def __init__(
        self,
        facts: dict[str, Any],
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
    ) -> None:
        super().__init__()
        self.facts = facts
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.recipe: dict[str, Any] = {}
        self.seed = 0
        self.loss_guard = LossGuard()
        self.test_outputs: tuple[Tensor, ...] = ()

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        """What `forward` takes of a batch."""
        raise NotImplementedError

    def static_forward(self, batch: Any) -> bool:
        """Whether `forward` does the same for all batches of these shapes, so that a CUDA graph can stand for it."""
        return len(self.inputs(batch)) == 1  # without lengths, on which it would depend

    def loss(self, batch: Any) -> Tensor:
        raise NotImplementedError

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        # Every step draws from a stream of its own, so a resumed run repeats the uninterrupted one without any
        # generator state in the checkpoint.
        stream = np.random.SeedSequence((self.seed, self.current_epoch, batch_idx, self.global_rank))
        torch.manual_seed(int(stream.generate_state(1, np.uint64)[0]))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        place, index = f"at step {self.global_step} (epoch {self.current_epoch}, batch {batch_idx}", batch["index"]
        self.loss_guard.watch(loss, lambda value: f"the loss is {value} {place}: {self._places(index)})")
        self.log("loss", loss, prog_bar=True, logger=False)
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=len(batch["index"]))
        return loss

    def on_train_epoch_end(self) -> None:
        self.loss_guard.check()

    def on_validation_start(self) -> None:
        self.loss_guard.check()

    def on_validation_end(self) -> None:
        """Raises UserError if a monitored measure is undefined: it could neither pick a checkpoint nor stop a run."""
        for callback in self.trainer.checkpoint_callbacks + self.trainer.early_stopping_callbacks:
            monitor = getattr(callback, "monitor", None)
            value = self.trainer.callback_metrics.get(monitor) if monitor else None
            if value is not None and torch.isnan(value):
                raise UserError(
                    f"{monitor} is undefined on this validation set",
                    mend="set callbacks.monitor=val/loss, or give a validation set in which every class occurs",
                )

    def _places(self, index: Tensor, most: int = 5) -> str:
        """Where the training records of a batch lie, the first few of them."""
        dataset = self.trainer.datamodule.train  # type: ignore[attr-defined]
        index = index[index >= 0]  # a row without a record
        shown = [dataset.records.where(int(i)) for i in index[:most]]
        return "; ".join(shown) + ("; …" if len(index) > most else "")

    def try_optimizer(self) -> None:
        """Make an optimizer and a schedule and throw them away: raises what their settings make them raise."""
        assert self.make_optimizer is not None, "built for prediction: no optimizer"
        optimizer = self.make_optimizer(parameter_groups(self))
        if self.make_scheduler is not None:
            self.make_scheduler(optimizer, total_steps=100)

    def configure_optimizers(self) -> Any:
        assert self.make_optimizer is not None, "built for prediction: no optimizer"
        optimizer = self.make_optimizer(parameter_groups(self))
        if self.make_scheduler is None:
            return optimizer
        batches = len(self.trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
        schedule = self.make_scheduler(optimizer, total_steps=training_steps(self.trainer, batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.loss_guard.check()
        checkpoint[CHECKPOINT_KEY] = {"version": ssmbio.__version__, "task": self.task_name, **self.recipe}
