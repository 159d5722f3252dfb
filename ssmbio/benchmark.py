"""`python -m ssmbio.benchmark kernels`: how fast the ops are here, against the hardware and what else is installed."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from ssmbio import cli
from ssmbio.benchmarking.kernels import benchmark_kernels
from ssmbio.benchmarking.row import Row
from ssmbio.benchmarking.settings import read_settings
from ssmbio.errors import UserError

WORDS = {"kernels": benchmark_kernels}


def benchmark(config: DictConfig) -> list[Row]:
    """Measure what the first word says."""
    if config.what not in WORDS:
        close = cli.nearest(str(config.what), WORDS) or next(iter(WORDS))
        said = "what to measure is not said" if config.what is None else f"`{config.what}` cannot be measured"
        raise UserError(said, mend=f"did you mean python -m ssmbio.benchmark {close}?")
    return WORDS[config.what](read_settings(config))


def with_first_word(arguments: list[str]) -> list[str]:
    """`kernels key=value` → `what=kernels key=value`: Hydra knows keys and values alone."""
    if not arguments or arguments[0].startswith("-") or "=" in arguments[0]:
        return arguments
    return [f"what={arguments[0]}", *arguments[1:]]


def main() -> None:
    sys.argv[1:] = with_first_word(sys.argv[1:])
    cli.run("benchmark", benchmark)


if __name__ == "__main__":
    main()
