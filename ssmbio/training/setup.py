"""Callbacks, loggers and the trainer, from their parts of the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from ssmbio.data.labelled import is_whole
from ssmbio.data.nearest import instead_of
from ssmbio.errors import UserError
from ssmbio.training.run_checkpoint import WholeFiles


def build_enabled(nodes: DictConfig | None) -> list[Any]:
    """Build each child that has a `_target_`, unless it says `enabled: false` or is null."""
    built = []
    for name in nodes or {}:
        node = nodes[name]  # type: ignore[index]
        if not isinstance(node, DictConfig) or "_target_" not in node:
            continue
        settings = OmegaConf.to_container(node, resolve=True)
        assert isinstance(settings, dict)
        if settings.pop("enabled", True):
            built.append(instantiate(settings))
    return built


def build_callbacks(config: DictConfig, measures: Iterable[str], logged: bool) -> list[Callback]:
    """The callbacks of a run, less those that would have nothing to look at.

    Args:
        measures: what validation will measure, `val/loss` and so on.
        logged: whether there is a logger.

    Raises:
        UserError: a callback monitors something else.
    """
    callbacks: list[Callback] = build_enabled(config.get("callbacks"))
    validated = config.trainer.get("limit_val_batches", 1.0) != 0
    kept = []
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if monitor is not None and monitor not in measures:
            raise UserError(
                f"callbacks.monitor={monitor} is not measured", mend=f"choose another: {instead_of(monitor, measures)}"
            )
        if monitor is not None and not validated:
            continue
        if isinstance(callback, LearningRateMonitor) and not logged:
            continue
        kept.append(callback)
    return kept


@contextmanager
def keyboard_may_stop(trainer: Trainer) -> Iterator[None]:
    """Around a trainer at work: KeyboardInterrupt where Lightning, stopped by the keyboard, would end the process."""
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
    if trainer.interrupted:
        raise KeyboardInterrupt


def check_validation(trainer: Trainer, batches: int) -> None:
    """Raises UserError where an epoch of `batches` batches ends before the first validation is due.

    Lightning would say so once training has begun. Without `check_val_every_n_epoch` it counts over epochs.
    """
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    every = trainer.val_check_interval
    counted = isinstance(every, int) and trainer.check_val_every_n_epoch is not None
    if counted and every > batches and trainer.limit_val_batches != 0:
        raise UserError(
            f"trainer.val_check_interval={every}, but an epoch has {batches} batches",
            mend="give a smaller one, or add trainer.check_val_every_n_epoch=null to count over epochs",
        )


def early_stop(trainer: Trainer) -> str | None:
    """Why training stopped before its last epoch, or None if it did not."""
    for callback in trainer.early_stopping_callbacks:
        if isinstance(callback, EarlyStopping) and callback.stopped_epoch:
            return (
                f"stopped early after {callback.stopped_epoch + 1} epochs: {callback.monitor} was not better than "
                f"{float(callback.best_score):.4f} in {callback.patience} validations"
            )
    return None


def build_trainer(config: DictConfig, callbacks: list[Callback], loggers: list[Logger]) -> Trainer:
    """The Lightning trainer; `precision: auto` is bf16 autocast on a GPU that has it and float32 elsewhere."""
    settings = OmegaConf.to_container(config.trainer, resolve=True)
    assert isinstance(settings, dict)
    if settings.get("precision") == "auto":
        on_gpu = settings.get("accelerator") in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        settings["precision"] = "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        value = settings.get(name)
        if value is not None and not is_whole(value, 1):
            raise UserError(f"trainer.{name}={value} is not a whole number", mend="give 1 or more")
    for name in ("max_epochs", "max_steps"):
        value = settings.get(name)
        if value not in (None, -1) and not is_whole(value, 0):
            raise UserError(f"trainer.{name}={value} is not a whole number", mend="give 0 or more, or -1 for no limit")
    # Lightning would add a checkpoint of its own, in the folder that the command was given in.
    settings["enable_checkpointing"] = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    settings["plugins"] = [*(settings.get("plugins") or []), WholeFiles()]
    settings["enable_progress_bar"] = any(isinstance(callback, ProgressBar) for callback in callbacks)
    return instantiate(settings, callbacks=callbacks, logger=loggers or False)
