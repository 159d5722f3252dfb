"""`python -m ssmbio.benchmark kernels` or `model`: how fast the ops, or a model, are here."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from ssmbio import cli
from ssmbio.benchmarking.kernels import benchmark_kernels
from ssmbio.benchmarking.model import benchmark_model
from ssmbio.benchmarking.model_row import ModelRow
from ssmbio.benchmarking.model_settings import with_small_model
from ssmbio.benchmarking.row import Row
from ssmbio.benchmarking.settings import read_settings
from ssmbio.errors import UserError

KERNELS, MODEL = WORDS = ("kernels", "model")


def benchmark(config: DictConfig) -> Sequence[Row | ModelRow]:
    """Measure what the first word says."""
    if config.what == MODEL:
        return benchmark_model(config)
    if config.what == KERNELS:
        return benchmark_kernels(read_settings(config))
    said = "what to measure is not said" if config.what is None else f"`{config.what}` cannot be measured"
    close = cli.nearest(str(config.what), WORDS) or KERNELS
    raise UserError(said, mend=f"did you mean python -m ssmbio.benchmark {close}? There are {' and '.join(WORDS)}")


def with_first_word(arguments: list[str]) -> list[str]:
    """`kernels key=value` → `what=kernels key=value`: Hydra knows keys and values alone."""
    if not arguments or arguments[0].startswith("-") or "=" in arguments[0]:
        return arguments
    return [f"what={arguments[0]}", *arguments[1:]]


def main() -> None:
    sys.argv[1:] = with_first_word(sys.argv[1:])
    if f"what={MODEL}" in sys.argv[1:]:
        # A model has settings of its own, and groups to choose from.
        sys.argv[1:] = with_small_model(sys.argv[1:])
        cli.run("benchmark_model", benchmark)
    else:
        cli.run("benchmark", benchmark)


if __name__ == "__main__":
    main()
