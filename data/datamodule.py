"""The datamodules: sequences of letters for a classifier; those of pixels are in `pixels.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssmbio.data.augment import Augmentation
from ssmbio.data.batches import Collate, SequenceDataset
from ssmbio.data.labelled import LabelledData, check_settings, is_whole
from ssmbio.data.labels import Codes
from ssmbio.data.pixels import PixelData as PixelData
from ssmbio.data.records import RecordSet, Source
from ssmbio.data.tokenizers import Tokenizer
from ssmbio.errors import UserError


class ClassificationData(LabelledData):
    """Records of a source as batches for a classifier.

    Args:
        source: gives the splits.
        tokenizer: letters to ids.
        max_length: the longest sequence the model will see, in bases.
        truncate: keep the first `max_length` bases of a longer record instead of raising.
        reverse_complement: probability that a training example is seen from the other strand.
        shift, mutation: see `Augmentation`.
        soft_masked_weight: weight of lower-case letters in `batch["weights"]`; None for no weights.
        batch_size and all others: see `LabelledData`.
    """

    def __init__(
        self,
        source: Source,
        tokenizer: Tokenizer,
        *,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        max_length: int = 2**20,
        truncate: bool = False,
        val_fraction: float = 0.1,
        reverse_complement: float = 0.5,
        shift: int = 0,
        mutation: float = 0.0,
        soft_masked_weight: float | None = None,
        class_weights: bool = False,
        group_lengths: bool = False,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        seed: int = 0,
        labels: Sequence[str] | None = None,
        problem: str | None = None,
        shuffle_labels: bool = False,
    ) -> None:
        super().__init__(
            source,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            val_fraction=val_fraction,
            class_weights=class_weights,
            group_lengths=group_lengths,
            num_workers=num_workers,
            pin_memory=pin_memory,
            seed=seed,
            labels=labels,
            problem=problem,
            shuffle_labels=shuffle_labels,
        )
        check_settings(("max_length", max_length, is_whole(max_length, 1), "1 or more"))
        self.tokenizer = tokenizer
        self.max_length, self.truncate = max_length, truncate
        self.augment = Augmentation(reverse_complement, shift, mutation, seed)  # raises for what it cannot do
        self.soft_masked_weight = soft_masked_weight
        self.collate = Collate(tokenizer.pad_id)

    def make_dataset(self, records: RecordSet, codes: Codes) -> SequenceDataset:
        return SequenceDataset(
            records,
            self.tokenizer,
            codes,
            max_length=self.max_length,
            truncate=self.truncate,
            augment=self.augment,
            soft_masked_weight=self.soft_masked_weight,
        )

    def facts(self) -> dict[str, Any]:
        """What a checkpoint must carry to use the model, as plain values that JSON can hold.

        `length` is the window that the source puts around each interval, None where it has none.
        """
        return {
            "tokenizer": self.tokenizer.spec(),
            "max_length": self.max_length,
            "length": getattr(self.source, "length", None),
            **self.shared_facts(),
        }

    def check_test(self, facts: Mapping[str, Any]) -> None:
        if self.test is None or self.truncate:
            return
        records, longest, unit = self.test.records, facts["max_length"], self.tokenizer.unit
        for index, length in enumerate(records.lengths):
            if length > longest:
                raise UserError(
                    f"record {records[index].name} has {length:,} {unit}, more than the model's maximum of {longest:,}",
                    where=records.where(index),
                    mend=f"cut it, or set data.truncate=true to keep its first {unit}",
                )
