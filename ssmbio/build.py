"""From a configuration to objects. Checkpoints come from strangers: what they name is built from an allow-list only."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ssmbio.backbones import Backbone
from ssmbio.errors import UserError
from ssmbio.pipelines.base import Pipeline

# Modules whose public classes a checkpoint's configuration may name, by the name of the module or in its `__all__`.
ALLOWED_MODULES = (
    "ssmbio.mixers",
    "ssmbio.backbones",
    "ssmbio.heads",
    "ssmbio.pipelines",
    "ssmbio.data.audio",
    "ssmbio.data.audio_labels",
    "ssmbio.data.audio_folder",
    "ssmbio.data.plucked",
    "ssmbio.data.sources",
    "ssmbio.data.speech_commands",
    "ssmbio.data.simulated_genome",
    "ssmbio.data.benchmarks",
    "ssmbio.data.datamodule",
    "ssmbio.data.tokenizers",
)
# The one function among the classes: it reads a tokenizer from a file.
ALLOWED_FUNCTIONS = ("ssmbio.data.tokenizers.BpeTokenizer.from_file",)


def build_pipeline(config: DictConfig, facts: dict[str, Any], backbone: Backbone | None = None) -> Pipeline:
    """The model of `config`, to be trained on data with these facts.

    Args:
        config: composed configuration with `model`, `task`, `optimizer` and `scheduler`, the user's own.
        facts: what the datamodule knows (`datamodule.facts()`): tokenizer, labels, problem, max_length and so on.
        backbone: that of `config.model`, if it is made already.
    """
    backbone = instantiate(config.model) if backbone is None else backbone
    parts = {name: instantiate(config[name]) for name in ("optimizer", "scheduler") if config.get(name)}
    pipeline = instantiate(config.task, backbone=backbone, facts=facts, **parts)
    pipeline.recipe = {"config": OmegaConf.to_container(config, resolve=False), "facts": facts}
    return pipeline


def rebuild_pipeline(recipe: dict[str, Any], trusted: tuple[str, ...] = ()) -> Pipeline:
    """The model of a checkpoint's recipe, without an optimizer; only classes that are allowed are built.

    Args:
        recipe: configuration and facts, as `build_pipeline` left them.
        trusted: full names of classes beside ours that it may build.
    """
    config = OmegaConf.create(recipe["config"])
    backbone = build_allowed(config.model, trusted)
    pipeline = build_allowed(config.task, trusted, backbone=backbone, facts=recipe["facts"])
    pipeline.recipe = recipe
    return pipeline


def build_allowed(node: DictConfig, trusted: tuple[str, ...] = (), **arguments: Any) -> Any:
    """Build what a node of a stranger's configuration names, if every `_target_` in it is allowed.

    References are resolved first, and what was checked is what is built, so nothing hides behind one.

    Raises:
        UserError: names the class that is not allowed, and how to trust it.
    """
    resolved = OmegaConf.to_container(node, resolve=True)
    check_targets(resolved, trusted)
    return instantiate(resolved, **arguments)


def check_targets(node: Any, trusted: tuple[str, ...] = ()) -> None:
    """Raise unless every `_target_` below `node`, plain dicts and lists, is ours or one of `trusted`."""
    if isinstance(node, dict):
        target = node.get("_target_")
        if target is not None and target not in trusted and not _is_ours(str(target)):
            raise UserError(
                f"the checkpoint asks for {target}, which is not a class of ssmbio",
                mend=f"if you trust where the checkpoint comes from, add trust=[{target}]",
            )
        for child in node.values():
            check_targets(child, trusted)
    elif isinstance(node, list):
        for child in node:
            check_targets(child, trusted)


def _is_ours(target: str) -> bool:
    module_name, _, name = target.rpartition(".")
    if target in ALLOWED_FUNCTIONS:
        return True
    if module_name not in ALLOWED_MODULES or name.startswith("_"):
        return False
    found = getattr(importlib.import_module(module_name), name, None)
    return inspect.isclass(found) and found.__module__.startswith("ssmbio.")
