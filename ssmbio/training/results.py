"""The tables of a run folder: measures, predictions, and the short table on the screen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ssmbio.data.records import Record
from ssmbio.files import whole_file


def write_metrics(path: Path, metrics: dict[str, float]) -> None:
    """metrics.json: names to numbers, an undefined measure as NaN."""
    with whole_file(path) as file:
        json.dump(metrics, file, indent=2)
        file.write("\n")


def prediction_header(labels: Sequence[str]) -> str:
    return "\t".join(["name", "start", "end", "strand", "label", *(f"p_{label}" for label in labels)]) + "\n"


def prediction_row(record: Record, label: str, scores: Iterable[float]) -> str:
    """One line: where the window lies (0-based, half-open), the label, and a probability for each class."""
    fields = [record.name, str(record.start), str(record.end), record.strand, label]
    return "\t".join([*fields, *(f"{score:.6g}" for score in scores)]) + "\n"


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
    path: Path, records: Sequence[Record], scores: Tensor, truth: Tensor, labels: Sequence[str], problem: str
) -> None:
    """test_predictions.tsv: as `predict` writes it, and the true label in a last column.

    Args:
        records: B records, in the order of the rows.
        scores: (B, C) probabilities.
        truth: (B,) classes or (B, C) of 0 and 1.
    """
    with whole_file(path) as file:
        file.write(prediction_header(labels).rstrip("\n") + "\ttrue_label\n")
        for record, row, value in zip(records, scores, truth, strict=True):
            line = prediction_row(record, named_label(row, labels, problem), row.tolist())
            file.write(f"{line.rstrip()}\t{true_label(value, labels, problem)}\n")


def print_metrics(metrics: dict[str, float], title: str, folder: Path) -> None:
    """The measures as a short table, then the folder that holds everything."""
    table = Table(title=title)
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:.4f}")
    console = Console()
    console.print(table)
    console.print(f"results in {folder}", soft_wrap=True, highlight=False)


def count_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
