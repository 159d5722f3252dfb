"""Classify a stream of records: windows, batches, both strands, tables; memory does not grow with the input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ssmbio.data.records import Record
from ssmbio.errors import UserError
from ssmbio.files import whole_file
from ssmbio.pipelines import Classify, DnaClassify
from ssmbio.training.metrics import probabilities
from ssmbio.training.results import named_label, prediction_header, true_label

Item = TypeVar("Item")


def windows(record: Record, window: int | None, stride: int | None) -> Iterator[Record]:
    """Cut a record into windows, each with its place; the last one ends where the record ends.

    Args:
        window: bases; None, or a record that is no longer, gives the record itself.
        stride: bases between the starts of windows; None is `window`.
    """
    length = len(record.sequence)
    if window is None or length <= window:
        yield record
        return
    starts = list(range(0, length - window + 1, stride or window))
    if starts[-1] + window < length:
        starts.append(length - window)
    for start in starts:
        # A record on the reverse strand runs backwards along its contig.
        first = record.start + start if record.strand == "+" else record.end - start - window
        sequence = record.sequence[start : start + window]
        yield replace(record, sequence=sequence, start=first, end=first + window, label=None)


def check_length(record: Record, max_length: int, unit: str = "bases") -> Record:
    """Raises UserError for a record longer than the model takes."""
    if len(record.sequence) > max_length:
        length = len(record.sequence)
        raise UserError(
            f"record {record.name} has {length:,} {unit}, more than the model's maximum of {max_length:,}",
            mend=f"cut it into windows: window={max_length}",
        )
    return record


def batches(records: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of up to `size` consecutive records."""
    iterator = iter(records)
    while batch := list(islice(iterator, size)):
        yield batch


class Predictor:
    """Probabilities of records under a trained classifier.

    Args:
        pipeline: on the CPU; it moves to `device`.
        device: auto, cpu or cuda.
        precision: auto (bf16 autocast on a GPU that has it) or float32.
        both_strands: average the logits of a sequence and its reverse complement; None does as in training.
    """

    def __init__(
        self, pipeline: Classify, device: str = "auto", precision: str = "auto", both_strands: bool | None = None
    ) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise UserError(f"device={device} is unknown", mend="choose auto, cpu or cuda")
        if precision not in ("auto", "float32"):
            raise UserError(f"precision={precision} is unknown", mend="choose auto or float32")
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("device=cuda, but torch sees no GPU", mend="use device=cpu")
        self.device = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
        self.autocast = precision == "auto" and self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        self.pipeline = pipeline.to(self.device).eval()
        if both_strands is not None and isinstance(pipeline, DnaClassify):
            pipeline.set_both_strands(both_strands)

    @torch.inference_mode()
    def __call__(self, records: Sequence[Any]) -> Tensor:
        """B records → (B, C) probabilities, float32 on the CPU."""
        batch = self.pipeline.collate(records)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            logits = self.pipeline.infer_together(*(tensor.to(self.device) for tensor in self.pipeline.inputs(batch)))
        return probabilities(logits, self.pipeline.problem).cpu()


def named_header(labels: Sequence[str]) -> str:
    """As `prediction_header`, for records that have a name but no place."""
    return prediction_header(labels).replace("start\tend\tstrand\t", "", 1)


def named_row(record: Any, label: str, scores: Iterable[float]) -> str:
    """As `prediction_row`, for records that have a name but no place."""
    return "\t".join([_cell(record.name), _cell(label), *(f"{score:.6g}" for score in scores)]) + "\n"


def write_named_predictions(
    path: Path, records: Iterable[Any], scores: Tensor, truth: Tensor, labels: Sequence[str], problem: str
) -> None:
    """As `write_predictions`, for records that have a name but no place."""
    with whole_file(path) as file:
        file.write(named_header(labels).rstrip("\n") + "\ttrue_label\n")
        for record, row, value in zip(records, scores, truth, strict=True):
            line = named_row(record, named_label(row, labels, problem), row.tolist())
            file.write(f"{line.rstrip()}\t{_cell(true_label(value, labels, problem))}\n")


def _cell(text: str) -> str:
    return " ".join(text.split())
