"""The pictures of a run folder: learning curves, confusion matrix, ROC and precision-recall."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.functional.classification import binary_precision_recall_curve, binary_roc

BLUE, ORANGE, GREY = "#1f5fa8", "#d9730d", "#8a8a8a"
MAX_CURVES = 12  # of the first classes, in a picture that stays readable


def learning_curves(path: Path, csv_files: Sequence[Path], unit: str = "nats") -> None:
    """Training and validation loss, and the validation measures, against the step.

    Args:
        csv_files: logs of one run, oldest first (a resumed run has several; the later one wins at equal steps).
        unit: of the loss.
    """
    series: dict[str, dict[int, float]] = {}
    for file in csv_files:
        with open(file, encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                for name, value in row.items():
                    if value and name not in ("epoch", "step"):
                        series.setdefault(name, {})[int(row["step"])] = float(value)
    figure, (left, right) = _figure(2)
    for name, colour in (("train/loss_step", GREY), ("train/loss_epoch", BLUE), ("val/loss", ORANGE)):
        if points := sorted(series.get(name, {}).items()):
            thin = {"lw": 0.8, "alpha": 0.6} if name.endswith("_step") else {"marker": "o", "ms": 3}
            left.plot(*zip(*points, strict=True), color=colour, label=name, **thin)
    for name in ("val/accuracy", "val/auroc", "val/mcc", "val/f1"):
        if points := sorted(series.get(name, {}).items()):
            right.plot(*zip(*points, strict=True), marker="o", ms=3, label=name)
    left.set(title="loss", xlabel="optimizer step", ylabel=unit)
    right.set(title="validation", xlabel="optimizer step", ylim=(min(0.0, right.get_ylim()[0]), 1.02))
    for axes in (left, right):
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def confusion_matrix(path: Path, predicted: Tensor, truth: Tensor, labels: Sequence[str]) -> None:
    """predicted and truth (B,) classes; rows are the true classes, counts and shares of the row."""
    n = len(labels)
    counts = torch.bincount(truth.cpu() * n + predicted.cpu(), minlength=n * n).reshape(n, n).numpy()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, (axes,) = _figure(1, side=max(4.0, 0.45 * n + 2))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    axes.set_xticks(range(n), labels, rotation=45 if n > 4 else 0, ha="right" if n > 4 else "center")
    axes.set_yticks(range(n), labels)
    axes.grid(False)
    axes.set(title="confusion matrix", xlabel="predicted", ylabel="true")
    if n <= 20:
        for i in range(n):
            for j in range(n):
                colour = "white" if shares[i, j] > 0.5 else "black"
                axes.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", color=colour, fontsize=9)
    _save(figure, path)


def ranking_curves(path: Path, scores: Tensor, truth: Tensor, labels: Sequence[str], problem: str) -> None:
    """ROC and precision-recall, a curve a class (the second class alone when binary).

    Args:
        scores: (B, C) probabilities.
        truth: (B,) classes or (B, C) of 0 and 1.
    """
    hits = truth.bool() if problem == "multilabel" else torch.nn.functional.one_hot(truth, len(labels)).bool()
    columns = [1] if problem == "binary" else list(range(len(labels)))[:MAX_CURVES]
    figure, (left, right) = _figure(2)
    for column in columns:
        target = hits[:, column].long()
        if target.min() == target.max():
            continue  # no curve is defined
        false_positive, true_positive, _ = binary_roc(scores[:, column], target)
        precision, recall, _ = binary_precision_recall_curve(scores[:, column], target)
        left.plot(false_positive, true_positive, label=labels[column])
        right.plot(recall, precision, label=labels[column])
    left.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls="--")
    left.set(title="ROC", xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.02))
    right.set(title="precision and recall", xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    for axes in (left, right):
        if len(axes.lines) > 1 or (axes is right and axes.lines):
            axes.legend(frameon=False, fontsize=8, title="class", title_fontsize=8)
    _save(figure, path)


def _figure(columns: int, side: float = 4.2) -> tuple[Figure, list]:
    figure = Figure(figsize=(side * columns * 1.1, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.grid(color="#e6e6e6", lw=0.6)
        one.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
