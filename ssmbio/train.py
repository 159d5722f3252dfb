"""`python -m ssmbio.train task=…`: train, test the best checkpoint, and leave a run folder behind."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, instantiate
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from ssmbio import cli
from ssmbio.build import build_pipeline
from ssmbio.checkpoints import check_resume, initialize_from
from ssmbio.errors import UserError
from ssmbio.evaluation import run_test
from ssmbio.kinds import EXAMPLES, kind_of_data, unit_of_data
from ssmbio.pipelines import DnaClassify, Pipeline
from ssmbio.run_folder import (
    claim_run_dir,
    refuse_run,
    remove_unused,
    resume_path,
    resumed_config,
    save_config,
    with_saved_overrides,
)
from ssmbio.training.pictures import learning_curves
from ssmbio.training.results import count_parameters, print_metrics, write_metrics
from ssmbio.training.schedule import training_steps
from ssmbio.training.setup import (
    build_callbacks,
    build_enabled,
    build_trainer,
    check_validation,
    early_stop,
    keyboard_may_stop,
)
from ssmbio.training.throughput import Throughput


def train(config: DictConfig) -> float | None:
    """Run one training; returns the best value of the monitored measure, which Hydra's sweepers optimize."""
    config = resumed_config(config)
    if OmegaConf.select(config, "task._target_") is None:  # an experiment may have set parts of it
        raise UserError("task is not set", mend="add task=dna_classify to the command; --help lists the tasks")
    check_data(config)
    cli.require_values(config)
    run_dir = claim_run_dir(config)
    try:
        return run(config, run_dir, resume_path(config, run_dir))
    except BaseException:
        remove_unused()
        raise


def run(config: DictConfig, run_dir: Path, resume: Path | None) -> float | None:
    """The training itself, in the folder that is its own."""
    cli.seed_run(config.seed)
    throughput = Throughput()
    backbone = instantiate(config.model)  # first: what is wrong in its settings need not wait for the data
    datamodule = instantiate(config.data.datamodule)
    datamodule.setup("fit")
    pipeline = build_pipeline(config, datamodule.facts(), backbone)
    pipeline.seed = config.seed
    if resume is None and config.init_from:
        initialize_from(pipeline, config.init_from)
    trainer = prepare(config, pipeline, datamodule, throughput, resume)

    # Everything that could be wrong has been looked at: from here on there is a run.
    if trainer.is_global_zero:
        if resume is None:
            refuse_run(run_dir, "another run took it in the meantime: choose another run_dir")
        save_config(config, run_dir)
    with keyboard_may_stop(trainer):
        trainer.fit(pipeline, datamodule=datamodule, ckpt_path=resume, weights_only=True)
    return finish(config, trainer, pipeline, datamodule, throughput, run_dir)


def check_data(config: DictConfig) -> None:
    """Raises UserError for data of another kind than the task reads, before anything is read or made."""
    task = cast(type[Pipeline], get_class(config.task._target_))
    kind, needed = kind_of_data(config.data), task.reads
    choice = f"data={HydraConfig.get().runtime.choices.get('data')}"
    if kind != needed:
        raise UserError(
            f"{choice} are {kind}, but task={config.task_name} reads {needed}",
            mend=f"choose other data, as {EXAMPLES[needed]}, or another task",
        )
    if issubclass(task, DnaClassify) and unit_of_data(config.data) != "bases":
        raise UserError(f"{choice} are not DNA", mend="choose task=sequence_classify")


def prepare(
    config: DictConfig,
    pipeline: Pipeline,
    datamodule: LightningDataModule,
    throughput: Throughput,
    resume: Path | None,
) -> Trainer:
    """The trainer; raises UserError now for settings that would fail only once training has begun."""
    with cli.faults_of("data"):
        loader = datamodule.train_dataloader()
    with cli.faults_of("optimizer and scheduler"):
        pipeline.try_optimizer()
    with cli.faults_of("logger"):
        loggers = build_enabled(config.get("logger"))
    with cli.faults_of("callbacks"):
        callbacks = build_callbacks(config, pipeline.measures, bool(loggers))
    with cli.faults_of("trainer"):
        trainer = build_trainer(config, [*callbacks, throughput], loggers)
    check_validation(trainer, len(loader))
    training_steps(trainer, len(loader))
    if resume is not None:
        behind = check_resume(pipeline, resume, {**loader.sampler.settings(), "devices": trainer.world_size})
        check_not_over(Path(str(config.run_dir)), trainer, *behind)
    return trainer


def check_not_over(run_dir: Path, trainer: Trainer, epochs: int, steps: int) -> None:
    """Raises UserError for a run that is tested and has nothing left to train: nothing of it is written anew."""
    done = 0 <= (trainer.max_epochs or -1) <= epochs or 0 <= trainer.max_steps <= steps
    if done and (run_dir / "metrics.json").exists():
        raise UserError(
            f"this run is over, after {epochs} epochs and {steps} steps",
            where=run_dir,
            mend="set trainer.max_epochs or max_steps higher, or test it with python -m ssmbio.evaluate",
        )


def finish(
    config: DictConfig,
    trainer: Trainer,
    pipeline: Pipeline,
    datamodule: Any,
    throughput: Throughput,
    run_dir: Path,
) -> float | None:
    """Test the best checkpoint of this run; write and print what came out."""
    facts: dict[str, float] = {
        "parameters": count_parameters(pipeline),
        "epochs": trainer.current_epoch,
        **throughput.rates(),
    }
    monitored = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor]
    best = Path(monitored[0].best_model_path) if monitored and monitored[0].best_model_path else None
    best_score = monitored[0].best_model_score if monitored else None
    metrics: dict[str, float] = {}
    tests = datamodule.test is not None and trainer.limit_test_batches != 0
    if tests:
        metrics = run_test(trainer, pipeline, datamodule, best, run_dir)
    if trainer.is_global_zero:
        logs = sorted((run_dir / "logs").rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
        learning_curves(run_dir / "pictures" / "learning_curves.png", logs, pipeline.loss_unit)
        metrics |= {**facts, "seconds": throughput.seconds}
        write_metrics(run_dir / "metrics.json", metrics)
        if reason := early_stop(trainer):
            print(reason)
        weights = "best checkpoint" if best is not None else "last weights"
        tested = f"test set, {weights}" if tests else "no test set"
        print_metrics(metrics, f"{config.task_name}: {tested}", run_dir)
    return float(best_score) if best_score is not None else None


def main() -> None:
    if "task=audio_quality" in sys.argv:
        cli.fail("task=audio_quality trains nothing; judge clips with python -m ssmbio.evaluate task=audio_quality.")
    sys.argv[1:] = with_saved_overrides(sys.argv[1:])
    cli.run("train", train)


if __name__ == "__main__":
    main()
