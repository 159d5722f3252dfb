"""From records to batches: one example of a split, and how examples are padded into a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ssmbio.data.augment import Augmentation
from ssmbio.data.records import Record, RecordSet
from ssmbio.data.tokenizers import CharacterTokenizer, Tokenizer
from ssmbio.errors import UserError


class _Always(TypedDict):
    ids: Tensor
    lengths: Tensor
    index: Tensor
    full: bool


class Batch(_Always, total=False):
    """B examples, padded on the right to the longest.

    Keys:
        ids: (B, L) int64, `pad_id` after the end of each sequence.
        lengths: (B,) int64, ids in each sequence.
        index: (B,) int64, the place of each record in its split.
        labels: (B,) int64 classes, or (B, C) float32 of 0 and 1 when multi-label; absent without labels.
        weights: (B, L) float32, the soft-mask weight of each id, 0 at padding; absent unless asked for.
        full: whether all have L ids; known before the batch goes to a device, it lets nothing wait for the lengths.
    """

    labels: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True)
class Example:
    """One record as numbers: ids (L,), weights (L,) or None, label () or (C,) or None, and its place in the split."""

    ids: npt.NDArray[np.integer]
    weights: npt.NDArray[np.float32] | None
    label: npt.NDArray[np.generic] | None
    index: int


class SequenceDataset(Dataset[Example]):
    """A split, encoded record by record when it is asked for.

    An item is asked for by its index, or by (epoch, index) in training: then it is augmented, and drawn anew where the
    records are, by (seed, epoch, index) alone. So what an example looks like does not depend on the worker that reads
    it, nor on what was read before.

    Args:
        records: the split.
        tokenizer: letters to ids.
        labels: (n,) int64 or (n, C) float32, or None.
        max_length: longest record, in bases.
        truncate: keep the first `max_length` bases of a longer record; else it raises.
        augment: what is done to a sequence in training; None for nothing.
        soft_masked_weight: weight of lower-case letters; None for no weights.

    Raises:
        UserError: a record longer than `max_length`, or weights with a tokenizer that joins letters.
    """

    def __init__(
        self,
        records: RecordSet,
        tokenizer: Tokenizer,
        labels: npt.NDArray[np.generic] | None = None,
        *,
        max_length: int = 2**20,
        truncate: bool = False,
        augment: Augmentation | None = None,
        soft_masked_weight: float | None = None,
    ) -> None:
        self.records, self.tokenizer, self.labels = records, tokenizer, labels
        self.max_length = max_length
        self.augment = augment or Augmentation()
        self.soft_masked_weight = soft_masked_weight
        if soft_masked_weight is not None and not isinstance(tokenizer, CharacterTokenizer):
            raise UserError(
                "soft_masked_weight needs one id a letter",
                mend="choose data/tokenizer=character, or set data.soft_masked_weight=null",
            )
        if not truncate and len(records) and records.lengths.max() > max_length:
            longest = int(np.argmax(records.lengths > max_length))
            raise UserError(
                f"record {records[longest].name} has {records.lengths[longest]:,} {tokenizer.unit}, "
                f"more than max_length = {max_length:,}",
                where=records.where(longest),
                mend=f"cut it, raise data.max_length, or set data.truncate=true to keep its first {tokenizer.unit}",
            )

    def __len__(self) -> int:
        return len(self.records)

    def record(self, index: int) -> Record:
        """The record as evaluation sees it: not augmented, and no longer than `max_length`."""
        return self.records[index].first(self.max_length)

    def __getitem__(self, item: int | tuple[int, int]) -> Example:
        if isinstance(item, tuple):
            epoch, index = item
            sequence = self.augment(self.records.in_epoch(epoch, index).sequence[: self.max_length], epoch, index)
        else:
            index = item
            sequence = self.record(index).sequence
        label = None if self.labels is None else self.labels[index]
        if self.soft_masked_weight is None:
            return Example(self.tokenizer.encode(sequence), None, label, index)
        assert isinstance(self.tokenizer, CharacterTokenizer)
        ids, weights = self.tokenizer.encode_with_weights(sequence, self.soft_masked_weight)
        return Example(ids, weights, label, index)


class Collate:
    """Pads examples on the right to the longest of them.

    Args:
        pad_id: what fills the ids.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, examples: Sequence[Example]) -> Batch:
        lengths = [len(example.ids) for example in examples]
        ids = np.full((len(examples), max(lengths)), self.pad_id, np.int64)
        for row, example in zip(ids, examples, strict=True):
            row[: len(example.ids)] = example.ids
        batch = Batch(
            ids=torch.from_numpy(ids),
            lengths=torch.tensor(lengths),
            index=torch.tensor([example.index for example in examples]),
            full=min(lengths) == ids.shape[1],
        )
        if examples[0].label is not None:
            batch["labels"] = torch.from_numpy(np.stack([np.asarray(example.label) for example in examples]))
        if examples[0].weights is not None:
            weights = np.zeros(ids.shape, np.float32)
            for line, example in zip(weights, examples, strict=True):
                assert example.weights is not None
                line[: len(example.weights)] = example.weights
            batch["weights"] = torch.from_numpy(weights)
        return batch
