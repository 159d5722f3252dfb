"""What the datamodules of all classification tasks share: splits, labels as numbers, loaders."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ssmbio.data.labels import Codes, balanced_weights, check_classes, encode, problem_of, stratified, vocabulary
from ssmbio.data.loaders import SplitLoaders
from ssmbio.data.records import SPLITS, LabelledSet, Source
from ssmbio.errors import UserError

log = logging.getLogger(__name__)


class LabelledData(SplitLoaders, ABC):
    """Labelled splits of a source as batches for a classifier. Subclasses say what an example is.

    Args:
        source: gives the splits.
        batch_size, eval_batch_size: examples a batch and device; None evaluates with `batch_size`.
        val_fraction: of train, drawn at the classes' shares where the source has no val.
        class_weights: weigh classes by inverse frequency in the loss.
        group_lengths: fill training batches with sequences of like length.
        num_workers: processes that read; 0 reads in this one.
        pin_memory: None pins where there is a GPU.
        seed: of the split and the order.
        labels, problem: what a checkpoint was trained for; None takes them from train.
        shuffle_labels: a control. Permutes the labels of each split, so nothing is left to learn.

    Attributes, after `setup`:
        labels: the classes, sorted.
        problem: binary, multiclass or multilabel.
        class_weights: (C,) float32, or None.
        train, val, test: what `make_dataset` made of each split, or None.
    """

    give_training: ClassVar[str] = "set data.train=<file>"
    """What a message tells whoever gave no training data."""

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        val_fraction: float = 0.1,
        class_weights: bool = False,
        group_lengths: bool = False,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        seed: int = 0,
        labels: Sequence[str] | None = None,
        problem: str | None = None,
        shuffle_labels: bool = False,
    ) -> None:
        super().__init__()
        check_settings(
            ("batch_size", batch_size, is_whole(batch_size, 1), "1 or more"),
            (
                "eval_batch_size",
                eval_batch_size,
                eval_batch_size is None or is_whole(eval_batch_size, 1),
                "1 or more, or to null for that of training",
            ),
            (
                "val_fraction",
                val_fraction,
                isinstance(val_fraction, (int, float)) and 0 < val_fraction < 1,
                "a fraction between 0 and 1",
            ),
        )
        check_seed("seed (or data.seed)", seed)
        self.source = source
        self.batch_size = batch_size
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.val_fraction = val_fraction
        self.balance_classes, self.group_lengths = class_weights, group_lengths
        self.num_workers = num_workers
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.seed, self.shuffle_labels = seed, shuffle_labels
        self.labels: list[str] | None = None if labels is None else [str(label) for label in labels]
        self.problem = problem
        self.class_weights: Tensor | None = None
        self.train: Any = None
        self.val: Any = None
        self.test: Any = None

    @abstractmethod
    def make_dataset(self, records: Any, codes: Codes) -> Any:
        """A split as a torch dataset with `records`, and `record(index)` for what stands in tables of predictions."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a checkpoint must carry to use the model, as plain values that JSON can hold."""

    @abstractmethod
    def check_test(self, facts: Mapping[str, Any]) -> None:
        """Raises UserError for a test record that the model of a checkpoint with these facts cannot take."""

    def shared_facts(self) -> dict[str, Any]:
        """Those of `facts` that every classifier has."""
        weights = None if self.class_weights is None else self.class_weights.tolist()
        return {"labels": self.labels, "problem": self.problem, "class_weights": weights}

    def setup(self, stage: str | None = None) -> None:
        """Read the data once. `stage="test"` with labels given reads no more than the test split.

        Raises:
            UserError: no training data, an empty split, one class only, a label that train lacks, a validation split
                that takes all of train or all but one class, a record that is too long, or whatever the source finds.
        """
        if self.train is not None or self.test is not None:
            return
        splits = self.source.splits()
        only_test = stage == "test" and self.labels is not None
        for split, records in splits.items():
            if not len(records) and (split == "test" or not only_test):
                raise UserError(f"the {split} split has no records", mend=f"give another file as data.{split}")
        if not only_test:
            self._setup_training(splits)
        if "test" in splits:
            self.test = self._labelled("test", splits["test"], self._encode(splits["test"]))
        elif not only_test:
            log.warning("There is no test split, so nothing will be tested after training.")

    def _setup_training(self, splits: Mapping[str, LabelledSet]) -> None:
        if "train" not in splits:
            raise UserError("there is no training data", mend=self.give_training)
        train = splits["train"]
        labels = train.labels()
        self.problem = self.problem or problem_of(labels)
        self.labels = vocabulary(labels) if self.labels is None else self.labels
        check_classes(self.labels, self.problem, train)
        codes = self._encode(train)
        if "val" in splits:
            val, val_codes = splits["val"], self._encode(splits["val"])
        else:
            if len(train) < 2:
                raise UserError("train has one record, so no validation split can be drawn", mend="set data.val=<file>")
            kept, drawn = stratified(codes, self.val_fraction, self.seed)
            if not len(kept):
                raise UserError(
                    f"val_fraction {self.val_fraction} of {len(train)} records leaves none to train on",
                    mend="set data.val_fraction lower, or data.val=<file>",
                )
            if codes.ndim == 1 and len(found := np.unique(codes[kept])) == 1:
                raise UserError(
                    f"all records that are left for training are of one class, '{self.labels[int(found[0])]}'",
                    mend="set data.val_fraction lower, or give records of another class too",
                )
            train, val = train.subset(kept), train.subset(drawn)
            codes, val_codes = codes[kept], codes[drawn]
        if self.balance_classes:
            self.class_weights = torch.from_numpy(balanced_weights(codes, len(self.labels)))
        self.train = self._labelled("train", train, codes)
        self.val = self._labelled("val", val, val_codes)

    def _encode(self, records: LabelledSet) -> Codes:
        if self.labels is None or self.problem is None:
            raise ValueError("labels and problem are given together, or neither")
        return encode(records, self.labels, self.problem)

    def _labelled(self, split: str, records: LabelledSet, codes: Codes) -> Any:
        if self.shuffle_labels:
            codes = np.random.default_rng((self.seed, SPLITS.index(split))).permutation(codes)
        return self.make_dataset(records, codes)

    def sizes(self) -> dict[str, int]:
        """Records in each split that there is."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {split: len(dataset) for split, dataset in splits.items() if dataset is not None}


def is_whole(value: object, least: int) -> bool:
    """Whether it is a whole number, no truth value, of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_seed(setting: str, seed: object) -> None:
    """Raises UserError for what numpy would not take as a seed, and for None, with which no two runs are alike."""
    if not is_whole(seed, 0):
        raise UserError(f"{setting} is {seed}", mend="set it to a whole number, 0 or more")


def check_settings(*settings: tuple[str, object, bool, str]) -> None:
    """Raise for the first setting of `data` (name, value, whether it is good, what is) that is not good."""
    for name, value, good, range_ in settings:
        if not good:
            raise UserError(f"{name} {value}", mend=f"set data.{name} to {range_}")
