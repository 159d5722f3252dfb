"""What the command line asked for, checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Collection
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
    device = _device(config.device)
    _check_name("dtype", config.dtype, DTYPES)
    dtype = ("bfloat16" if device == "cuda" else "float32") if config.dtype == "auto" else config.dtype
    ops = _names("ops", config.ops, OPS)
    if not ops:
        raise UserError("ops is empty", mend=f"choose all, or some of {', '.join(OPS)}")
    if type(config.repeats) is not int or config.repeats < 1:
        raise UserError(f"repeats={config.repeats} is not a number of at least 1", mend="set repeats to 1 or more")
    if type(config.seconds) not in (int, float) or not 0 < config.seconds < float("inf"):
        raise UserError(f"seconds={config.seconds} is not a time", mend="set seconds to a number above 0")
    return Settings(
        ops=ops,
        peers=_names("peers", config.peers, sorted({peer.name for op in OPS.values() for peer in op.peers})),
        device=device,
        dtype=getattr(torch, dtype),
        lengths=None if config.lengths is None else _lengths(config.lengths),
        repeats=config.repeats,
        seconds=float(config.seconds),
        out=_folder(config.out),
    )


def _names(key: str, value: object, choices: Collection[str]) -> tuple[str, ...]:
    """One name, or several, or `all`; null is none."""
    if value == "all":
        return tuple(choices)
    names = tuple(value) if isinstance(value, ListConfig) else () if value is None else (value,)
    for name in names:
        _check_name(key, name, choices)
    return tuple(dict.fromkeys(names))


def _check_name(key: str, name: object, choices: Collection[str]) -> None:
    if isinstance(name, str) and name in choices:
        return
    close = cli.nearest(str(name), choices)
    hint = f"did you mean {close}? There are" if close else "choose one of"
    raise UserError(f"{key}={name} does not exist", mend=f"{hint} {', '.join(choices)}")


def _device(wanted: object) -> str:
    _check_name("device", wanted, DEVICES)
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, and no CUDA GPU is seen here", mend="choose device=cpu")
    return str(wanted)


def _lengths(value: object) -> tuple[int, ...]:
    lengths = tuple(value) if isinstance(value, ListConfig) else (value,)
    if not lengths or any(type(length) is not int or length < 1 for length in lengths):
        raise UserError(
            f"lengths={value} is no list of lengths", mend="give numbers of at least 1: lengths=[1024,4096]"
        )
    return tuple(sorted(set(lengths)))


def _folder(value: object) -> Path:
    """A folder that holds no result yet. It is made when there is one, so whether it can be is looked at now."""
    if not isinstance(value, str) or not value:
        raise UserError(f"out={value} is no folder", mend="name one: out=timings")
    out = Path(value)
    existing = next((path for path in (out, *out.absolute().parents) if path.exists()), out)
    if not existing.is_dir():
        raise UserError(f"out={out}: {existing} is a file", mend="name another folder")
    if not os.access(existing, os.W_OK):
        raise UserError(f"out={out} cannot be written", mend="name another folder")
    if any((out / name).exists() for name in RESULTS):
        raise UserError("it holds a result already", where=out, mend="choose another out=<folder>")
    return out
