"""Test a checkpoint and write what came out: shared by training, which ends with it, and `ssmbio.evaluate`."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer
from torch import Tensor

from ssmbio.checkpoints import read_checkpoint
from ssmbio.data.labelled import LabelledData
from ssmbio.pipelines import Classify
from ssmbio.prediction import write_named_predictions
from ssmbio.training.metrics import probabilities
from ssmbio.training.pictures import confusion_matrix, ranking_curves
from ssmbio.training.results import write_predictions


def run_test(
    trainer: Trainer, pipeline: Classify, datamodule: LabelledData, ckpt: Path | None, folder: Path
) -> dict[str, float]:
    """Test on the datamodule's test split; the first process writes predictions and pictures into `folder`.

    Args:
        ckpt: checkpoint whose weights to test; None for those in `pipeline`.

    Returns:
        How many records were tested, `test/records`, and the measures, `test/accuracy`, `test/mcc` and so on.
    """
    if ckpt is not None:
        # Not Lightning's `ckpt_path`: with a moving average it would put the last weights back in place of the mean.
        pipeline.load_state_dict(read_checkpoint(ckpt)["state_dict"])
    measured = trainer.test(pipeline, datamodule=datamodule, verbose=False)[0]
    index, logits, truth = pipeline.test_outputs
    if trainer.is_global_zero:
        _write(folder, pipeline, datamodule, index.tolist(), probabilities(logits, pipeline.problem), truth)
    return {"test/records": len(index), **{name: float(value) for name, value in measured.items()}}


def _write(
    folder: Path,
    pipeline: Classify,
    datamodule: LabelledData,
    index: list[int],
    scores: Tensor,
    truth: Tensor,
) -> None:
    """scores (n, C) and truth (n,) or (n, C) of the n test records at `index`."""
    labels, problem = pipeline.labels, pipeline.problem
    assert datamodule.test is not None
    # Read one by one: the sequences of a test set need not fit into memory at once.
    records = map(datamodule.test.record, index)
    write = write_predictions if pipeline.placed else write_named_predictions
    write(folder / "test_predictions.tsv", records, scores, truth, labels, problem)
    if problem != "multilabel":
        confusion_matrix(folder / "pictures" / "confusion_matrix.png", scores.argmax(1), truth, labels)
    ranking_curves(folder / "pictures" / "roc_and_precision_recall.png", scores, truth, labels, problem)
