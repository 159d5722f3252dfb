"""`python -m ssmbio.predict ckpt=… input=… output=…`: classify the sequences of a file, in constant memory."""

from __future__ import annotations

import gzip
import io
import os
from itertools import chain
from pathlib import Path
from typing import IO, TextIO, cast

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ssmbio import cli
from ssmbio.checkpoints import load_pipeline
from ssmbio.data.streams import iter_records
from ssmbio.errors import UserError
from ssmbio.files import whole_file
from ssmbio.pipelines.dna_classify import DnaClassify
from ssmbio.prediction import Predictor, batches, check_length, windows
from ssmbio.training.results import named_label, prediction_header, prediction_row


def predict(config: DictConfig) -> int:
    """Write one line for each record or window; returns how many."""
    cli.require_values(config)
    check_settings(config)
    pipeline = cast(DnaClassify, load_pipeline(config.ckpt, "dna_classify", cli.listed(config.trust)))
    predictor = Predictor(pipeline, config.device, config.precision, config.both_strands)
    records = iter_records(
        str(config.input),
        fasta=config.fasta,
        length=pipeline.facts.get("length") if config.length is None else config.length,
        sequence_column=config.sequence_column,
        name_column=config.name_column,
    )
    pieces = chain.from_iterable(windows(record, config.window, config.stride) for record in records)
    checked = (check_length(piece, pipeline.facts["max_length"]) for piece in pieces)

    written = 0
    columns = (SpinnerColumn(), TextColumn("{task.completed:,} sequences"), TimeElapsedColumn())
    console = Console(stderr=True)
    # Even a progress display that is wiped at the end leaves an empty line where there is no terminal.
    display = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with whole_file(str(config.output), "wb") as raw, display as progress:
        shown = progress.add_task("", total=None)
        with _text(raw, compressed=Path(str(config.output)).suffix == ".gz") as file:
            file.write(prediction_header(pipeline.labels))
            for batch in batches(checked, config.batch_size):
                for record, scores in zip(batch, predictor(batch), strict=True):
                    label = named_label(scores, pipeline.labels, pipeline.problem)
                    file.write(prediction_row(record, label, scores.tolist()))
                written += len(batch)
                progress.advance(shown, len(batch))
    print(f"{written:,} predictions in {config.output}")
    return written


def check_settings(config: DictConfig) -> None:
    """Raises UserError for numbers that are none, and for an output that is a folder or a file which is read."""
    for name in ("window", "stride", "length", "batch_size"):
        value = config[name]
        if (value is None and name != "batch_size") or (type(value) is int and value >= 1):
            continue
        raise UserError(f"{name}={value} is not a number of at least 1", mend=f"set {name} to 1 or more")
    if config.stride is not None and config.window is None:
        raise UserError("stride is set but window is not", mend="set window too, or leave stride out")
    if config.both_strands is not None and not isinstance(config.both_strands, bool):
        raise UserError(f"both_strands={config.both_strands} is unknown", mend="choose true, false or null")
    output = Path(str(config.output))
    if output.is_dir():
        raise UserError(
            f"output={output} is a folder", mend=f"name a file in it, as output={output / 'predictions.tsv'}"
        )
    for name in ("input", "fasta", "ckpt"):
        if config[name] is not None and _same_file(output, Path(str(config[name]))):
            raise UserError(f"output={output} is the {name} itself", mend="choose another output")


def _same_file(one: Path, two: Path) -> bool:
    return one.exists() and two.exists() and os.path.samefile(one, two)


def _text(raw: IO[bytes], compressed: bool) -> TextIO:
    stream = cast(IO[bytes], gzip.GzipFile(fileobj=raw, mode="wb", mtime=0)) if compressed else raw
    return io.TextIOWrapper(stream, encoding="utf-8", newline="\n")


def main() -> None:
    cli.run("predict", predict)


if __name__ == "__main__":
    main()
