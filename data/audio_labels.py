"""The datamodule of samples with labels, for a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ssmbio.data.audio_augment import ClipAugmentation
from ssmbio.data.audio_checks import check_clips, check_rate, sample_rate_of
from ssmbio.data.audio_clips import AudioCollate, ClipReader, LabelledClips
from ssmbio.data.audio_set import AudioSet
from ssmbio.data.labelled import LabelledData, check_settings
from ssmbio.data.labels import Codes
from ssmbio.data.records import LabelledSet, Source
from ssmbio.errors import UserError


class AudioClassData(LabelledData):
    """Clips of a source as batches of samples for a classifier; see `AudioBatch`.

    A clip is one example. Of one longer than `length` training sees a crop that lies anywhere in it, and evaluation the
    middle; shorter ones are padded.

    Args:
        source: gives the splits, each an `AudioSet`.
        length: samples.
        shift, gain, noise, speed: see `ClipAugmentation`.
        pad_to: batches are padded on the right to a multiple of this, so that pools of a model come out even.
        keep_mib: MiB of the samples of clips no longer than `length` that are kept in memory, for each split.
        batch_size and all others: see `LabelledData`.
    """

    give_training: ClassVar[str] = "give training clips too, below data.root"

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        length: int = 16000,
        shift: int = 0,
        gain: float = 0.0,
        noise: float | None = None,
        speed: float = 0.0,
        val_fraction: float = 0.1,
        class_weights: bool = False,
        group_lengths: bool = False,
        pad_to: int = 16,
        keep_mib: int = 512,
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
        check_clips(length, pad_to, keep_mib)
        self.length, self.keep_mib = length, keep_mib
        self.augment = ClipAugmentation(shift, gain, noise, seed=seed, speed=speed)  # raises for what it cannot do
        check_settings(("shift", shift, shift < length, f"less than data.length = {length}, or clips may be silence"))
        self.collate = AudioCollate(None, pad_to)

    def make_dataset(self, records: AudioSet, codes: Codes) -> LabelledClips:
        records.check_samples()
        return LabelledClips(ClipReader(records, keep=self.keep_mib << 20), codes, self.length, self.augment)

    def _setup_training(self, splits: Mapping[str, LabelledSet]) -> None:
        if "train" in splits:
            _check_labels(splits["train"])
        super()._setup_training(splits)

    def _encode(self, records: LabelledSet) -> Codes:
        _check_labels(records)
        return super()._encode(records)

    def facts(self) -> dict[str, Any]:
        """Those of every classifier, and `audio`: sample_rate (Hz) and length (samples)."""
        return {"audio": {"sample_rate": sample_rate_of(self), "length": self.length}, **self.shared_facts()}

    def check_test(self, facts: Mapping[str, Any]) -> None:
        if self.test is not None:
            check_rate(self.test.records, facts)


def _check_labels(clips: LabelledSet) -> None:
    for index in range(len(clips)):
        if clips.label_of(index) is None:
            mend = "put it into a folder named for its label, or give it one in splits.csv"
            raise UserError("the clip has no label", where=clips.where(index), mend=mend)
