"""The tables of a run folder: measures, predictions, and the short table on the screen."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ssmbio.data.records import Record
from ssmbio.files import whole_file


def write_metrics(path: Path, metrics: dict[str, float]) -> None:
    """metrics.json, see `metrics_as_json`."""
    with whole_file(path) as file:
        file.write(metrics_as_json(metrics) + "\n")


def metrics_as_json(metrics: dict[str, float]) -> str:
    """Names to numbers; an undefined measure is null, since JSON has no NaN."""
    values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    return json.dumps(values, indent=2, allow_nan=False)


def prediction_header(labels: Sequence[str]) -> str:
    return "\t".join(["name", "start", "end", "strand", "label", *(f"p_{_cell(label)}" for label in labels)]) + "\n"


def prediction_row(record: Record, label: str, scores: Iterable[float]) -> str:
    """One line: where the window lies (0-based, half-open), the label, and a probability for each class."""
    fields = [_cell(record.name), str(record.start), str(record.end), record.strand, _cell(label)]
    return "\t".join([*fields, *(f"{score:.6g}" for score in scores)]) + "\n"


def _cell(text: str) -> str:
    """A name that stays in its cell: every run of white space, tabs and line ends among it, becomes one space."""
    return re.sub(r"\s+", " ", text)


def named_label(scores: Tensor, labels: Sequence[str], problem: str) -> str:
    """scores (C,) → the class, or the labels above one half joined by `;` when multi-label."""
    if problem == "multilabel":
        return ";".join(label for label, score in zip(labels, scores.tolist(), strict=True) if score > 0.5)
    return labels[int(scores.argmax())]


def true_label(value: Tensor, labels: Sequence[str], problem: str) -> str:
    if problem == "multilabel":
        return ";".join(label for label, flag in zip(labels, value.tolist(), strict=True) if flag)
    return labels[int(value)]


def write_predictions(
    path: Path, records: Iterable[Record], scores: Tensor, truth: Tensor, labels: Sequence[str], problem: str
) -> None:
    """test_predictions.tsv: as `predict` writes it, and the true label in a last column.

    Args:
        records: B records, in the order of the rows; they are taken one at a time.
        scores: (B, C) probabilities.
        truth: (B,) classes or (B, C) of 0 and 1.
    """
    with whole_file(path) as file:
        file.write(prediction_header(labels).rstrip("\n") + "\ttrue_label\n")
        for record, row, value in zip(records, scores, truth, strict=True):
            line = prediction_row(record, named_label(row, labels, problem), row.tolist())
            file.write(f"{line.rstrip()}\t{_cell(true_label(value, labels, problem))}\n")


def print_metrics(metrics: dict[str, float], title: str, folder: Path) -> None:
    """The title, the measures as a short table, then the folder that holds everything."""
    table = Table()
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:.4f}")
    console = Console()
    # Not the table's own title, which would be broken at the table's width.
    console.print(title, soft_wrap=True, highlight=False, markup=False)
    console.print(table)
    console.print(f"results in {folder}", soft_wrap=True, highlight=False, markup=False)


def count_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
