"""From a configuration to objects. Checkpoints come from strangers: what they name is built from an allow-list only."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from ssmbio.errors import UserError
from ssmbio.pipelines.base import Pipeline

# Packages whose public classes (`__all__`) a checkpoint's configuration may name.
ALLOWED_PACKAGES = ("ssmbio.mixers", "ssmbio.backbones", "ssmbio.heads", "ssmbio.pipelines")


def build_pipeline(config: DictConfig, facts: dict[str, Any], training: bool = True) -> Pipeline:
    """The model of `config` for data with these facts.

    Args:
        config: composed configuration with `model` and `task` (and `optimizer`, `scheduler` when training).
        facts: what the datamodule knows (`datamodule.facts()`): tokenizer, labels, problem, max_length.
        training: build the optimizer and the schedule too.
    """
    backbone = instantiate(config.model)
    parts = {"optimizer": instantiate(config.optimizer), "scheduler": instantiate(config.scheduler)} if training else {}
    pipeline = instantiate(config.task, backbone=backbone, facts=facts, **parts)
    pipeline.recipe = {"config": OmegaConf.to_container(config, resolve=False), "facts": facts}
    return pipeline


def check_targets(node: Any, trusted: tuple[str, ...] = ()) -> None:
    """Raise unless every `_target_` below `node` is a public class of ours, or one of `trusted`.

    Raises:
        UserError: names the class and how to trust it.
    """
    if isinstance(node, DictConfig):
        target = node.get("_target_")
        if target is not None and target not in trusted and not _is_ours(target):
            raise UserError(
                f"the checkpoint asks for {target}, which is not a class of ssmbio",
                mend=f"if you trust where the checkpoint comes from, add trust=[{target}]",
            )
        for name in node:
            check_targets(node._get_node(name), trusted)
    elif isinstance(node, ListConfig):
        for child in node:
            check_targets(child, trusted)


def _is_ours(target: str) -> bool:
    package, _, name = target.rpartition(".")
    if package not in ALLOWED_PACKAGES:
        return False
    module = importlib.import_module(package)
    return name in module.__all__ and inspect.isclass(getattr(module, name))
