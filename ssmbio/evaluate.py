"""`python -m ssmbio.evaluate ckpt=… data=… data.test=…`: measure a checkpoint on a test set."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from hydra.utils import instantiate
from lightning.pytorch import seed_everything
from omegaconf import DictConfig, OmegaConf

from ssmbio import cli
from ssmbio.checkpoints import load_pipeline
from ssmbio.data.tokenizers import tokenizer_from_spec
from ssmbio.errors import UserError
from ssmbio.evaluation import run_test
from ssmbio.pipelines.dna_classify import DnaClassify
from ssmbio.training.results import print_metrics, write_metrics
from ssmbio.training.setup import build_enabled, build_trainer


def evaluate(config: DictConfig) -> dict[str, float]:
    """Test, write `metrics.json`, predictions and pictures into `run_dir`; returns the measures."""
    if OmegaConf.is_missing(config, "ckpt"):
        raise UserError("ckpt is not set", mend="add ckpt=… to the command: a .ckpt file or a run folder")
    seed_everything(config.seed, workers=True, verbose=False)
    pipeline = cast(DnaClassify, load_pipeline(config.ckpt, "dna_classify", tuple(config.trust)))
    datamodule = instantiate(
        data_config(config, pipeline),
        tokenizer=tokenizer_from_spec(pipeline.facts["tokenizer"]),
        labels=pipeline.labels,
        problem=pipeline.problem,
    )
    datamodule.setup("test")
    if datamodule.test is None:
        raise UserError("this data has no test set", mend="give one, as in data=table data.test=<file>")
    run_dir = Path(str(config.run_dir))
    trainer = build_trainer(config, build_enabled(None), [])
    metrics = run_test(trainer, pipeline, datamodule, None, run_dir)
    write_metrics(run_dir / "metrics.json", metrics)
    print_metrics(metrics, f"{pipeline.task_name}: test set", run_dir)
    return metrics


def data_config(config: DictConfig, pipeline: DnaClassify) -> DictConfig:
    """The datamodule's configuration: that of the command line, or the one the checkpoint was trained with."""
    if config.get("data") is None:
        trained = OmegaConf.create(pipeline.recipe["config"])
        data = trained.data
    else:
        data = config.data
        # Only the test set is read: what training alone needs may stay unset.
        for key in cli.missing_keys(data):
            if key == "test":
                raise UserError("data.test is not set", mend="add data.test=… to the command")
            OmegaConf.update(data, key, None)
    return data.datamodule


def main() -> None:
    cli.run("evaluate", evaluate)


if __name__ == "__main__":
    main()
