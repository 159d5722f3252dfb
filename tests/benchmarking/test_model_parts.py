"""Training steps are training, rounds of decoding are generation, and the figures of a row follow from their times."""

from __future__ import annotations

import copy
import time
from functools import partial

import pytest
import torch

from ssmbio.backbones import Stack, UNet
from ssmbio.benchmarking import decoding
from ssmbio.benchmarking.decoding import Enough, RoundClock, StepLoop, generated
from ssmbio.benchmarking.model_report import header, lines, remarks
from ssmbio.benchmarking.model_row import GENERATION, LOOP, TRAINING, ModelRow, generation_row, measured_row
from ssmbio.benchmarking.model_settings import with_small_model
from ssmbio.benchmarking.row import OURS
from ssmbio.benchmarking.timing import LEAST_ROUNDS
from ssmbio.benchmarking.training import TrainingStep, random_batch
from ssmbio.benchmarking.trial import Trial, tried
from ssmbio.data.audio_codes import Encoding
from ssmbio.generation import generate_clips
from ssmbio.mixers import S4D
from ssmbio.pipelines import AudioGenerate

FACTS = {"audio": {"sample_rate": 8000, "length": 32, "encoding": Encoding().plain()}}


def model(period: int = 16, checkpointing: bool = False) -> AudioGenerate:
    torch.manual_seed(0)
    mixer = partial(S4D, d_state=8)
    if period == 1:
        backbone: Stack | UNet = Stack(8, 1, mixer, activation_checkpointing=checkpointing)
    else:
        backbone = UNet(8, 1, mixer=mixer, activation_checkpointing=checkpointing)
    return AudioGenerate(backbone, FACTS, optimizer=partial(torch.optim.AdamW, lr=1e-2))


def test_a_batch_is_full_of_codes_that_differ():
    batch = random_batch(3, 400, 256, "cpu")
    assert (batch["codes"].shape, batch["codes"].dtype) == ((3, 400), torch.uint8)
    assert batch["lengths"].tolist() == [400] * 3
    assert len(batch["codes"].unique()) > 200


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_moves_the_weights_as_an_optimizer_on_the_loss_does(checkpointing):
    net, batch = model(checkpointing=checkpointing), random_batch(2, 32, 256, "cpu")
    expected = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(expected.parameters(), lr=1e-2, weight_decay=0.0)
    step = TrainingStep(net, batch, torch.float32)
    for group in step._optimizer.param_groups:
        group["lr"], group["weight_decay"] = 1e-2, 0.0
    for _ in range(3):
        step()
        optimizer.zero_grad()
        expected.loss(batch).backward()
        optimizer.step()
    for (name, weights), other in zip(net.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(weights, other, msg=name)
    assert expected.loss(batch) < model().loss(batch) - 0.1


def test_autocast_computes_in_the_dtype_and_leaves_the_weights():
    net, seen = model(), []
    net.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    TrainingStep(net, random_batch(2, 32, 256, "cpu"), torch.bfloat16)()
    assert seen == [torch.bfloat16]
    assert {weights.dtype for weights in net.parameters()} == {torch.float32}


@pytest.mark.parametrize("period", [1, 16])
def test_the_loop_takes_the_steps_of_the_model_from_the_start_of_a_clip(monkeypatch, period):
    """With the likeliest code in place of a draw, so that codes follow from the model alone."""
    monkeypatch.setattr(decoding, "draw", lambda logits, uniform, settings: (logits.argmax(-1), uniform))
    net = model(period).eval()
    loop = StepLoop(net, 3)
    assert loop.positions == 16
    codes = torch.cat([loop(), loop()], 1)
    before = torch.cat([torch.full((3, 1), net.encoding.zero), codes[:, :-1]], 1)
    assert torch.equal(codes, net.prefill(before)[0].argmax(-1))


def test_a_call_of_the_loop_is_whole_periods():
    net = model()
    for period, positions in ((1, 16), (12, 12), (16, 16), (64, 64)):
        net.period = period
        assert StepLoop(net, 1).positions == positions


def test_the_loop_draws_codes_that_differ():
    net = model().eval()
    assert len(StepLoop(net, 8)().unique()) > 10


def test_the_clock_takes_times_of_a_position_between_rounds(monkeypatch):
    """Rounds of 256 and then 128 positions of 2 clips, after a first one that took five seconds."""
    now = iter([10.0, 15.0, 15.512, 15.640, 15.768])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = RoundClock(2, repeats=3, seconds=2)
    for samples in (400, 512, 256):
        clock(samples)
    with pytest.raises(Enough):
        clock(256)
    assert clock.first_ms == pytest.approx(5000)
    assert clock.times == pytest.approx([2.0, 1.0, 1.0])


def test_the_clock_stops_early_when_rounds_are_long(monkeypatch):
    seconds = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(seconds)))
    clock = RoundClock(1, repeats=20, seconds=2)
    for _ in range(LEAST_ROUNDS):
        clock(256)
    with pytest.raises(Enough):
        clock(256)
    assert len(clock.times) == LEAST_ROUNDS


