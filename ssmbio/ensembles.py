"""Several checkpoints as one classifier: the mean of their probabilities (deep ensembles, arXiv 1612.01474)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from omegaconf import OmegaConf

from ssmbio.checkpoints import CLASSIFIERS, load_pipeline
from ssmbio.errors import UserError
from ssmbio.pipelines import Classify, Pipeline


def load_ensemble(paths: Sequence[str], *tasks: str, trusted: tuple[str, ...] = ()) -> Pipeline:
    """The pipeline of the first checkpoint, with those of the others as its `members`; one path is that alone.

    Args:
        paths: each as for `load_pipeline`, as are `tasks` and `trusted`.

    Raises:
        UserError: no path; several that are not classifiers of one kind of inputs with the same labels; or what is
            wrong in a checkpoint.
    """
    if not paths:
        raise UserError("ckpt is not set", mend="add ckpt=… to the command: a .ckpt file or a run folder")
    first = load_pipeline(paths[0], *tasks, trusted=trusted)
    for path in paths[1:]:
        other = load_pipeline(path, *tasks, trusted=trusted)
        if not isinstance(first, Classify) or not isinstance(other, Classify):
            raise UserError("only classifiers can be averaged", where=path, mend="give one checkpoint")
        check_member(first, other, path)
        first.members.append(other)
    return first


def load_classifiers(paths: Sequence[str], trusted: tuple[str, ...] = ()) -> Classify:
    """As `load_ensemble`, of tasks that classify; UserError for any other."""
    pipeline = load_ensemble(paths, *CLASSIFIERS, trusted=trusted)
    if not isinstance(pipeline, Classify):
        raise UserError(f"it builds {type(pipeline).__name__}, which is no classifier", where=paths[0])
    return pipeline


def check_division(first: Pipeline) -> None:
    """Raises UserError unless all members were trained with one source of data.

    Where another seed or file divided the data of one, the test set of the first may be what that one was trained on.
    """
    members = [cast(Pipeline, member) for member in first.members] if isinstance(first, Classify) else []
    if any(_source(member) != _source(first) for member in members):
        raise UserError(
            "these checkpoints have other data, or data divided in another way: one may have seen another's test set",
            mend="name a test set that none has seen, as in data=table data.test=<file>",
        )


def _source(pipeline: Pipeline) -> Any:
    """The settings that say which records are in which split."""
    node = OmegaConf.create(pipeline.recipe["config"]).data.datamodule.get("source")
    source: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if isinstance(source, dict) and "regions" in source:  # these say what is test; the seed is of training windows
        return {name: value for name, value in source.items() if name in ("genomes", "regions")}
    return source


def check_member(first: Classify, other: Classify, path: str) -> None:
    """Raises UserError, which names the file of `other`, unless both classify the same."""
    if type(first) is not type(other):
        raise UserError(f"it is of {other.task_name}, the first of {first.task_name}", where=path, mend="leave it out")
    keys = sorted((first.facts.keys() | other.facts.keys()) - {"class_weights"})  # these are of training alone
    strange = next((key for key in keys if first.facts.get(key) != other.facts.get(key)), None)
    if strange is not None:
        raise UserError(
            f"its {strange} is not that of the first checkpoint", where=path, mend="give checkpoints of the same data"
        )
