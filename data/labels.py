"""Labels as numbers: their order, the kind of problem they pose, weights, and a validation split that keeps shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite

import numpy as np
import numpy.typing as npt

from ssmbio.data.nearest import instead_of
from ssmbio.data.records import Label, LabelledSet
from ssmbio.errors import UserError

PROBLEMS = ("binary", "multiclass", "multilabel")

Codes = npt.NDArray[np.generic]
"""(n,) int64 classes, or (n, C) float32 of 0 and 1 when multi-label."""


def vocabulary(labels: Iterable[Label]) -> list[str]:
    """The distinct labels, sorted: by their value if all are finite numbers, else by their letters."""
    found = {name for label in labels for name in _names(label)}
    try:
        values = {name: float(name) for name in found}
    except ValueError:
        return sorted(found)
    # nan is neither less nor more than any number, so sorting by it would give a chance order.
    if not all(map(isfinite, values.values())):
        return sorted(found)
    return sorted(found, key=lambda name: (values[name], name))


def problem_of(labels: Iterable[Label]) -> str:
    """multilabel if records have several labels each; else binary for two classes, multiclass for more."""
    distinct = set(labels)
    if any(isinstance(label, tuple) for label in distinct):
        return "multilabel"
    return "binary" if len(distinct - {None}) == 2 else "multiclass"


def check_classes(known: Sequence[str], problem: str, records: LabelledSet) -> None:
    """Raise unless there is something to tell apart.

    Raises:
        UserError: no label, or one class only.
    """
    if problem not in PROBLEMS:
        raise UserError(f"problem '{problem}'", mend=instead_of(problem, PROBLEMS))
    where = records.where(0).rpartition(", ")[0] or None
    if not known:
        raise UserError("the training records have no labels", where=where, mend="name the column that holds them")
    if len(known) == 1 and problem != "multilabel":
        raise UserError(
            f"all training records are of one class, '{known[0]}'",
            where=where,
            mend="give records of another class too",
        )
    if problem == "binary" and len(known) != 2:
        raise UserError(f"{len(known)} classes are not binary", where=where, mend="set data.problem=multiclass")


def encode(records: LabelledSet, known: Sequence[str], problem: str) -> Codes:
    """The labels of a split as numbers.

    Raises:
        UserError: a record without a label, or with one that is not among ``known``; names the file and the place.
    """
    number = {name: code for code, name in enumerate(known)}
    labels = records.labels()
    for index, label in enumerate(labels):
        unknown = next((name for name in _names(label) if name not in number), None)
        if unknown is not None:
            raise UserError(
                f"label '{unknown}' is not among the labels of the training data",
                where=records.where(index),
                mend=instead_of(unknown, known),
            )
        if label is None or (problem != "multilabel" and len(_names(label)) != 1):
            found = "no label" if not _names(label) else "several labels"
            raise UserError(f"the record has {found}", where=records.where(index), mend="give every record one")
    if problem != "multilabel":
        return np.fromiter((number[_names(label)[0]] for label in labels), np.int64, len(labels))
    codes = np.zeros((len(labels), len(known)), np.float32)
    for row, label in zip(codes, labels, strict=True):
        row[[number[name] for name in _names(label)]] = 1
    return codes


def balanced_weights(codes: Codes, classes: int) -> npt.NDArray[np.float32]:
    """(C,) weights by inverse frequency: n / (C n_c) for classes, negatives over positives when multi-label."""
    n = len(codes)
    if codes.ndim == 2:
        positives = codes.astype(np.float64).sum(0)
        return ((n - positives) / np.maximum(positives, 1)).astype(np.float32)
    counts = np.bincount(codes.astype(np.int64), minlength=classes)
    return (n / (classes * np.maximum(counts, 1))).astype(np.float32)


def stratified(codes: Codes, fraction: float, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices (rest, drawn): ``fraction`` of the records, each class (or set of labels) at its share, in file order."""
    n = len(codes)
    groups = codes if codes.ndim == 1 else np.unique(codes, axis=0, return_inverse=True)[1].ravel()
    order = np.random.default_rng(seed).permutation(n)
    order = order[np.argsort(groups[order], kind="stable")]
    count = max(1, round(fraction * n))
    drawn = np.sort(order[((np.arange(count) + 0.5) * n / count).astype(np.int64)])
    return np.setdiff1d(np.arange(n), drawn), drawn


def _names(label: Label) -> tuple[str, ...]:
    if label is None:
        return ()
    return (label,) if isinstance(label, str) else label
