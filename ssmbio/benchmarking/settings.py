"""What the command line asked for, checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, ListConfig

from ssmbio import cli
from ssmbio.benchmarking.cases import OPS
from ssmbio.errors import UserError

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "bfloat16", "float16", "float32")
RESULTS = ("kernels.json", "kernels.csv", "kernels.png")


@dataclass(frozen=True)
class Settings:
    """The keys of conf/benchmark.yaml, resolved.

    Attributes:
        ops: names in `OPS`.
        peers: names of peers.
        device: "cpu" or "cuda".
        lengths: L of the series; None: the defaults of each op.
    """

    ops: tuple[str, ...]
    peers: tuple[str, ...]
    device: str
    dtype: torch.dtype
    lengths: tuple[int, ...] | None
    repeats: int
    seconds: float
    out: Path


def read_settings(config: DictConfig) -> Settings:
    """Raises UserError for a name that does not exist, a number that is none, a GPU or a folder that is not there."""
    device = chosen_device(config.device)
    return Settings(
        ops=some_names("ops", config.ops, OPS),
        peers=names("peers", config.peers, sorted({peer.name for op in OPS.values() for peer in op.peers})),
        device=device,
        dtype=chosen_dtype(config.dtype, DTYPES, device),
        lengths=None if config.lengths is None else sizes("lengths", config.lengths),
        repeats=count("repeats", config.repeats),
        seconds=positive_seconds(config.seconds),
        out=new_folder(config.out, RESULTS),
    )


def names(key: str, value: object, choices: Collection[str]) -> tuple[str, ...]:
    """One name, or several, or `all`; null is none."""
    if value == "all":
        return tuple(choices)
    chosen = tuple(value) if isinstance(value, ListConfig) else () if value is None else (value,)
    for name in chosen:
        _check_name(key, name, choices)
    return tuple(dict.fromkeys(chosen))


def some_names(key: str, value: object, choices: Collection[str]) -> tuple[str, ...]:
    """As `names`, and at least one."""
    chosen = names(key, value, choices)
    if not chosen:
        raise UserError(f"{key} is empty", mend=f"choose all, or some of {', '.join(choices)}")
    return chosen


def _check_name(key: str, name: object, choices: Collection[str]) -> None:
    if isinstance(name, str) and name in choices:
        return
    close = cli.nearest(str(name), choices)
    hint = f"did you mean {close}? There are" if close else "choose one of"
    raise UserError(f"{key}={name} does not exist", mend=f"{hint} {', '.join(choices)}")


def chosen_device(wanted: object) -> str:
    """ "cpu" or "cuda"."""
    _check_name("device", wanted, DEVICES)
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, and no CUDA GPU is seen here", mend="choose device=cpu")
    return str(wanted)


def chosen_dtype(wanted: str, choices: Collection[str], device: str) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on a CPU."""
    _check_name("dtype", wanted, choices)
    name = ("bfloat16" if device == "cuda" else "float32") if wanted == "auto" else wanted
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def count(key: str, value: object) -> int:
    if type(value) is not int or value < 1:
        raise UserError(f"{key}={value} is not a number of at least 1", mend=f"set {key} to 1 or more")
    return value


def sizes(key: str, value: object) -> tuple[int, ...]:
    """One size, or several, in order."""
    found = tuple(value) if isinstance(value, ListConfig) else (value,)
    if not found or any(type(size) is not int or size < 1 for size in found):
        what = key.rsplit("_", 1)[-1]
        raise UserError(f"{key}={value} is no list of {what}", mend=f"give numbers of at least 1: {key}=[32,1024]")
    return tuple(sorted(set(found)))


def positive_seconds(value: object) -> float:
    if type(value) not in (int, float) or not 0 < value < float("inf"):  # type: ignore[operator]
        raise UserError(f"seconds={value} is not a time", mend="set seconds to a number above 0")
    return float(value)  # type: ignore[arg-type]


def new_folder(value: object, results: Sequence[str]) -> Path:
    """A folder that holds none of `results` yet. It is made when there is one, so whether it can be is seen now."""
    if not isinstance(value, str) or not value:
        raise UserError(f"out={value} is no folder", mend="name one: out=timings")
    out = Path(value)
    existing = next((path for path in (out, *out.absolute().parents) if path.exists()), out)
    if not existing.is_dir():
        raise UserError(f"out={out}: {existing} is a file", mend="name another folder")
    if not os.access(existing, os.W_OK):
        raise UserError(f"out={out} cannot be written", mend="name another folder")
    if any((out / name).exists() for name in results):
        raise UserError("it holds a result already", where=out, mend="choose another out=<folder>")
    return out
