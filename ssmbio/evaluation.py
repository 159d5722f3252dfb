"""Test a checkpoint and write what came out: shared by training, which ends with it, and `ssmbio.evaluate`."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer

from ssmbio.checkpoints import read_checkpoint
from ssmbio.data.datamodule import ClassificationData
from ssmbio.pipelines.dna_classify import DnaClassify
from ssmbio.training.metrics import probabilities
from ssmbio.training.pictures import confusion_matrix, ranking_curves
from ssmbio.training.results import write_predictions


def run_test(
    trainer: Trainer, pipeline: DnaClassify, datamodule: ClassificationData, ckpt: Path | None, folder: Path
) -> dict[str, float]:
    """Test on the datamodule's test split; write predictions and pictures into `folder`.

    Args:
        ckpt: checkpoint whose weights to test; None for those in `pipeline`.

    Returns:
        The measures, `test/accuracy`, `test/mcc` and so on.
    """
    if ckpt is not None:
        # Not Lightning's `ckpt_path`: with a moving average it would put the last weights back in place of the mean.
        pipeline.load_state_dict(read_checkpoint(ckpt)["state_dict"])
    measured = trainer.test(pipeline, datamodule=datamodule, verbose=False)[0]
    index, logits, truth = pipeline.test_outputs
    scores = probabilities(logits, pipeline.problem)
    assert datamodule.test is not None
    records = [datamodule.test.record(int(i)) for i in index]
    write_predictions(folder / "test_predictions.tsv", records, scores, truth, pipeline.labels, pipeline.problem)
    if pipeline.problem != "multilabel":
        confusion_matrix(folder / "pictures" / "confusion_matrix.png", scores.argmax(1), truth, pipeline.labels)
    ranking_curves(
        folder / "pictures" / "roc_and_precision_recall.png", scores, truth, pipeline.labels, pipeline.problem
    )
    return {name: float(value) for name, value in measured.items()}
