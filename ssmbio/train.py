"""`python -m ssmbio.train task=…`: train, test the best checkpoint, and leave a run folder behind."""

from __future__ import annotations

import time
from pathlib import Path
from typing import cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf, open_dict

from ssmbio import cli
from ssmbio.build import build_pipeline
from ssmbio.checkpoints import initialize_from, read_checkpoint
from ssmbio.errors import UserError
from ssmbio.evaluation import run_test
from ssmbio.files import whole_file
from ssmbio.pipelines.dna_classify import DnaClassify
from ssmbio.training.pictures import learning_curves
from ssmbio.training.results import count_parameters, print_metrics, write_metrics
from ssmbio.training.setup import build_enabled, build_trainer
from ssmbio.training.throughput import Throughput


def train(config: DictConfig) -> float | None:
    """Run one training; returns the best value of the monitored measure, which Hydra's sweepers optimize."""
    started = time.perf_counter()
    config = resumed_config(config)
    if config.get("task") is None:
        raise UserError("task is not set", mend="add task=dna_classify to the command; --help lists the tasks")
    cli.require_values(config)
    run_dir = claim_run_dir(config)
    resume = resume_path(config, run_dir)

    seed_everything(config.seed, workers=True, verbose=False)
    datamodule = instantiate(config.data.datamodule)
    datamodule.setup("fit")
    pipeline = build_pipeline(config, datamodule.facts())
    pipeline.seed = config.seed
    if config.init_from:
        initialize_from(pipeline, config.init_from)

    with whole_file(run_dir / "config.yaml") as file:
        file.write(OmegaConf.to_yaml(config))
    throughput = Throughput()
    trainer = build_trainer(config, [*build_enabled(config.callbacks), throughput], build_enabled(config.logger))
    trainer.fit(pipeline, datamodule=datamodule, ckpt_path=resume, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt

    facts = {
        "parameters": count_parameters(pipeline),
        "epochs": trainer.current_epoch,
        "train/sequences_per_second": throughput.sequences_per_second,
    }
    logs = sorted((run_dir / "logs").rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
    learning_curves(run_dir / "pictures" / "learning_curves.png", logs)
    best = run_dir / "checkpoints" / "best.ckpt"
    ckpt = best if best.is_file() else None
    metrics = (
        run_test(trainer, cast(DnaClassify, pipeline), datamodule, ckpt, run_dir) if datamodule.test is not None else {}
    )
    monitored = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor]
    best_score = monitored[0].best_model_score if monitored else None
    metrics |= {**facts, "seconds": time.perf_counter() - started}
    write_metrics(run_dir / "metrics.json", metrics)
    print_metrics(metrics, f"{config.task_name}: test set, best checkpoint", run_dir)
    return float(best_score) if best_score is not None else None


def resumed_config(config: DictConfig) -> DictConfig:
    """`ckpt=last run_dir=…` alone takes the configuration the run was started with, and what the command line adds."""
    if not config.ckpt or config.get("task") is not None:
        return config
    named = [text for text in HydraConfig.get().overrides.task if text.startswith("run_dir=")]
    if not named:
        raise UserError("which run to resume is not said", mend="add run_dir=<the run's folder> to the command")
    saved = Path(str(config.run_dir)) / "config.yaml"
    if not saved.is_file():
        raise UserError(
            "no such file, so there is no run to resume", where=saved, mend="give run_dir=<the run's folder>"
        )
    overrides = [text for text in HydraConfig.get().overrides.task if "=" in text and not text.startswith("~")]
    changes = OmegaConf.from_dotlist([text.lstrip("+") for text in overrides])
    return cast(DictConfig, OmegaConf.merge(OmegaConf.load(saved), changes))


def claim_run_dir(config: DictConfig) -> Path:
    """Fix `run_dir` for this run (its default holds the time); each job of a sweep gets a folder of its own."""
    run_dir = Path(str(config.run_dir))
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        run_dir = run_dir / str(hydra.job.num)
    with open_dict(config):
        config.run_dir = str(run_dir)
    return run_dir


def resume_path(config: DictConfig, run_dir: Path) -> Path | None:
    """The checkpoint to go on from: `ckpt=last` or `best` of this run, or a file; None for a fresh start."""
    if not config.ckpt:
        return None
    named = config.ckpt in ("last", "best")
    path = run_dir / "checkpoints" / f"{config.ckpt}.ckpt" if named else Path(config.ckpt)
    read_checkpoint(path, config.task_name)
    return path


def main() -> None:
    cli.run("train", train)


if __name__ == "__main__":
    main()
