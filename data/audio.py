"""The datamodule of codes, for a model that generates."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ssmbio.data.audio_augment import ClipAugmentation
from ssmbio.data.audio_checks import check_clips, check_rate, sample_rate_of
from ssmbio.data.audio_clips import AudioCollate, AudioPieces, AugmentedPieces, ClipReader
from ssmbio.data.audio_codes import Encoding
from ssmbio.data.audio_set import AudioSet
from ssmbio.data.audio_streams import CarriedPieces, LaneSampler
from ssmbio.data.labelled import check_seed, check_settings, is_whole
from ssmbio.data.loaders import SplitLoaders
from ssmbio.data.records import Source
from ssmbio.data.sampler import EpochSampler
from ssmbio.errors import UserError

log = logging.getLogger(__name__)


class AudioData(SplitLoaders):
    """Clips of a source as batches of codes; see `AudioBatch`.

    Training draws crops of `length` samples anywhere in each clip, as many an epoch as pieces of `length` would cover
    it; shorter clips come whole and are padded. Evaluation reads all samples of all clips once, in pieces of `length`.

    Args:
        source: gives the splits, each an `AudioSet`.
        batch_size, eval_batch_size: rows a batch and device; None evaluates with `batch_size`.
        length: samples of a crop or piece.
        encoding, bits, rescale: see `Encoding`; `encoding` is its kind.
        carry: train on the pieces in order, with a state carried from each to the next; see `LaneSampler`.
        val_fraction: of the clips of train, drawn where the source has no val.
        pad_to: batches are padded on the right to a multiple of this, so that pools of a model come out even.
        keep_mib: MiB of the codes of clips no longer than `length` that are kept in memory, for each split; with `gain`
            of the training clips' samples, four times as large.
        num_workers: processes that read; 0 reads in this one.
        pin_memory: None pins where there is a GPU.
        gain: dB; training crops are louder or quieter by a number drawn evenly from [-gain, gain], cut off at ±1.
        seed: of the validation split, the order, the crops and their gain.

    Attributes, after `setup`:
        train, val, test: each an `AudioPieces`, or None.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        length: int = 16000,
        encoding: str = "mu_law",
        bits: int = 8,
        rescale: bool = False,
        gain: float = 0.0,
        carry: bool = False,
        val_fraction: float = 0.1,
        pad_to: int = 16,
        keep_mib: int = 512,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_settings(
            ("batch_size", batch_size, is_whole(batch_size, 1), "1 or more"),
            ("eval_batch_size", eval_batch_size, eval_batch_size is None or is_whole(eval_batch_size, 1), "1 or more"),
            ("bits", bits, is_whole(bits, 1) and bits <= 8, "1 to 8"),
            ("carry", carry, isinstance(carry, bool), "true or false"),
            (
                "val_fraction",
                val_fraction,
                isinstance(val_fraction, (int, float)) and 0 < val_fraction < 1,
                "a fraction between 0 and 1",
            ),
            ("num_workers", num_workers, is_whole(num_workers, 0), "0 or more"),
        )
        check_seed("seed (or data.seed)", seed)
        check_clips(length, pad_to, keep_mib)
        if carry and length % pad_to:
            raise UserError(
                f"length {length} with carry=true", mend=f"set data.length to a multiple of data.pad_to = {pad_to}"
            )
        self.augment = ClipAugmentation(gain=gain, seed=seed)  # raises for what it cannot do
        if gain and (carry or rescale):
            why = "carry=true, where pieces go on as the last ended" if carry else "rescale=true, which undoes it"
            raise UserError(f"gain {gain:g} with {why}", mend="set data.gain=0")
        self.source = source
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.length, self.carry, self.val_fraction, self.keep_mib = length, carry, val_fraction, keep_mib
        self.encoding = Encoding(encoding, bits, rescale)  # raises for what it cannot do
        self.num_workers = num_workers
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.seed = seed
        self.collate = AudioCollate(self.encoding, pad_to)

    def setup(self, stage: str | None = None) -> None:
        """Look the data up once. `stage="test"` leaves train and val alone.

        Raises:
            UserError: no training clips, an empty split, one clip that val and train would have to share, or whatever
                the source finds.
        """
        if self.train is not None or self.test is not None:
            return
        splits: dict[str, Any] = dict(self.source.splits())
        for split, clips in splits.items():
            if not len(clips) and (split == "test" or stage != "test"):
                raise UserError(f"the {split} split has no clips", mend="give it some, below data.root")
        if stage != "test":
            if "train" not in splits:
                raise UserError("there are no training clips", mend="give some too, below data.root")
            if "val" not in splits:
                splits["train"], splits["val"] = self._divided(splits["train"])
            self.train, self.val = self._pieces(splits, "train"), self._pieces(splits, "val")
        if "test" in splits:
            self.test = self._pieces(splits, "test", rescaling=stage != "test")
        elif stage != "test":
            log.warning("There is no test split, so nothing will be tested after training.")

    def _divided(self, clips: AudioSet) -> tuple[Any, Any]:
        n = len(clips)
        if n < 2:
            raise UserError(
                "train has one clip, so no clips can be drawn for validation",
                where=clips.where(0),
                mend="give some below <data.root>/val/, or cut it into several files",
            )
        count = min(max(1, round(self.val_fraction * n)), n - 1)
        order = np.random.default_rng(self.seed).permutation(n)
        return clips.subset(np.sort(order[count:])), clips.subset(np.sort(order[:count]))

    def _pieces(self, splits: Mapping[str, AudioSet], split: str, rescaling: bool = True) -> AudioPieces:
        """`rescaling`: whether that is the user's to choose; the codes of a checkpoint are as they are."""
        mend = "set data.rescale=true, or scale it to ±1" if rescaling else "scale it to ±1"
        splits[split].check_samples(beyond_one=self.encoding.rescale, mend=mend)
        if split == "train" and self.augment.gain:
            reader = ClipReader(splits[split], None, self.keep_mib << 20)
            return AugmentedPieces(reader, self.length, self.seed, self.augment, self.encoding)
        kind = CarriedPieces if self.carry else AudioPieces
        reader = ClipReader(splits[split], self.encoding, self.keep_mib << 20)
        return kind(reader, self.length, self.seed)

    def sampler(self) -> EpochSampler:
        if self.carry:
            return LaneSampler(self.train, batch_size=self.batch_size, seed=self.seed)
        return super().sampler()

    def sizes(self) -> dict[str, int]:
        """Clips in each split that there is."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {split: len(dataset.records) for split, dataset in splits.items() if dataset is not None}

    def facts(self) -> dict[str, Any]:
        """What a checkpoint must carry to use the model, as plain values that JSON can hold: `audio`, with sample_rate
        (Hz), length (samples) and encoding."""
        return {
            "audio": {"sample_rate": sample_rate_of(self), "length": self.length, "encoding": self.encoding.plain()}
        }

    def check_test(self, facts: Mapping[str, Any]) -> None:
        """Raises UserError for test clips whose codes the model of a checkpoint with these facts cannot take."""
        if self.test is None:
            return
        audio = check_rate(self.test.records, facts)
        if "encoding" not in audio:
            raise UserError("the model takes samples, not codes", mend="give a checkpoint of task=audio_generate")
        needed = Encoding.from_facts(audio["encoding"])
        if needed != self.encoding:
            raise UserError(
                f"the clips are encoded as {_in_words(self.encoding)}, but the model takes {_in_words(needed)}",
                mend=f"set {needed.overrides()}",
            )


def _in_words(encoding: Encoding) -> str:
    return f"{encoding.kind}, {encoding.bits} bits, {'rescaled' if encoding.rescale else 'not rescaled'}"
