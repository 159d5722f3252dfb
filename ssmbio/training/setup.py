"""Callbacks, loggers and the trainer, from their parts of the configuration."""

from __future__ import annotations

from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf


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


def build_trainer(config: DictConfig, callbacks: list[Callback], loggers: list[Logger]) -> Trainer:
    """The Lightning trainer; `precision: auto` is bf16 autocast on a GPU that has it and float32 elsewhere."""
    settings = OmegaConf.to_container(config.trainer, resolve=True)
    assert isinstance(settings, dict)
    if settings.get("precision") == "auto":
        on_gpu = settings.get("accelerator") in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        settings["precision"] = "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
    return instantiate(settings, callbacks=callbacks, logger=loggers or False)
