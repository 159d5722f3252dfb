"""`python -m ssmbio.evaluate task=audio_quality clips=… reference=… classifier=…`: generated clips beside real ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ssmbio import cli
from ssmbio.audio_quality.clips import check_split, clips_of, splits_of
from ssmbio.audio_quality.features import View, accuracy, view_of
from ssmbio.audio_quality.likelihood import mean_bits
from ssmbio.audio_quality.measures import am_score, fid, inception_score, modified_inception_score
from ssmbio.checkpoints import load_pipeline
from ssmbio.data.audio_set import AudioSet, look_through
from ssmbio.errors import UserError
from ssmbio.pipelines import AudioClassify, AudioGenerate
from ssmbio.training.results import print_metrics, write_metrics


def audio_quality(config: DictConfig) -> dict[str, float]:
    """Compare the clips of a folder with real ones, write `metrics.json` into `run_dir`; returns the measures.

    They are `fid`, `is`, `mis` and `am` of the clips against the reference (see `measures`); those of the reference's
    own test clips against its training clips, `test/fid` and so on, which is what clips can hope for; the
    classifier's accuracy on clips with labels; and `test/nll_bits` of a generating model on the test clips.
    """
    cli.require_values(config)
    check_settings(config)
    device = device_of(config.device)
    trusted = cli.listed(config.trust)
    classifier = load_classifier(config.classifier, trusted).to(device)
    rate, length = classifier.sample_rate, classifier.facts["audio"]["length"]
    clips_folder, reference_folder = Path(str(config.clips)), Path(str(config.reference))
    clips = clips_of(clips_folder, rate, config.resample)
    splits = splits_of(reference_folder, rate, config.resample)
    check_split(splits, config.reference_split, reference_folder)
    # Before the work, so that a wrong checkpoint costs no time.
    model = None if config.ckpt is None else load_model(config.ckpt, splits, reference_folder, trusted).to(device)

    def seen(name: str, of: AudioSet) -> View:
        warn_of_cuts(name, of, length)
        with progress(name, len(of)) as advance:
            return view_of(classifier, of, config.batch_size, device, advance)

    floor = "train" in splits and "test" in splits
    wanted = list(splits) if config.reference_split is None else [config.reference_split]
    used = {split: splits[split] for split in splits if split in wanted or (floor and split != "val")}
    # As training does: faults outside of the middle that is judged are faults too. Each file once.
    look_through(dict.fromkeys(chain(clips.paths, *(of.paths for of in used.values()))))
    view = seen("clips", clips)
    views = {split: seen(split, of) for split, of in used.items()}
    reference = View.joined([views[split] for split in wanted])
    warn_of_rank({"clips": view, **views})

    metrics: dict[str, float] = {"clips": len(view), "reference/clips": len(reference)}
    metrics |= scores(view, reference, config.seed)
    if floor:
        found = scores(views["test"], views["train"], config.seed)
        metrics |= {"train/clips": len(views["train"]), "test/clips": len(views["test"])}
        metrics |= {f"test/{name}": value for name, value in found.items()}
    metrics |= accuracies(views, splits, classifier.labels)
    if model is not None:
        metrics["test/nll_bits"] = likelihood(model, reference_folder, config, device)

    run_dir = Path(str(config.run_dir))
    write_metrics(run_dir / "metrics.json", metrics)
    split = "all clips" if config.reference_split is None else config.reference_split
    print_metrics(metrics, f"{clips_folder} against {reference_folder} ({split}), as {config.classifier} sees", run_dir)
    return metrics


def scores(view: View, reference: View, seed: int) -> dict[str, float]:
    """The four measures of clips against a reference."""
    return {
        "fid": fid(view.features, reference.features),
        "is": inception_score(view.log_p, seed),
        "mis": modified_inception_score(view.log_p),
        "am": am_score(view.log_p, reference.log_p),
    }


def accuracies(views: dict[str, View], splits: dict[str, AudioSet], labels: list[str]) -> dict[str, float]:
    """The classifier's accuracy on each split that has labels it knows; says which it does not know."""
    found: dict[str, float] = {}
    strange: set[str] = set()
    for split, view in views.items():
        share, unknown = accuracy(view, splits[split], labels)
        strange |= set(unknown)
        if share is not None:
            found[f"{split if len(splits) > 1 else 'reference'}/accuracy"] = share
    if strange:
        shown = ", ".join(sorted(strange)[:5]) + (", …" if len(strange) > 5 else "")
        warn(f"the classifier does not know {shown}; its accuracy leaves such clips out")
    return found


def likelihood(model: AudioGenerate, folder: Path, config: DictConfig, device: torch.device) -> float:
    """NLL in bits of the reference's test clips, read at the model's own rate."""
    test = splits_of(folder, model.sample_rate, config.resample)["test"]
    pieces = int((-(-test.frames // model.facts["audio"]["length"])).sum())
    with progress("test, likelihood", pieces) as advance:
        return mean_bits(model, test, config.batch_size, device, advance)


def load_classifier(path: str, trusted: tuple[str, ...]) -> AudioClassify:
    """Raises UserError for a checkpoint of another task, and for a classifier that gives several labels a clip."""
    classifier = load_pipeline(path, AudioClassify.task_name, trusted=trusted)
    assert isinstance(classifier, AudioClassify)
    if classifier.problem == "multilabel":
        raise UserError("it gives several labels a clip", where=path, mend="IS, mIS and AM need one: train with one")
    return classifier


def load_model(path: str, splits: dict[str, AudioSet], folder: Path, trusted: tuple[str, ...]) -> AudioGenerate:
    """Raises UserError for a checkpoint of another task, and for a reference without clips to measure it on."""
    if "test" not in splits:
        raise UserError("no split test, on which ckpt would be measured", where=folder, mend="leave ckpt out")
    model = load_pipeline(path, AudioGenerate.task_name, trusted=trusted)
    assert isinstance(model, AudioGenerate)
    return model


def check_settings(config: DictConfig) -> None:
    """Raises UserError for settings that cannot be."""
    for name, least in (("batch_size", 1), ("seed", 0)):
        if type(config[name]) is not int or config[name] < least:
            raise UserError(f"{name}={config[name]} is not a number of at least {least}", mend=f"set {name} to one")
    if not isinstance(config.resample, bool):
        raise UserError(f"resample={config.resample} is unknown", mend="choose true or false")


def device_of(name: str) -> torch.device:
    """Raises UserError for a device that is none of ours, or not there."""
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={name} is unknown", mend="choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no GPU", mend="use device=cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def warn_of_rank(views: dict[str, View]) -> None:
    """One line for the sets that are too small for a covariance of full rank."""
    width = next(iter(views.values())).features.shape[1]
    small = [f"{name} ({len(view)})" for name, view in views.items() if len(view) <= width]
    if small:
        warn(
            f"no more clips than the classifier's {width} features in {', '.join(small)}: their covariances are "
            "singular, and FID is larger than that of more clips"
        )


def warn_of_cuts(name: str, clips: AudioSet, length: int) -> None:
    longer = int((clips.frames > length).sum())
    if longer:
        warn(
            f"{name}: {longer} of {len(clips)} are longer than the {length:,} samples that the classifier takes; only "
            "their middle is judged"
        )


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal; gives what moves it on."""
    console = Console(stderr=True)
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as display:
        task = display.add_task(name, total=total)
        yield lambda done: display.advance(task, done)
