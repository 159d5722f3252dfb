"""Reading checkpoints: safely, with one line for whatever is wrong, and with all that prediction needs."""

from __future__ import annotations

import errno
import logging
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssmbio.build import rebuild_pipeline
from ssmbio.data.audio_codes import Encoding
from ssmbio.data.sampler import check_state
from ssmbio.errors import UserError
from ssmbio.kinds import inputs_of
from ssmbio.pipelines import AudioClassify, DnaClassify, PixelClassify, SequenceClassify
from ssmbio.pipelines.base import CHECKPOINT_KEY, Pipeline

log = logging.getLogger(__name__)

# What the reader of pickles raises for bytes that are none, among them text.
_UNREADABLE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError, struct.error),
    *(LookupError, TypeError, AttributeError, ImportError, AssertionError),
)
CLASSIFIERS = tuple(task.task_name for task in (DnaClassify, PixelClassify, SequenceClassify, AudioClassify))


def read_checkpoint(path: str | Path, *tasks: str) -> dict[str, Any]:
    """Load a checkpoint onto the CPU without running any code from it.

    Args:
        path: a `.ckpt` file, or a run folder, which means its `checkpoints/best.ckpt`.
        tasks: those the checkpoint may be of; none given takes any.

    Raises:
        UserError: no such file, not a checkpoint, not one of ssmbio's, or one of another task.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "checkpoints" / "best.ckpt"
        last = path.with_name("last.ckpt")
        if last.is_file() and not path.exists():
            what = "there is none: it comes with a validation"
            raise UserError(what, where=path, mend=f"give ckpt={last}")
    if not path.is_file():
        raise UserError("no such checkpoint", where=path, mend="give ckpt=<run folder>/checkpoints/best.ckpt")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (*_UNREADABLE, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is what a part of a file leads to
            raise
        raise UserError(
            "not a checkpoint, or damaged", where=path, mend="give a .ckpt file that ssmbio.train wrote"
        ) from error
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint or "state_dict" not in checkpoint:
        raise UserError(
            "a checkpoint, but not one of ssmbio", where=path, mend="give a .ckpt file that ssmbio.train wrote"
        )
    recipe = checkpoint[CHECKPOINT_KEY]
    if not isinstance(recipe, dict) or not {"task", "config", "facts"} <= recipe.keys():
        raise UserError("a checkpoint of ssmbio that lacks its recipe", where=path, mend="give one as it was written")
    made_for = recipe["task"]
    if tasks and made_for not in tasks:
        allowed = " or ".join(tasks)
        raise UserError(f"a checkpoint of task {made_for}, not of {allowed}", where=path, mend="give one of those")
    return checkpoint


def load_pipeline(path: str | Path, *tasks: str, trusted: tuple[str, ...] = ()) -> Pipeline:
    """The trained pipeline of a checkpoint, on the CPU, in evaluation mode.

    Args:
        path, tasks: as for `read_checkpoint`.
        trusted: full names of classes beside ours that the checkpoint may build.
    """
    checkpoint = read_checkpoint(path, *tasks)
    pipeline = rebuild_pipeline(checkpoint[CHECKPOINT_KEY], trusted)
    check_weights(pipeline, checkpoint["state_dict"], path)
    pipeline.load_state_dict(checkpoint["state_dict"])
    return pipeline.eval()


def check_weights(pipeline: Pipeline, weights: dict[str, Tensor], path: str | Path, skip: str = "\0") -> None:
    """Raise UserError unless `weights` are those of this pipeline, by name and shape; names that begin with `skip` are
    left out on both sides."""
    own = {name: value for name, value in pipeline.state_dict().items() if not name.startswith(skip)}
    for name, value in weights.items():
        if name.startswith(skip):
            continue
        if name not in own or own[name].shape != value.shape:
            raise UserError(
                f"its {name} {tuple(value.shape)} does not fit this model",
                where=path,
                mend="use the same model settings",
            )
    missing = sorted(own.keys() - weights.keys())
    if missing:
        raise UserError(f"it has no {missing[0]}", where=path, mend="use the same model settings")


def initialize_from(pipeline: Pipeline, path: str | Path) -> None:
    """Fine-tuning: copy everything but the head from a checkpoint into a new pipeline.

    Raises:
        UserError: another kind of inputs, another tokenizer or encoding, or a backbone of another shape.
    """
    checkpoint = read_checkpoint(path)
    check_inputs(pipeline, checkpoint[CHECKPOINT_KEY]["facts"], path)
    check_weights(pipeline, checkpoint["state_dict"], path, skip="head.")
    body = {name: value for name, value in checkpoint["state_dict"].items() if not name.startswith("head.")}
    pipeline.load_state_dict(body, strict=False)


def check_inputs(pipeline: Pipeline, facts: Mapping[str, Any], path: str | Path, same_rate: bool = False) -> None:
    """Raise UserError unless a checkpoint with these facts reads what this pipeline reads, in the same encoding.

    Whether the channels of images and audio fit, the weights show.

    Args:
        same_rate: audio must be at the same sample rate too. State spaces can be brought to another one, by their rate.
    """
    theirs, ours = inputs_of(facts), inputs_of(pipeline.facts)
    if theirs != ours:
        raise UserError(
            f"its model reads {theirs}, but this one {ours}",
            where=path,
            mend=f"give a checkpoint of task={pipeline.task_name}",
        )
    if facts.get("tokenizer") != pipeline.facts.get("tokenizer"):
        raise UserError("its tokenizer differs from this run's", where=path, mend="choose the same data/tokenizer")
    audio, own = facts.get("audio", {}), pipeline.facts.get("audio", {})
    if audio.get("encoding") != own.get("encoding"):
        needed = Encoding.from_facts(audio["encoding"])
        raise UserError("its codes are encoded in another way", where=path, mend=f"set {needed.overrides()}")
    if audio.get("sample_rate") != own.get("sample_rate"):
        rates = f"it was trained at {audio['sample_rate']} Hz, and this run's clips are at {own['sample_rate']} Hz"
        if same_rate:
            raise UserError(rates, where=path, mend=f"set data.sample_rate={audio['sample_rate']}")
        log.warning("%s: %s; the rate of a mixer's settings brings its steps along.", path, rates)


def check_resume(pipeline: Pipeline, path: str | Path, settings: Mapping[str, int | bool]) -> tuple[int, int]:
    """Whether training can go on from a checkpoint.

    Args:
        settings: of the sampler, see `EpochSampler.settings`.

    Returns:
        Epochs and steps that lie behind it.

    Raises:
        UserError: other inputs, weights of another model, or taken within an epoch that could not go on under these
            settings.
    """
    saved = read_checkpoint(path, pipeline.task_name)
    check_inputs(pipeline, saved[CHECKPOINT_KEY]["facts"], path, same_rate=True)
    check_weights(pipeline, saved["state_dict"], path)
    loop = saved["loops"]["fit_loop"]
    for state in loop["state_dict"].get("combined_loader", []):
        check_state(state, settings)
    return loop["epoch_progress"]["current"]["processed"], saved["global_step"]
