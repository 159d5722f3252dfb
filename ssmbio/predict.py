"""`python -m ssmbio.predict ckpt=… input=… output=…`: classify the sequences of a file, in constant memory."""

from __future__ import annotations

import gzip
import io
from itertools import chain
from pathlib import Path
from typing import IO, TextIO, cast

from omegaconf import DictConfig
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
    for name in ("window", "stride", "batch_size"):
        if config[name] is not None and config[name] < 1:
            raise UserError(f"{name}={config[name]} must be at least 1", mend=f"set {name} to a number of 1 or more")
    if config.stride is not None and config.window is None:
        raise UserError("stride is set but window is not", mend="set window too, or leave stride out")
    pipeline = cast(DnaClassify, load_pipeline(config.ckpt, "dna_classify", tuple(config.trust)))
    predictor = Predictor(pipeline, config.device, config.precision, config.both_strands)
    records = iter_records(
        config.input, fasta=config.fasta, sequence_column=config.sequence_column, name_column=config.name_column
    )
    pieces = chain.from_iterable(windows(record, config.window, config.stride) for record in records)
    checked = (check_length(piece, pipeline.facts["max_length"]) for piece in pieces)

    written = 0
    columns = (SpinnerColumn(), TextColumn("{task.completed:,} sequences"), TimeElapsedColumn())
    with whole_file(config.output, "wb") as raw, Progress(*columns, transient=True) as progress:
        shown = progress.add_task("", total=None)
        with _text(raw, compressed=Path(config.output).suffix == ".gz") as file:
            file.write(prediction_header(pipeline.labels))
            for batch in batches(checked, config.batch_size):
                for record, scores in zip(batch, predictor(batch), strict=True):
                    label = named_label(scores, pipeline.labels, pipeline.problem)
                    file.write(prediction_row(record, label, scores.tolist()))
                written += len(batch)
                progress.advance(shown, len(batch))
    print(f"{written:,} predictions in {config.output}")
    return written


def _text(raw: IO[bytes], compressed: bool) -> TextIO:
    stream = cast(IO[bytes], gzip.GzipFile(fileobj=raw, mode="wb", mtime=0)) if compressed else raw
    return io.TextIOWrapper(stream, encoding="utf-8", newline="\n")


def main() -> None:
    cli.run("predict", predict)


if __name__ == "__main__":
    main()
