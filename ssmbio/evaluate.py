"""`python -m ssmbio.evaluate ckpt=… data=… data.test=…`: measure a checkpoint on a test set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch import seed_everything
from omegaconf import DictConfig, OmegaConf, open_dict

from ssmbio import cli
from ssmbio.build import build_allowed
from ssmbio.checkpoints import load_pipeline
from ssmbio.data.datamodule import ClassificationData
from ssmbio.data.tokenizers import tokenizer_from_spec
from ssmbio.errors import UserError
from ssmbio.evaluation import run_test
from ssmbio.pipelines.dna_classify import DnaClassify
from ssmbio.training.progress import ProgressBar
from ssmbio.training.results import print_metrics, write_metrics
from ssmbio.training.setup import build_trainer


def evaluate(config: DictConfig) -> dict[str, float]:
    """Test, write `metrics.json`, predictions and pictures into `run_dir`; returns the measures."""
    if OmegaConf.is_missing(config, "ckpt"):
        raise UserError("ckpt is not set", mend="add ckpt=… to the command: a .ckpt file or a run folder")
    with cli.faults_of("seed"):
        seed_everything(config.seed, workers=True, verbose=False)
    trusted = cli.listed(config.trust)
    pipeline = cast(DnaClassify, load_pipeline(config.ckpt, "dna_classify", trusted))
    datamodule = test_data(config, pipeline, trusted)
    run_dir = Path(str(config.run_dir))
    with cli.faults_of("trainer"):
        trainer = build_trainer(config, [ProgressBar()], [])
    metrics = run_test(trainer, pipeline, datamodule, None, run_dir)
    if trainer.is_global_zero:
        write_metrics(run_dir / "metrics.json", metrics)
        print_metrics(metrics, f"{config.ckpt}: test set", run_dir)
    return metrics


def test_data(config: DictConfig, pipeline: DnaClassify, trusted: tuple[str, ...]) -> ClassificationData:
    """The test set of the command line's data, or of the data that the checkpoint was trained with.

    Raises:
        UserError: no test set, a record longer than the model takes, or whatever the data are wrong in.
    """
    facts = pipeline.facts
    given: dict[str, Any] = {
        "tokenizer": tokenizer_from_spec(facts["tokenizer"]),
        "labels": pipeline.labels,
        "problem": pipeline.problem,
    }
    own = config.get("data") is None
    data = OmegaConf.create(pipeline.recipe["config"]).data if own else config.data
    with open_dict(data):
        keep_only_test(data, facts, set() if own else keys_of_the_user(), own)
        if data.get("truncate"):
            data.max_length = min(data.max_length, facts["max_length"])
    if not own:
        cli.require_values(config)
    node = data.datamodule
    datamodule = build_allowed(node, trusted, **given) if own else instantiate(node, **given)
    datamodule.setup("test")
    if datamodule.test is None:
        raise UserError("this data has no test set", mend="choose other data, as in data=table data.test=<file>")
    if not datamodule.truncate:
        check_lengths(datamodule, facts["max_length"])
    return datamodule


def keep_only_test(data: DictConfig, facts: dict[str, Any], chosen: set[str], own: bool) -> None:
    """Change a configuration of data so that no file but those of the test set is read.

    Args:
        facts: of the checkpoint. A window length that the user leaves open is the one it was trained with.
        chosen: keys that the command line sets.
        own: the data are those of the checkpoint, whose split stays as it was.
    """
    keys = set(data)  # `in` would not see keys that are `???`
    if "test" in keys:
        if OmegaConf.is_missing(data, "test") or data.test is None:
            raise no_test_set("data.test", own)
        for split in ("train", "val"):
            if split in keys:
                data[split] = None
        if isinstance(data.get("labels"), DictConfig):  # of FASTA files: a table for each split
            data.labels = {"test": data.labels.get("test")}
    elif "intervals" in keys and not OmegaConf.is_missing(data, "intervals"):
        one_bed = isinstance(data.intervals, str)
        if not one_bed and data.intervals.get("test") is None:
            raise no_test_set("data.intervals.test", own)
        if not one_bed or not (own or any(key.startswith("data.split") for key in chosen)):
            # All intervals of a BED that comes for the test: the fractions are there to divide training data.
            data.intervals = {"test": data.intervals if one_bed else data.intervals.test}
            data.split = None
    if not own and "length" in keys and "data.length" not in chosen:
        data.length = facts.get("length")


def no_test_set(key: str, own: bool) -> UserError:
    """The error for data that have a place for a test set, which is not filled."""
    if own:
        return UserError(
            "the data of the checkpoint have no test set", mend="give one, as in data=table data.test=<file>"
        )
    return UserError(f"{key} is not set", mend=f"add {key}=… to the command: it is what evaluate tests")


def keys_of_the_user() -> set[str]:
    """The keys that the command line sets, as `data.split.test`."""
    overrides = HydraConfig.get().overrides.task
    return {text.lstrip("+~").split("=")[0] for text in overrides}


def check_lengths(datamodule: ClassificationData, max_length: int) -> None:
    """Raises UserError for a test record longer than the model takes."""
    assert datamodule.test is not None
    records = datamodule.test.records
    for index, length in enumerate(records.lengths):
        if length > max_length:
            raise UserError(
                f"record {records[index].name} has {length:,} bases, more than the model's maximum of {max_length:,}",
                where=records.where(index),
                mend="cut it, or set data.truncate=true to keep its first bases",
            )


def main() -> None:
    cli.run("evaluate", evaluate)


if __name__ == "__main__":
    main()
