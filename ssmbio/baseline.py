"""`python -m ssmbio.baseline data=…`: what simple statistics reach on the same split, the bar for models.

Of sequences of DNA these are k-mer counts and logistic regression, of audio Markov models of the codes.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from ssmbio import cli
from ssmbio.data.audio import AudioData
from ssmbio.data.audio_clips import AudioPieces
from ssmbio.data.datamodule import ClassificationData
from ssmbio.errors import UserError
from ssmbio.markov import MarkovBaseline
from ssmbio.training.metrics import classification_metrics
from ssmbio.training.results import metrics_as_json

LONGEST = 12
"""The longest k-mers counted: there are 4^k of them, and a weight for each and for every class."""


def baseline(config: DictConfig) -> dict[str, float]:
    """Fit on train, choose the regularization on val, print the test measures as JSON."""
    if config.get("data") is None:
        raise UserError("no data is chosen", mend="add data=<group>, as in data=table data.train=<file>")
    cli.require_values(config)
    started = time.perf_counter()
    datamodule = instantiate(config.data.datamodule)
    if not isinstance(datamodule, (AudioData, ClassificationData)):
        raise UserError(
            "these data are neither sequences nor audio", mend="choose others, as data=table data.train=<file>"
        )
    check_sizes(config.smallest, config.largest)
    if not isinstance(config.both_strands, bool):
        raise UserError(f"both_strands={config.both_strands} is neither true nor false", mend="set it to true or false")
    datamodule.setup("fit")
    if datamodule.test is None:
        raise UserError("this data has no test set", mend="choose other data, as in data=table data.test=<file>")
    metrics = markov(datamodule) if isinstance(datamodule, AudioData) else kmers(datamodule, config)
    metrics |= {"seconds": time.perf_counter() - started}
    print(metrics_as_json(metrics))
    return metrics


def markov(datamodule: AudioData) -> dict[str, float]:
    """Mean bits a sample of the test clips under models of the one and the two codes before."""

    def clips(pieces: AudioPieces) -> list[np.ndarray]:
        return [pieces.reader(index, 0, int(count)) for index, count in enumerate(pieces.records.frames)]

    encoding = datamodule.encoding
    model = MarkovBaseline(encoding.levels, encoding.zero).fit(clips(datamodule.train), clips(datamodule.val))
    bits = model.bits(clips(datamodule.test))
    return {f"test/nll_bits_order_{order}": value for order, value in enumerate(bits)}


def kmers(datamodule: ClassificationData, config: DictConfig) -> dict[str, float]:
    """Measures of logistic regression on the k-mers of the test records."""
    try:
        from ssmbio.kmers import KmerBaseline
    except ImportError as error:
        raise UserError("scikit-learn is not installed", mend="pip install scikit-learn") from error
    if datamodule.problem == "multilabel":
        raise UserError("several labels a record", mend="the k-mer baseline needs one label a record")
    sequences, labels = {}, {}
    for name in ("train", "val", "test"):
        split = getattr(datamodule, name)
        sequences[name] = [split.record(i).sequence for i in range(len(split))]
        labels[name] = split.labels
    model = KmerBaseline(config.smallest, config.largest, config.both_strands)
    model.fit(sequences["train"], labels["train"], sequences["val"], labels["val"])
    logits = torch.from_numpy(np.log(model.scores(sequences["test"]) + 1e-12))
    measured = classification_metrics(logits, torch.from_numpy(labels["test"]), str(datamodule.problem))
    return {**{f"test/{name}": value for name, value in measured.items()}, "strength": model.strength}


def check_sizes(smallest: object, largest: object) -> None:
    """Raises UserError unless 1 ≤ smallest ≤ largest ≤ `LONGEST`, all whole numbers."""
    for name, value in (("smallest", smallest), ("largest", largest)):
        if type(value) is not int or not 1 <= value <= LONGEST:
            raise UserError(
                f"{name}={value} is not a length of k-mers", mend=f"set {name} to a whole number from 1 to {LONGEST}"
            )
    if smallest > largest:  # type: ignore[operator]
        raise UserError(
            f"smallest={smallest} is more than largest={largest}", mend=f"set largest to {smallest} or more"
        )


def main() -> None:
    cli.run("baseline", baseline)


if __name__ == "__main__":
    main()
