"""`python -m ssmbio.generate ckpt=… n=… seconds=… out=…`: clips of audio from a checkpoint, as files or as a stream."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

import ssmbio
from ssmbio import cli
from ssmbio.benchmarking.environment import command
from ssmbio.checkpoints import load_pipeline
from ssmbio.data.audio_files import audio_info, frames_at, read_audio
from ssmbio.errors import UserError
from ssmbio.generation.clip_files import FORMATS, PAGE, ClipFolder, check_folder, prepare_folder
from ssmbio.generation.clips import generate_clips, stream_codes
from ssmbio.generation.page import write_page
from ssmbio.generation.progress import ProgressLine, Speed
from ssmbio.generation.sampling import SamplingSettings, check_seed
from ssmbio.generation.stream import audio_output, how_to_play, write_stream
from ssmbio.pipelines import AudioGenerate


def generate(config: DictConfig) -> int:
    """Write clips into a folder, or one to standard output; returns how many samples were generated."""
    cli.require_values(config)
    check_settings(config)
    sampling = SamplingSettings(config.temperature, config.top_k, config.top_p, config.min_p)
    return _stream(config, sampling) if config.stream else _write_clips(config, sampling)


def _write_clips(config: DictConfig, sampling: SamplingSettings) -> int:
    folder = Path(str(config.out))
    check_folder(folder, config.overwrite, [] if config.prompt is None else [Path(str(config.prompt))])
    model = load_model(config)
    samples = clip_samples(config, model)
    samples = model.facts["audio"]["length"] if samples is None else samples
    prompt = read_prompt(config, model, samples)
    made_here = not folder.exists()
    prepare_folder(folder)
    speed = Speed(model.sample_rate)
    line = ProgressLine(config.n, samples - (0 if prompt is None else len(prompt)), speed)
    clips = ClipFolder(folder, model.sample_rate, model.encoding, config.n, config.format, config.keep, config.sort)

    def page(notice: str = "") -> None:
        shown = facts(config, model, samples, prompt, speed)
        source, typed = str(config.ckpt), command("ssmbio.generate")
        write_page(folder, clips.clips, model.sample_rate, shown, source=source, command=typed, notice=notice)

    try:
        with clips, line.shown():
            made = generate_clips(
                model,
                n=config.n,
                samples=samples,
                settings=sampling,
                seed=config.seed,
                prompt=prompt,
                batch_size=config.batch_size,
                on_progress=line.advance,
            )
            for clip in speed.timed(made):
                clips.add(clip)
                line.clip_done()
    except BaseException:
        # Ctrl-C or a full disk: what is finished gets its page too, if there is room for it.
        if clips.clips:
            with suppress(UserError, OSError):
                page(f"This was interrupted before all of the {config.n:,} clips were made.")
        elif made_here:
            with suppress(OSError):  # something else has been put there
                folder.rmdir()
        raise
    page()
    kept = f", of which {len(clips.clips):,} are kept" if len(clips.clips) < config.n else ""
    print(f"{config.n:,} clip{'s' if config.n > 1 else ''} made at {speed}{kept}: {folder / PAGE}")
    return speed.samples


def _stream(config: DictConfig, sampling: SamplingSettings) -> int:
    with audio_output() as output:
        model = load_model(config)
        samples = clip_samples(config, model)
        prompt = read_prompt(config, model, samples)
        speed = Speed(model.sample_rate)
        print(how_to_play(model.sample_rate), file=sys.stderr)

        def made() -> Iterator[np.ndarray]:
            codes = stream_codes(model, settings=sampling, seed=config.seed, prompt=prompt, samples=samples)
            for piece in speed.timed(codes):
                speed.samples += len(piece)
                yield piece

        pieces = made() if prompt is None else chain([prompt], made())
        written = write_stream(output, pieces, model.encoding, model.sample_rate)
        print(f"{written:,} samples at {speed}", file=sys.stderr)
    return speed.samples


def check_settings(config: DictConfig) -> None:
    """Raises UserError for numbers that are none, and for settings that do not go together."""
    for name in ("n", "samples", "keep", "batch_size"):
        value = config[name]
        if not (value is None and name in ("samples", "keep")) and not (type(value) is int and value >= 1):
            raise UserError(f"{name}={value} is not a number of at least 1", mend=f"set {name} to 1 or more")
    for name in ("seconds", "prompt_seconds"):
        value = config[name]
        if value is not None and not (type(value) in (int, float) and 0 < value < math.inf):
            raise UserError(f"{name}={value} is not a length", mend=f"set {name} to a number above 0")
    for name in ("sort", "overwrite", "resample", "stream"):
        if type(config[name]) is not bool:
            raise UserError(f"{name}={config[name]} is unknown", mend="choose true or false")
    for name, choices in (("format", FORMATS), ("device", ("auto", "cpu", "cuda"))):
        if config[name] not in choices:
            raise UserError(f"{name}={config[name]} is unknown", mend=f"choose {' or '.join(choices)}")
    check_seed(config.seed)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no GPU", mend="use device=cpu")
    if config.seconds is not None and config.samples is not None:
        raise UserError("seconds and samples are both set", mend="leave one of them out")
    if config.prompt_seconds is not None and config.prompt is None:
        raise UserError("prompt_seconds is set but prompt is not", mend="set prompt too, or leave prompt_seconds out")
    if config.keep is not None and config.keep > config.n:
        raise UserError(f"keep={config.keep} of n={config.n} clips", mend="make more, or keep fewer")
    if config.stream and (config.n > 1 or config.keep is not None or config.sort):
        raise UserError("stream=true makes one clip and no files", mend="leave n, keep and sort out")


def load_model(config: DictConfig) -> AudioGenerate:
    """The checkpoint's model, on the device of the settings."""
    model = load_pipeline(config.ckpt, AudioGenerate.task_name, trusted=cli.listed(config.trust))
    if not isinstance(model, AudioGenerate):
        raise UserError(f"it builds {type(model).__name__}, which generates no audio", where=str(config.ckpt))
    return model.to("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")