@pytest.mark.parametrize("batch_size", [1, 3])
def test_clips_are_generated_until_their_rounds_are_timed(monkeypatch, batch_size):
    """As many samples as there are rounds, of one more for the first, and the time is that of them all."""
    made = []

    def counted(model, *, on_progress, **settings):
        assert (settings["n"], settings["batch_size"]) == (batch_size, batch_size)

        def told(samples):
            made.append(samples)
            on_progress(samples)

        return generate_clips(model, on_progress=told, **settings)

    monkeypatch.setattr(decoding, "generate_clips", counted)
    start = time.perf_counter()
    trial, times = generated(model().eval(), batch_size, "cpu", repeats=5, seconds=100)
    passed = 1e3 * (time.perf_counter() - start)
    assert len(times) == len(made) - 1 == 5
    spent = trial.first_ms + sum(each * samples / batch_size for each, samples in zip(times, made[1:], strict=True))
    assert 0.3 * passed < spent <= passed


def test_generation_out_of_memory_is_told_and_other_faults_are_raised(monkeypatch):
    def failing(error):
        def generate(*arguments, **settings):
            raise error

        return generate

    monkeypatch.setattr(decoding, "generate_clips", failing(torch.OutOfMemoryError("CUDA out of memory")))
    trial, times = generated(model(), 1, "cpu", 3, 1.0)
    assert (trial.status, times) == ("out of memory", [])
    monkeypatch.setattr(decoding, "generate_clips", failing(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        generated(model(), 1, "cpu", 3, 1.0)


def row(part: str, way: str, batch: int, length: int, status: str = "measured") -> ModelRow:
    return ModelRow("small", part, way, "cpu", "float32", batch, length, status)


def test_figures_of_training():
    trial = Trial("measured", None, 2000.0, 30.0, 2**31)
    made = measured_row(row(TRAINING, "plain", 8, 16000), trial, [20.0, 10.0, 30.0])
    assert (made.ms, made.ms_low, made.ms_high, made.calls) == (20.0, 15.0, 25.0, 3)
    assert made.samples_per_s == 8 * 16000 / 20e-3
    assert (made.peak_gib, made.first_call_s, made.real_time) == (2.0, 2.0, None)


def test_figures_of_generation_are_of_one_position():
    """A quarter of a millisecond for 4 clips, and ten times as long by the peer."""
    trial = Trial("measured", None, 500.0)
    ours = generation_row(row(GENERATION, OURS, 4, 1), trial, [0.25], 16000)
    assert (ours.ms, ours.samples_per_s, ours.real_time, ours.ratio) == (0.25, 16000.0, 1.0, None)
    peer = generation_row(row(GENERATION, LOOP, 4, 1), trial, [2.5], 16000, ours)
    assert (peer.ms, peer.ratio, peer.real_time) == (2.5, 10.0, 0.1)


def test_lines_have_the_columns_of_the_header_and_the_peer_beside_ours():
    trial = Trial("measured", None, 500.0, 1.0, 2**30)
    trained = measured_row(row(TRAINING, "graphs", 1, 2**17), trial, [50.0])
    ours = generation_row(row(GENERATION, OURS, 4, 1), trial, [0.25], 16000)
    peer = generation_row(row(GENERATION, LOOP, 4, 1), trial, [2.5], 16000, ours)
    lost = row(TRAINING, "plain", 8, 64, "out of memory")
    made = list(lines([trained, ours, peer, lost]))
    assert made[0].split() == ["training", "B1", "L2^17", "graphs", "50.0", "2.62", "M", "-", "1.00", "0.500"]
    assert made[1].split() == ["generation", "B4", "0.250", "16.0", "k", "1.00×", "1.00", "0.500", "loop", "10.0×"]
    assert made[2].split() == ["training", "B8", "L64", "plain", "out", "of", "memory"]
    for name in ("ms", "samples/s", "GiB"):
        end = header().index(name) + len(name)
        assert {line[end - 1 : end + 1] for line in made[:2]} <= {f"{c} " for c in "0123456789kM"}
    notes = list(remarks([trained, ours, peer], 16000, 3.0))
    assert [note.split(":")[0] for note in notes[:3]] == ["generation", "loop", "graphs"]
    assert "load 3.0" in notes[3]


def test_a_peer_that_fails_is_named_and_ours_raises():
    def call() -> None:
        raise ValueError("no such part")

    assert tried(call, "cpu", ours=False).status == "failed: ValueError: no such part"
    with pytest.raises(ValueError, match="no such part"):
        tried(call, "cpu", ours=True)


@pytest.mark.parametrize(("made_at_first", "expected"), [(True, 130), (False, 30)])
def test_memory_is_counted_from_before_the_call_that_makes_what_stays(monkeypatch, made_at_first, expected):
    """A GPU played: the first call leaves 100 bytes behind, and each call needs 30 more for a while."""
    memory = {"now": 1000, "most": 5000}

    def call() -> None:
        memory["now"] = 1100
        memory["most"] = max(memory["most"], 1130)

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: memory["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: memory["most"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: memory.update(most=memory["now"]))
    assert tried(call, "cuda", ours=True, made_at_first=made_at_first).peak == expected


def test_a_small_model_on_a_cpu_unless_one_is_named(monkeypatch):
    for gpu in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        added = [] if gpu else ["model=sashimi_small"]
        assert with_small_model(["what=model", "parts=training"]) == ["what=model", *added, "parts=training"]
        assert with_small_model(["what=model", "device=cpu"]) == ["what=model", "model=sashimi_small", "device=cpu"]
        assert with_small_model(["what=model", "model=stack"]) == ["what=model", "model=stack"]
        assert with_small_model(["what=model", "device=cpu", "model/mixer=s4"])[1] == "model=sashimi_small"


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True])
def test_steps_on_a_gpu_count_what_they_hold(graphs):
    """The loss falls, and twice the clips take about twice the memory."""
    peaks = []
    for clips in (128, 256):  # enough for what a graph holds besides, 0.2 GB, to be small
        net, batch = model().cuda(), random_batch(clips, 4096, 256, "cuda")
        before = net.loss(batch).item()
        trial = tried(TrainingStep(net, batch, torch.bfloat16, graphs), "cuda", ours=True, made_at_first=graphs)
        assert net.loss(batch).item() < before
        peaks.append(trial.peak)
    assert 1.5 < peaks[1] / peaks[0] < 2.5


@pytest.mark.gpu
def test_generation_on_a_gpu_counts_what_it_holds_and_is_faster_than_the_loop():
    net = model().cuda().eval()
    trial, times = generated(net, 3, "cuda", 5, 2.0)
    assert len(times) == 5
    assert trial.peak > sum(weights.nbytes for weights in net.parameters())
    loop = StepLoop(net, 3)
    loop()
    start = time.perf_counter()
    loop().cpu()
    assert 1e3 * (time.perf_counter() - start) / loop.positions > 2 * sorted(times)[2]
