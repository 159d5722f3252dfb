"""The loaders that every datamodule gives: training in a seeded order that can be resumed, evaluation in file order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from ssmbio.data.sampler import EpochSampler, TrainingLoader


class SplitLoaders(LightningDataModule):
    """Loaders over the datasets of a train, a val and a test split.

    Subclasses set the attributes: the settings when they are made, the datasets in `setup`.

    Attributes:
        batch_size, eval_batch_size: examples a batch and device.
        num_workers: processes that read; 0 reads in this one.
        pin_memory: whether batches lie in pinned memory.
        seed: of the order.
        group_lengths: fill training batches with sequences of like length.
        collate: examples of a dataset to a batch.
        train, val, test: the datasets, or None.
    """

    batch_size: int
    eval_batch_size: int
    num_workers: int
    pin_memory: bool
    seed: int
    group_lengths: bool = False
    collate: Callable[[Any], Any]
    train: Any = None
    val: Any = None
    test: Any = None

    def sampler(self) -> EpochSampler:
        """The order of the training data."""
        return EpochSampler(self.train, batch_size=self.batch_size, seed=self.seed, group_lengths=self.group_lengths)

    def train_dataloader(self) -> DataLoader:
        """Shuffled and augmented; in the order of the file when the trainer overfits a few batches."""
        assert self.train is not None, "setup() comes first"
        if self._overfits():
            return self._evaluation_loader(self.train)
        return TrainingLoader(
            self.train,
            self.sampler(),
            self.collate,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            trained=self._trained_batches if self.trainer is not None else None,
        )

    def val_dataloader(self) -> DataLoader:
        """In the order of the file; the training batches when the trainer overfits a few of them."""
        dataset = self.train if self._overfits() else self.val
        assert dataset is not None, "setup() comes first"
        return self._evaluation_loader(dataset)

    def test_dataloader(self) -> DataLoader:
        """In the order of the file."""
        assert self.test is not None, "there is no test split"
        return self._evaluation_loader(self.test)

    def _evaluation_loader(self, dataset: Any) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=self.batch_size if self._overfits() else self.eval_batch_size,
            collate_fn=self.collate,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
        )

    def _overfits(self) -> bool:
        return self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]

    def _trained_batches(self) -> int:
        assert self.trainer is not None
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
