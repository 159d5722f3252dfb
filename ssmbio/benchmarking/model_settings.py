"""What `benchmark model` is asked for, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ssmbio.benchmarking.model_row import LOOP, PARTS, TRAINING
from ssmbio.benchmarking.settings import (
    chosen_device,
    chosen_dtype,
    count,
    names,
    new_folder,
    positive_seconds,
    sizes,
    some_names,
)
from ssmbio.benchmarking.training import CHECKPOINTING, GRAPHS, PLAIN, WAYS
from ssmbio.errors import UserError

DTYPES = ("auto", "bfloat16", "float32")
RESULTS = ("model.json", "model.csv")
SMALL_MODEL = "model=sashimi_small"


@dataclass(frozen=True)
class Defaults:
    """What is measured of a model unless the settings say otherwise.

    Attributes:
        lengths: samples of a clip that is trained on.
        samples: of all clips of a training batch, about.
        batch_sizes: of generation.
        ways: how training steps run.
    """

    lengths: tuple[int, ...]
    samples: int
    batch_sizes: tuple[int, ...]
    ways: tuple[str, ...]


DEFAULTS = {
    "cuda": Defaults((16000, 2**17), 2**17, (1, 8, 32, 256), (PLAIN, GRAPHS)),
    "cpu": Defaults((1024,), 4096, (1, 16), (PLAIN,)),
}


@dataclass(frozen=True)
class ModelSettings:
    """The keys of conf/benchmark_model.yaml, resolved, but for those of the model itself.

    Attributes:
        model: the choice of `model=`.
        training: (B, L) of the batches.
        ways: see `training.WAYS`.
        batch_sizes: of generation.
        peers: "loop" or nothing.
    """

    model: str
    parts: tuple[str, ...]
    device: str
    dtype: torch.dtype
    training: tuple[tuple[int, int], ...]
    ways: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    peers: tuple[str, ...]
    sample_rate: int
    repeats: int
    seconds: float
    out: Path


def read_model_settings(config: DictConfig) -> ModelSettings:
    """Raises UserError for a name that does not exist, a number that is none, a GPU or a folder that is not there."""
    device = chosen_device(config.device)
    usual = DEFAULTS[device]
    ways = usual.ways if config.ways is None else some_names("ways", config.ways, WAYS)
    if device == "cpu" and GRAPHS in ways and config.ways != "all":
        raise UserError("ways=graphs, which are CUDA graphs, on a CPU", mend=f"choose {PLAIN} or {CHECKPOINTING}")
    lengths = usual.lengths if config.lengths is None else sizes("lengths", config.lengths)
    clips = None if config.clips is None else count("clips", config.clips)
    return ModelSettings(
        model=str(HydraConfig.get().runtime.choices.get("model")),
        parts=some_names("parts", config.parts, PARTS),
        device=device,
        dtype=chosen_dtype(config.dtype, DTYPES, device),
        training=tuple((clips or max(1, usual.samples // length), length) for length in lengths),
        ways=tuple(way for way in ways if way != GRAPHS or device == "cuda"),
        batch_sizes=usual.batch_sizes if config.batch_sizes is None else sizes("batch_sizes", config.batch_sizes),
        peers=names("peers", config.peers, (LOOP,)),
        sample_rate=count("sample_rate", config.sample_rate),
        repeats=count("repeats", config.repeats),
        seconds=positive_seconds(config.seconds),
        out=new_folder(config.out, RESULTS),
    )


def check_lengths(settings: ModelSettings, period: int) -> None:
    """Raises UserError for clips that end before the lowest rate of the model has had a position."""
    for _, length in settings.training:
        if TRAINING in settings.parts and length < period:
            raise UserError(
                f"lengths={length} is less than the {period} samples that this model makes one position of",
                mend=f"choose lengths of {period} or more",
            )


def with_small_model(arguments: Sequence[str]) -> list[str]:
    """On a CPU a small model is measured, unless another is named: it comes after the first word."""
    on_cpu = "device=cpu" in arguments or not torch.cuda.is_available()
    if not on_cpu or any(argument.startswith("model=") for argument in arguments):
        return list(arguments)
    return [*arguments[:1], SMALL_MODEL, *arguments[1:]]
