"""Several checkpoints as one classifier: the mean of their probabilities (deep ensembles, arXiv 1612.01474)."""

from __future__ import annotations

from collections.abc import Sequence

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
