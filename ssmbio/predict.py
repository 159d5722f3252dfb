"""`python -m ssmbio.predict ckpt=… input=… output=…`: classify what a file or a folder holds, in constant memory."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, TextIO, cast

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ssmbio import cli
from ssmbio.data.audio_clips import middle
from ssmbio.data.audio_folder import audio_files
from ssmbio.data.audio_set import AudioSet, Waveform
from ssmbio.data.images import Image, iter_images
from ssmbio.data.listops_source import SOURCE, ListopsTokenizer, iter_listops
from ssmbio.data.streams import iter_records
from ssmbio.data.text_files import bare_suffix
from ssmbio.ensembles import load_classifiers
from ssmbio.errors import UserError
from ssmbio.files import whole_file
from ssmbio.pipelines import AudioClassify, Classify, DnaClassify, PixelClassify, SequenceClassify
from ssmbio.prediction import Predictor, batches, check_length, named_header, named_row, windows
from ssmbio.resampled import resample
from ssmbio.training.results import named_label, prediction_header, prediction_row

# Settings of prediction that have a meaning for some inputs alone.
_FOR_DNA = ("fasta", "length", "window", "stride", "both_strands")
_FOR_SEQUENCES = (*_FOR_DNA, "name_column")


def predict(config: DictConfig) -> int:
    """Write one line for each record, window or image; returns how many."""
    cli.require_values(config)
    check_settings(config)
    pipeline = load_classifiers(cli.listed(config.ckpt), cli.listed(config.trust))
    resample(pipeline, config.rate)
    inputs = read_inputs(pipeline, config)
    predictor = Predictor(pipeline, config.device, config.precision, config.both_strands)

    written = 0
    columns = (SpinnerColumn(), TextColumn("{task.completed:,} done"), TimeElapsedColumn())
    console = Console(stderr=True)
    # Even a progress display that is wiped at the end leaves an empty line where there is no terminal.
    display = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with whole_file(str(config.output), "wb") as raw, display as progress:
        shown = progress.add_task("", total=None)
        with _text(raw, compressed=Path(str(config.output)).suffix == ".gz") as file:
            file.write(prediction_header(pipeline.labels) if pipeline.placed else named_header(pipeline.labels))
            for batch in batches(inputs, config.batch_size):
                for record, scores in zip(batch, predictor(batch), strict=True):
                    label = named_label(scores, pipeline.labels, pipeline.problem)
                    row = prediction_row if pipeline.placed else named_row
                    file.write(row(record, label, scores.tolist()))
                written += len(batch)
                progress.advance(shown, len(batch))
    print(f"{written:,} predictions in {config.output}")
    return written


def read_inputs(pipeline: Classify, config: DictConfig) -> Iterator[Any]:
    """What a pipeline classifies, from the file or folder `config.input`, one after the other.

    Raises:
        UserError: an input that cannot be read, one that is not what the model takes, or a setting that has no meaning
            for this task; some of them when the reading comes to it.
    """
    if isinstance(pipeline, PixelClassify):
        _refuse(config, _FOR_SEQUENCES, "images")
        return _read_images(pipeline, Path(str(config.input)))
    if isinstance(pipeline, AudioClassify):
        _refuse(config, _FOR_SEQUENCES, "audio")
        return _read_clips(pipeline, Path(str(config.input)))
    assert isinstance(pipeline, SequenceClassify)
    if not isinstance(pipeline, DnaClassify):
        _refuse(config, _FOR_DNA, pipeline.task_name)
    if isinstance(pipeline.tokenizer, ListopsTokenizer):
        column = SOURCE if config.sequence_column == "sequence" else config.sequence_column
        records = iter_listops(str(config.input), column, config.name_column)
    else:
        if bare_suffix(str(config.input)) != ".bed":
            _refuse(config, ("length",), "inputs without intervals")
        records = iter_records(
            str(config.input),
            fasta=config.fasta,
            length=pipeline.facts.get("length") if config.length is None else config.length,
            sequence_column=config.sequence_column,
            name_column=config.name_column,
        )
    pieces = chain.from_iterable(windows(record, config.window, config.stride) for record in records)
    longest, unit = pipeline.facts["max_length"], pipeline.tokenizer.unit
    return map(partial(check_length, max_length=longest, unit=unit), pieces)


def _refuse(config: DictConfig, names: Sequence[str], inputs: str) -> None:
    for name in names:
        if config[name] is not None:
            raise UserError(f"{name}={config[name]} has no meaning for {inputs}", mend=f"leave {name} out")


def _read_images(pipeline: PixelClassify, path: Path) -> Iterator[Image]:
    for image in iter_images(path, pipeline.image.format):
        where = path / image.name if path.is_dir() else path
        pipeline.image.check(image.pixels.shape, str(where), "resize it, or train with data.size=<pixels>")
        yield image


def _read_clips(pipeline: AudioClassify, path: Path) -> Iterator[Waveform]:
    """A file, or all below a folder, at the model's rate; of longer clips than in training the middle.

    All are looked through first, so that a fault outside of the middle is one too.
    """
    if not path.exists():
        raise UserError("there is no such file or folder", where=path, mend="check the path")
    files = audio_files(path) if path.is_dir() else [path]
    if not files:
        raise UserError("no audio files in it", where=path, mend="give a folder with wav, flac, ogg or mp3 files")
    root = path if path.is_dir() else path.parent
    clips = AudioSet.of_files(files, None, sample_rate=pipeline.sample_rate, resample=True, root=root)
    clips.check_samples()
    places = (middle(int(frames), pipeline.facts["audio"]["length"]) for frames in clips.frames)
    return (Waveform(clips.name_of(i), clips.read(i, *place)) for i, place in enumerate(places))


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
        if any(_same_file(output, Path(str(read))) for read in cli.listed(config[name])):
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
