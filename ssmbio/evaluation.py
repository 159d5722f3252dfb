"""Test a checkpoint and write what came out: shared by training, which ends with it, and `ssmbio.evaluate`."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer

from ssmbio.checkpoints import read_checkpoint
from ssmbio.data.audio import AudioData
from ssmbio.data.labelled import LabelledData
from ssmbio.data.loaders import SplitLoaders
from ssmbio.files import whole_file
from ssmbio.pipelines import AudioGenerate, Classify, Pipeline
from ssmbio.prediction import write_named_predictions
from ssmbio.training.metrics import probabilities
from ssmbio.training.pictures import confusion_matrix, ranking_curves
from ssmbio.training.results import write_predictions
from ssmbio.training.setup import keyboard_may_stop


def run_test(
    trainer: Trainer, pipeline: Pipeline, datamodule: SplitLoaders, ckpt: Path | None, folder: Path
) -> dict[str, float]:
    """Test on the datamodule's test split; the first process writes what it has of each record into `folder`.

    Args:
        ckpt: checkpoint whose weights to test; None for those in `pipeline`.

    Returns:
        How many records were tested, `test/records`, and the measures, `test/accuracy`, `test/mcc` and so on.
    """
    if ckpt is not None:
        # Not Lightning's `ckpt_path`: with a moving average it would put the last weights back in place of the mean.
        pipeline.load_state_dict(read_checkpoint(ckpt)["state_dict"])
    with keyboard_may_stop(trainer):
        measured = trainer.test(pipeline, datamodule=datamodule, verbose=False)[0]
    if trainer.is_global_zero:
        if isinstance(pipeline, AudioGenerate):
            assert isinstance(datamodule, AudioData)
            write_likelihoods(folder / "test_likelihoods.tsv", pipeline, datamodule)
        else:
            assert isinstance(pipeline, Classify)
            assert isinstance(datamodule, LabelledData)
            _write_predictions(folder, pipeline, datamodule)
    return {"test/records": len(pipeline.test_outputs[0]), **{name: float(value) for name, value in measured.items()}}


def _write_predictions(folder: Path, pipeline: Classify, datamodule: LabelledData) -> None:
    index, logits, truth = pipeline.test_outputs
    labels, problem = pipeline.labels, pipeline.problem
    scores = probabilities(logits, problem)
    assert datamodule.test is not None
    # Read one by one: the sequences of a test set need not fit into memory at once.
    records = map(datamodule.test.record, index.tolist())
    write = write_predictions if pipeline.placed else write_named_predictions
    write(folder / "test_predictions.tsv", records, scores, truth, labels, problem)
    if problem != "multilabel":
        confusion_matrix(folder / "pictures" / "confusion_matrix.png", scores.argmax(1), truth, labels)
    ranking_curves(folder / "pictures" / "roc_and_precision_recall.png", scores, truth, labels, problem)


def write_likelihoods(path: Path, pipeline: AudioGenerate, datamodule: AudioData) -> None:
    """A line for each test clip: its name, its samples, and the mean bits that the model takes to say one of them."""
    assert datamodule.test is not None
    index, samples, bits = pipeline.test_outputs
    with whole_file(path) as file:
        file.write("name\tsamples\tnll_bits\n")
        for clip, count, total in zip(index.tolist(), samples.tolist(), bits.tolist(), strict=True):
            name = " ".join(datamodule.test.records.name_of(clip).split())
            file.write(f"{name}\t{count}\t{total / count:.6g}\n")
