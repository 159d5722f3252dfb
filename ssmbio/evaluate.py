"""`python -m ssmbio.evaluate ckpt=… data=… data.test=…`: measure a checkpoint on a test set."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from ssmbio import cli
from ssmbio.build import build_allowed
from ssmbio.checkpoints import CLASSIFIERS
from ssmbio.data.audio import AudioData
from ssmbio.data.audio_labels import AudioClassData
from ssmbio.data.loaders import SplitLoaders
from ssmbio.data.pixels import ImageFacts
from ssmbio.data.tokenizers import tokenizer_from_spec
from ssmbio.ensembles import check_division, load_ensemble
from ssmbio.errors import UserError
from ssmbio.evaluation import run_test
from ssmbio.kinds import EXAMPLES, kind_of_data, kind_of_facts
from ssmbio.pipelines import AudioGenerate, Classify, Pipeline
from ssmbio.resampled import resample
from ssmbio.run_folder import refuse_run
from ssmbio.training.progress import ProgressBar
from ssmbio.training.results import print_metrics, write_metrics
from ssmbio.training.setup import build_trainer


def evaluate(config: DictConfig) -> dict[str, float]:
    """Test, write `metrics.json`, predictions and pictures into `run_dir`; returns the measures."""
    ckpts = () if OmegaConf.is_missing(config, "ckpt") else cli.listed(config.ckpt)
    cli.seed_run(config.seed)
    run_dir = Path(str(config.run_dir))
    refuse_run(run_dir, "choose another run_dir: what training measured stays as it is")
    trusted = cli.listed(config.trust)
    pipeline = load_ensemble(ckpts, *CLASSIFIERS, AudioGenerate.task_name, trusted=trusted)
    resample(pipeline, config.rate)
    datamodule = test_data(config, pipeline, trusted)
    with cli.faults_of("trainer"):
        trainer = build_trainer(config, [ProgressBar()], [])
    if trainer.limit_test_batches == 0:
        raise UserError("trainer.limit_test_batches=0 leaves nothing to test", mend="leave it out")
    metrics = run_test(trainer, pipeline, datamodule, None, run_dir)
    if trainer.is_global_zero:
        write_metrics(run_dir / "metrics.json", metrics)
        tested = ckpts[0] if len(ckpts) == 1 else f"mean of {len(ckpts)} checkpoints"
        print_metrics(metrics, f"{tested}: test set", run_dir)
    return metrics


def test_data(config: DictConfig, pipeline: Pipeline, trusted: tuple[str, ...]) -> SplitLoaders:
    """The test set of the command line's data, or of the data that the checkpoint was trained with.

    Raises:
        UserError: no test set, data of another kind, a record that the model does not take, or whatever the data are
            wrong in.
    """
    facts = pipeline.facts
    given: dict[str, Any] = {}
    if isinstance(pipeline, Classify):
        given = {"labels": pipeline.labels, "problem": pipeline.problem}
    own = config.get("data") is None
    if own:
        check_division(pipeline)
    data = OmegaConf.create(pipeline.recipe["config"]).data if own else config.data
    if "tokenizer" in facts:
        given["tokenizer"] = tokenizer_from_spec(facts["tokenizer"])
    kind, taken = kind_of_data(data), kind_of_facts(facts)
    if kind != taken:
        raise UserError(
            f"data={HydraConfig.get().runtime.choices.get('data')} are {kind}, but the checkpoint takes {taken}",
            mend=f"choose other data, as {EXAMPLES[taken]}",
        )
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
    datamodule.check_test(facts)
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
    if own:
        if "audio" in facts:
            data.sample_rate = facts["audio"]["sample_rate"]  # another one than in training with rate=…
        return
    if "audio" in facts:
        adapt_audio(data, facts["audio"], chosen)
    elif "image" in facts:
        adapt_images(data, ImageFacts.from_facts(facts), chosen)
    elif "length" in keys and ("data.length" not in chosen or data.get("length") is None):
        data.length = facts.get("length")


def adapt_images(data: DictConfig, image: ImageFacts, chosen: set[str]) -> None:
    """Read images as those of training were, where the user leaves it open; of folders of classes test all."""
    for key, value in (("mode", image.format.mode), ("size", image.size)):
        if f"data.{key}" not in chosen:
            data[key] = list(value) if isinstance(value, tuple) else value
    if "split" in data and not any(key.startswith("data.split") for key in chosen):
        # The fractions are there to divide training data; folders for the splits come before them.
        data.split = {"test": 1.0}


def adapt_audio(data: DictConfig, audio: dict[str, Any], chosen: set[str]) -> None:
    """Read clips as those of training were, where the user leaves it open: with labels or as codes, at the same rate;
    of a folder that nothing divides test all.

    Args:
        audio: facts of the checkpoint.

    Raises:
        UserError: the command line sets what this checkpoint's kind of data has not.
    """
    kind = AudioData if "encoding" in audio else AudioClassData
    nodes: dict[str, Any] = OmegaConf.to_container(data.datamodule, resolve=False)  # type: ignore[assignment]
    taken = inspect.signature(kind).parameters
    strange = next((name for name in nodes if name not in taken and f"data.{name}" in chosen), None)
    if strange is not None:
        what = "codes" if "encoding" in audio else "clips with labels"
        raise UserError(
            f"data.{strange} has no meaning for {what}, which the checkpoint takes", mend=f"leave data.{strange} out"
        )
    data.datamodule = {
        "_target_": f"{kind.__module__}.{kind.__qualname__}",
        **{name: node for name, node in nodes.items() if name in taken},
    }
    of_training = {"length": audio["length"], "sample_rate": audio["sample_rate"]}
    if "encoding" in audio:
        encoding = audio["encoding"]
        of_training |= {"encoding": encoding["kind"], "bits": encoding["bits"], "rescale": encoding["rescale"]}
        for name in ("encoding", "bits", "rescale"):
            data.datamodule[name] = f"${{data.{name}}}"
    for key, value in of_training.items():
        if f"data.{key}" not in chosen:
            data[key] = value
    if "split" in data and not any(key.startswith("data.split") for key in chosen):
        data.split = {"test": 1.0}


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


def main() -> None:
    task = next((text for text in sys.argv[1:] if text.startswith("task=")), None)
    if task == "task=audio_quality":  # judges a folder of clips, and has settings of its own
        from ssmbio.audio_quality.command import audio_quality

        sys.argv.remove(task)
        cli.run("audio_quality", audio_quality)
    elif task is not None:
        cli.fail(f"{task}: the checkpoint knows its task; leave it out, or choose task=audio_quality.")
    else:
        cli.run("evaluate", evaluate)


if __name__ == "__main__":
    main()