def clip_samples(config: DictConfig, model: AudioGenerate) -> int | None:
    """How long a clip is to be, by the settings; None: they do not say."""
    return max(1, round(config.seconds * model.sample_rate)) if config.seconds is not None else config.samples


def read_prompt(config: DictConfig, model: AudioGenerate, samples: int | None) -> np.ndarray | None:
    """The codes that clips begin with, (P,) uint8; None without a prompt.

    Args:
        samples: of a clip with its prompt; None: there is no end.

    Raises:
        UserError: not audio, another rate without permission, less than is asked for, or as long as the clip.
    """
    if config.prompt is None:
        return None
    path, rate = Path(str(config.prompt)), model.sample_rate
    info = audio_info(path)
    if info.sample_rate != rate and not config.resample:
        raise UserError(f"{info.sample_rate:,} Hz, not the model's {rate:,} Hz", where=path, mend="set resample=true")
    there = frames_at(info, rate)
    used = there if config.prompt_seconds is None else max(1, round(config.prompt_seconds * rate))
    if used > there:
        raise UserError(
            f"it lasts {there / rate:.6g} s, and prompt_seconds={config.prompt_seconds}",
            where=path,
            mend="set prompt_seconds to no more than that, or leave it out",
        )
    if samples is not None and used >= samples:
        raise UserError(
            f"a prompt of {used / rate:.6g} s leaves nothing to generate in a clip of {samples / rate:.6g} s",
            where=path,
            mend="use less of it with prompt_seconds, or make longer clips with seconds",
        )
    rescale = model.encoding.rescale
    return model.encoding.encode(read_audio(path, sample_rate=rate, frames=used, beyond_one=rescale))


def facts(
    config: DictConfig, model: AudioGenerate, samples: int, prompt: np.ndarray | None, speed: Speed
) -> Mapping[str, str]:
    """What the page says of all clips: how they were made, and how fast."""
    rate, encoding = model.sample_rate, model.encoding
    limits = {"top-k": config.top_k, "top-p": None if config.top_p == 1 else config.top_p, "min-p": config.min_p}
    drawn = [f"temperature {config.temperature:g}", *(f"{name} {value:g}" for name, value in limits.items() if value)]
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "CPU"
    shown: dict[str, Any] = {
        "Length": f"{samples / rate:,.6g} s, {samples:,} samples",
        "Sample rate": f"{rate:,} Hz",
        "Encoding": f"{encoding.kind.replace('_', '-')}, {encoding.bits} bits",
        "Sampling": ", ".join(drawn),
        "Seed": config.seed,
        "Speed": speed,
        "Device": device,
        "Parameters": f"{sum(weights.numel() for weights in model.parameters()):,}",
        "Version": f"ssmbio {ssmbio.__version__}",
    }
    if prompt is not None:
        shown["Prompt"] = f"{Path(str(config.prompt)).name}, {len(prompt) / rate:.6g} s"
    if config.keep is not None:
        shown["Kept"] = f"the {config.keep:,} likeliest of {config.n:,}"
    return {name: str(value) for name, value in shown.items()}


def main() -> None:
    cli.run("generate", generate)


if __name__ == "__main__":
    main()
