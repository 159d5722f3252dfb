"""Classification measures from logits; a measure that the data leave undefined is nan, never 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_f1_score,
    multiclass_auroc,
    multiclass_average_precision,
    multiclass_f1_score,
    multiclass_matthews_corrcoef,
)


class Predictions(Metric):
    """Gathers (index, logits, labels) of a whole split, over all devices, in the order of the split."""

    full_state_update = False
    index: list[Tensor]
    logits: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("index", "logits", "labels"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, index: Tensor, logits: Tensor, labels: Tensor) -> None:
        """index (B,), logits (B, C), labels (B,) classes or (B, C) of 0 and 1."""
        self.index.append(index)
        self.logits.append(logits.detach().float())
        self.labels.append(labels)

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        index, logits, labels = (_joined(getattr(self, name)) for name in ("index", "logits", "labels"))
        # A distributed sampler repeats records to fill the last batch: each counts once.
        index, first = _first_of_each(index)
        return index, logits[first], labels[first]

    def gathered(self) -> tuple[Tensor, Tensor, Tensor]:
        """index (n,), logits (n, C), labels (n,) or (n, C) of the n records seen, and start anew."""
        several = self.labels[0].ndim == 2
        index, logits, labels = (value.cpu() for value in self.compute())
        self.reset()
        n = index.numel()
        # torchmetrics squeezes tensors of one element.
        return index.reshape(n), logits.reshape(n, -1), labels.reshape(n, -1) if several else labels.reshape(n)


def _joined(values: list[Tensor] | Tensor) -> Tensor:
    return values if isinstance(values, Tensor) else torch.cat(values)


def _first_of_each(index: Tensor) -> tuple[Tensor, Tensor]:
    values, inverse = torch.unique(index, return_inverse=True)
    positions = torch.arange(len(index), device=index.device)
    first = torch.full_like(values, len(index)).scatter_reduce(0, inverse, positions, "amin")
    return values, first


def probabilities(logits: Tensor, problem: str) -> Tensor:
    """logits (B, C) → probabilities (B, C): each label by itself if multi-label, else summing to 1."""
    return logits.float().sigmoid() if problem == "multilabel" else logits.float().softmax(-1)


def mean_logits(several: Sequence[Tensor], problem: str) -> Tensor:
    """Logits (B, C) under each of several models → logits (B, C), float32, whose probabilities are the mean of theirs.

    In logarithms throughout, so that sure models keep their digits.
    """
    logits = torch.stack([each.float() for each in several])
    if problem == "multilabel":
        return F.logsigmoid(logits).logsumexp(0) - F.logsigmoid(-logits).logsumexp(0)
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(several))


def classification_loss(
    logits: Tensor, labels: Tensor, problem: str, weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy, or binary cross-entropy of each label when multi-label.

    Args:
        logits: (B, C).
        labels: (B,) classes, or (B, C) of 0 and 1.
        problem: binary, multiclass or multilabel.
        weights: (C,) weight of each class; of a label's positives when multi-label.
        label_smoothing: in [0, 1).
    """
    if problem == "multilabel":
        targets = labels.float() * (1 - label_smoothing) + label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits.float(), targets, pos_weight=weights)
    return F.cross_entropy(logits.float(), labels, weight=weights, label_smoothing=label_smoothing)


def classification_metrics(logits: Tensor, labels: Tensor, problem: str) -> dict[str, float]:
    """accuracy, mcc, auroc, auprc and f1 of one split.

    Binary: the second class is the positive one. Multi-class and multi-label: auroc, auprc and f1 are means over the
    classes, and accuracy of multi-label counts every label of every record; its mcc is the mean over labels.
    """
    if problem == "multilabel":
        return _multilabel(logits, labels)
    n_classes = logits.shape[1]
    predicted = logits.argmax(1)
    # A ranking measure of a class needs records inside and outside of it.
    ranked = len(labels) > 0 and bool((torch.bincount(labels, minlength=n_classes) > 0).all())
    scores = probabilities(logits, problem)
    average: Literal["none", "macro"] = "none" if problem == "binary" else "macro"

    def value(result: Tensor) -> float:
        return float(result[1] if problem == "binary" else result)

    return {
        "accuracy": float((predicted == labels).float().mean()) if len(labels) else math.nan,
        "mcc": float(multiclass_matthews_corrcoef(predicted, labels, n_classes)) if _varied(labels) else math.nan,
        "auroc": value(multiclass_auroc(scores, labels, n_classes, average=average)) if ranked else math.nan,
        "auprc": value(multiclass_average_precision(scores, labels, n_classes, average=average))
        if ranked
        else math.nan,
        "f1": value(multiclass_f1_score(predicted, labels, n_classes, average=average)) if len(labels) else math.nan,
    }


def _multilabel(logits: Tensor, labels: Tensor) -> dict[str, float]:
    labels = labels.long()
    predicted, scores = (logits > 0).long(), probabilities(logits, "multilabel")
    if not len(labels):
        return dict.fromkeys(("accuracy", "mcc", "auroc", "auprc", "f1"), math.nan)
    ranked = all(_varied(column) for column in labels.T)

    def mean(measure: Callable[[Tensor, Tensor], Tensor], given: Tensor) -> float:
        # Not torchmetrics' functions for several labels, which refuse one label alone.
        values = [float(measure(column, truth)) for column, truth in zip(given.T, labels.T, strict=True)]
        return sum(values) / len(values)

    return {
        "accuracy": float((predicted == labels).float().mean()),
        "mcc": mean(partial(multiclass_matthews_corrcoef, num_classes=2), predicted) if ranked else math.nan,
        "auroc": mean(binary_auroc, scores) if ranked else math.nan,
        "auprc": mean(binary_average_precision, scores) if ranked else math.nan,
        "f1": mean(binary_f1_score, predicted),
    }


def _varied(labels: Tensor) -> bool:
    return len(labels) > 0 and bool((labels != labels[0]).any())
