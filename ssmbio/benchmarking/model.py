"""An audio model measured: its training steps and its decoding, printed and written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from ssmbio import cli
from ssmbio.benchmarking import model_report, report
from ssmbio.benchmarking.decoding import StepLoop, generated
from ssmbio.benchmarking.environment import facts, load
from ssmbio.benchmarking.model_row import GENERATION, LOOP, TRAINING, ModelRow, generation_row, measured_row
from ssmbio.benchmarking.model_settings import RESULTS, ModelSettings, check_lengths, read_model_settings
from ssmbio.benchmarking.row import MEASURED, OURS, OUT_OF_MEMORY
from ssmbio.benchmarking.timing import once_ms, rounds_within, times_ms
from ssmbio.benchmarking.training import CHECKPOINTING, GRAPHS, TrainingStep, random_batch
from ssmbio.benchmarking.trial import free, is_out_of_memory, tried
from ssmbio.build import build_pipeline
from ssmbio.data.audio_codes import Encoding
from ssmbio.pipelines import AudioGenerate
from ssmbio.training.results import count_parameters


def benchmark_model(config: DictConfig) -> list[ModelRow]:
    """Prints a line as soon as it is measured; leaves model.json and model.csv in `out`.

    What was measured is written also when something fails on the way; `complete` in the JSON says whether it is all.
    """
    busy = load()
    settings = read_model_settings(config)
    model = _build(config, settings)
    check_lengths(settings, model.period)
    with cli.faults_of("optimizer"):
        model.try_optimizer()
    parameters = count_parameters(model)
    chosen = {"name": settings.model, "parameters": parameters}
    chosen |= {"settings": OmegaConf.to_container(config.model, resolve=True)}
    about = facts(settings.device, busy) | {"sample_rate": settings.sample_rate, "model": chosen}
    print(f"{settings.model}: {parameters:,} parameters", model_report.header(), sep="\n", flush=True)
    rows: list[ModelRow] = []
    try:
        for found in _measured(config, settings, model):
            rows += found
            print(*model_report.lines(found), sep="\n", flush=True)
        about["complete"] = True
    finally:
        if rows:
            report.write_json(settings.out / RESULTS[0], about, rows)
            report.write_csv(settings.out / RESULTS[1], rows)
    print(*model_report.remarks(rows, settings.sample_rate, busy), sep="\n")
    print(f"written to {settings.out}: {', '.join(RESULTS)}")
    return rows


def _measured(config: DictConfig, settings: ModelSettings, model: AudioGenerate) -> Iterator[list[ModelRow]]:
    """The rows of one size after another."""
    if TRAINING in settings.parts:
        for clips, length in settings.training:
            for way in settings.ways:
                yield [_training(config, settings, clips, length, way)]
    if GENERATION in settings.parts:
        model.to(settings.device).eval()
        for batch_size in settings.batch_sizes:
            yield _generation(settings, model, batch_size)


def _training(config: DictConfig, settings: ModelSettings, clips: int, length: int, way: str) -> ModelRow:
    """Of a new model, so that none pays for what another left behind."""
    device, graphs = settings.device, way == GRAPHS
    pipeline = _build(config, settings, checkpointing=way == CHECKPOINTING).to(device)
    step = TrainingStep(pipeline, random_batch(clips, length, pipeline.levels, device), settings.dtype, graphs)
    # What a graph holds is there from its capture on.
    trial = tried(step, device, ours=not graphs, made_at_first=graphs)
    times: list[float] = []
    if trial.call is not None:
        rounds = rounds_within(trial.warm_ms, settings.repeats, settings.seconds)
        try:
            # One after the other as in training: a GPU that waits for Python does so there too.
            times = times_ms({way: trial.call}, device, rounds, cold=False)[way]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            trial.drop(OUT_OF_MEMORY)
    dtype = str(settings.dtype).removeprefix("torch.")
    row = ModelRow(settings.model, TRAINING, way, device, dtype, clips, length, trial.status)
    row = measured_row(row, trial, times) if times else row
    del step, trial, pipeline
    free(device)
    return row


def _generation(settings: ModelSettings, model: AudioGenerate, batch_size: int) -> list[ModelRow]:
    """Ours, and then the peer: rounds of ours overlap, so they cannot take turns with another's."""
    device, rows = settings.device, []
    trial, times = generated(model, batch_size, device, settings.repeats, settings.seconds)
    row = ModelRow(settings.model, GENERATION, OURS, device, None, batch_size, 1, trial.status)
    rows.append(generation_row(row, trial, times, settings.sample_rate) if times else row)
    if LOOP in settings.peers:
        row = ModelRow(settings.model, GENERATION, LOOP, device, "float32", batch_size, 1, MEASURED)
        rows.append(_looped(settings, model, row, rows[0]))
    free(device)
    return rows


def _looped(settings: ModelSettings, model: AudioGenerate, row: ModelRow, ours: ModelRow) -> ModelRow:
    """`row` with the figures of the plain loop."""
    device, loop = settings.device, StepLoop(model, row.batch)
    trial = tried(loop, device, ours=False, made_at_first=True)
    if trial.call is None:
        return replace(row, status=trial.status)
    rounds = rounds_within(trial.warm_ms, settings.repeats, settings.seconds)
    times = [once_ms(trial.call, device) / loop.positions for _ in range(rounds)]
    return generation_row(row, trial, times, settings.sample_rate, ours)


def _build(config: DictConfig, settings: ModelSettings, checkpointing: bool = False) -> AudioGenerate:
    """The model with random weights, the same each time; raises UserError for one that cannot generate."""
    if checkpointing:
        config = config.copy()
        with open_dict(config):
            config.model.activation_checkpointing = True
    torch.manual_seed(0)
    _, length = settings.training[0]
    audio = {"sample_rate": settings.sample_rate, "length": length, "encoding": Encoding().plain()}
    pipeline = build_pipeline(config, {"audio": audio})
    assert isinstance(pipeline, AudioGenerate)
    return pipeline
