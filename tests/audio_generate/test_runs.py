"""The task audio_generate through the commands: a run, its likelihoods, a kill, a start from other weights."""

from __future__ import annotations

import csv
import html
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from audio_commands import RATE, expect_one_line, run, write
from audio_generate_cases import AUDIO, CLIPS, DATA, LENGTH, SASHIMI, STACK, TINY, sound

from ssmbio.checkpoints import load_pipeline, read_checkpoint
from ssmbio.data.audio_codes import Encoding
from ssmbio.markov import MarkovBaseline
from ssmbio.pipelines import AudioGenerate


def measures(name: str) -> dict[str, float]:
    return json.loads(Path(name, "metrics.json").read_text())


def table(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def mu_law(waveform: np.ndarray, levels: int = 256) -> np.ndarray:
    """The codes that the task is said to have: levels of ITU-T G.711's curve, as SaShiMi's code rounds them."""
    x = waveform.astype(np.float64)
    y = np.sign(x) * np.log1p((levels - 1) * np.abs(x + 1e-8)) / np.log1p(levels - 1)
    return np.floor((y + 1) / 2 * (levels - 0.01) + 0.005).astype(np.int64)


def read_codes(path: Path, levels: int = 256) -> np.ndarray:
    waveform, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = torch.from_numpy(waveform.mean(1))
    return mu_law(torchaudio.functional.resample(mono, rate, RATE).clamp(-1, 1).numpy(), levels)


@torch.no_grad()
def bits_by_steps(model: AudioGenerate, codes: np.ndarray) -> float:
    """Bits of a clip, a sample at a time, each piece of `LENGTH` from a state of zeros."""
    total = 0.0
    for start in range(0, len(codes), LENGTH):
        state, before = model.initial_state(1), torch.tensor([128])
        for code in codes[start : start + LENGTH]:
            logits, state = model.step(before, state)
            total -= float(logits[0].double().log_softmax(0)[code]) / np.log(2)
            before = torch.tensor([int(code)])
    return total


def test_a_run_folder_holds_what_it_promises(trained):
    metrics = measures("run")
    assert metrics["test/records"] == 7
    assert metrics["epochs"] == 1
    assert metrics["parameters"] == sum(p.numel() for p in load_pipeline("run").parameters())
    for name in ("test/nll_bits", "train/positions_per_second", "train/sequences_per_second", "seconds"):
        assert 0 < metrics[name] < float("inf")
    positions = metrics["train/positions_per_second"] / metrics["train/sequences_per_second"]
    assert positions == pytest.approx(LENGTH)  # all clips are longer, so their crops are whole
    for name in ("config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert Path("run", name).stat().st_size > 0
    assert Path("run/pictures/learning_curves.png").read_bytes().startswith(b"\x89PNG")
    assert list(Path("run/logs/tensorboard").rglob("events.out.tfevents.*"))
    facts = {"sample_rate": RATE, "length": LENGTH, "encoding": {"kind": "mu_law", "bits": 8, "rescale": False}}
    assert load_pipeline("run").facts == {"audio": facts}

    listed = table("run/clips/clips.tsv")
    assert [row["file"] for row in listed] == ["clip_000.wav", "clip_001.wav"]
    page = Path("run/clips/index.html").read_text()
    for row in listed:
        waveform, rate = soundfile.read(f"run/clips/{row['file']}")
        assert (len(waveform), rate) == (160, RATE)
        assert row["file"] in page
    # They are those that the command of the page makes of the weights that were tested.
    command = html.unescape(page).split("python -m ssmbio.generate ")[1].split("<")[0].split()
    before = {row["file"]: Path("run/clips", row["file"]).read_bytes() for row in listed}
    assert run("generate", *command)[0] == 0
    assert {name: Path("run/clips", name).read_bytes() for name in before} == before


def test_the_likelihoods_are_those_of_the_files_under_the_checkpoint(trained):
    model = load_pipeline("run", "audio_generate")
    rows = table("run/test_likelihoods.tsv")
    assert [row["name"] for row in rows] == [f"test/{i}.{'flac' if i == 5 else 'wav'}" for i in range(7)]
    total = samples = 0.0
    for row in rows:
        codes = read_codes(Path("clips", row["name"]))
        assert int(row["samples"]) == len(codes)
        bits = bits_by_steps(model, codes)
        assert float(row["nll_bits"]) == pytest.approx(bits / len(codes), rel=1e-4)
        total, samples = total + bits, samples + len(codes)
    assert measures("run")["test/nll_bits"] == pytest.approx(total / samples, rel=1e-5)
    weighted = sum(float(row["nll_bits"]) * int(row["samples"]) for row in rows) / samples
    assert measures("run")["test/nll_bits"] == pytest.approx(weighted, rel=1e-5)
    assert measures("run")["test/nll_bits"] < 7.8  # of 8 with nothing learnt


def test_evaluation_anywhere_reads_clips_as_training_did(trained):
    assert run("evaluate", "ckpt=run", "run_dir=own")[0] == 0
    assert measures("own") == {name: measures("run")[name] for name in ("test/records", "test/nll_bits")}
    assert Path("own/test_likelihoods.tsv").read_bytes() == Path("run/test_likelihoods.tsv").read_bytes()
    # The same folder as data of others: the rate and the length that are left open are those of the checkpoint.
    assert run("evaluate", "ckpt=run", "run_dir=same", *DATA)[0] == 0
    assert measures("same") == measures("own")
    assert run("evaluate", "ckpt=run", "run_dir=batches", *DATA, "data.batch_size=3")[0] == 0
    assert measures("batches")["test/nll_bits"] == pytest.approx(measures("own")["test/nll_bits"], rel=1e-6)
    # Shorter pieces see less of what was before.
    assert run("evaluate", "ckpt=run", "run_dir=pieces", *DATA, "data.length=16")[0] == 0
    assert measures("pieces")["test/nll_bits"] > measures("own")["test/nll_bits"]

    # A folder that nothing divides, at another rate: all of it is tested, resampled.
    for i in range(4):
        write(f"others/{i}.wav", sound(i, 800 + i, 2 * RATE), 2 * RATE)
    code, output = run("evaluate", "ckpt=run", "run_dir=others_tested", "data=audio_folder", "data.root=others")
    assert code == 0, output
    model, clips = load_pipeline("run"), [read_codes(Path(f"others/{i}.wav")) for i in range(4)]
    assert [int(row["samples"]) for row in table("others_tested/test_likelihoods.tsv")] == [400, 401, 401, 402]
    bits = sum(bits_by_steps(model, codes) for codes in clips) / sum(map(len, clips))
    assert measures("others_tested")["test/nll_bits"] == pytest.approx(bits, rel=1e-3)
    assert "test/nll_bits" in output


def test_the_encoding_is_that_of_the_checkpoint(folder):
    for split in ("train", "val", "test"):
        write(f"clips/{split}/loud.wav", 3 * sound(9, 200), subtype="FLOAT")
    settings = ("data.encoding=linear", "data.bits=6", "data.rescale=true", "callbacks.clips.enabled=false")
    code, output = run("train", *TINY, *settings, "run_dir=run")
    assert code == 0, output
    assert load_pipeline("run").encoding == Encoding("linear", 6, True)
    assert run("evaluate", "ckpt=run", "run_dir=again", *DATA)[0] == 0
    assert measures("again")["test/nll_bits"] == measures("run")["test/nll_bits"]
    other = run("evaluate", "ckpt=run", "run_dir=out", *DATA, "data.bits=8")
    expect_one_line(other, "linear, 8 bits, rescaled, but the model takes linear, 6 bits", "set data.encoding=linear")


class Killed(BaseException):
    """No handler of an ordinary exception sees it."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Train until a step begins; what is left is what `last.ckpt` held."""
    original = AudioGenerate.loss

    def dies(self, batch):
        if self.training and self.global_step == step:
            raise Killed
        return original(self, batch)

    monkeypatch.setattr(AudioGenerate, "loss", dies)
    with pytest.raises(Killed):
        run("train", *arguments)
    monkeypatch.setattr(AudioGenerate, "loss", original)


def weights(name: str) -> list[torch.Tensor]:
    return list(read_checkpoint(f"{name}/checkpoints/last.ckpt")["state_dict"].values())


@pytest.mark.parametrize("settings", [STACK, (*SASHIMI, "data.carry=true")], ids=["stack", "sashimi, carried"])
def test_killed_and_resumed_is_uninterrupted_bit_for_bit(folder, monkeypatch, settings):
    """Epochs have 21 or 22 steps; the checkpoint that is left is of step 30, the run dies in step 31."""
    carry = "data.carry=true" in settings
    more = ("trainer.max_epochs=2", "optimizer.lr=0.01", "callbacks.last.every_n_train_steps=6")
    command = (*AUDIO, *CLIPS, *settings, *more)
    assert run("train", *command, "run_dir=whole")[0] == 0
    kill_at(31, monkeypatch, *command, "run_dir=killed")
    left = read_checkpoint("killed/checkpoints/last.ckpt")
    assert left["global_step"] == 30
    assert ("carried" in left) == carry
    assert not all(torch.equal(a, b) for a, b in zip(weights("killed"), weights("whole"), strict=True))

    # What an epoch depends on cannot change within it; the attempt leaves no trace in the run.
    before = Path("killed/config.yaml").read_bytes()
    for setting, words in (
        ("data.length=64", f"with length {LENGTH}; it is 64 now; resume with the same length"),
        (f"data.carry={str(not carry).lower()}", f"with carry {carry}; it is {not carry} now"),
        ("data.batch_size=3", "with batch_size 4; it is 3 now"),
    ):
        result = run("train", "ckpt=last", "run_dir=killed", setting)
        expect_one_line(result, "the checkpoint was taken within an epoch", words)
        assert Path("killed/config.yaml").read_bytes() == before

    if carry:  # without what it carries, the checkpoint would lead elsewhere
        shutil.copytree("killed", "kept")
        torch.save({**left, "carried": None}, "killed/checkpoints/last.ckpt")
        assert run("train", "ckpt=last", "run_dir=killed")[0] == 0
        assert not all(torch.equal(a, b) for a, b in zip(weights("killed"), weights("whole"), strict=True))
        shutil.rmtree("killed")
        Path("kept").rename("killed")

    assert run("train", "ckpt=last", "run_dir=killed")[0] == 0
    assert all(torch.equal(a, b) for a, b in zip(weights("killed"), weights("whole"), strict=True))
    assert measures("killed")["test/nll_bits"] == measures("whole")["test/nll_bits"]
    for name in ("test_likelihoods.tsv", "clips/clips.tsv", "clips/clip_001.wav"):
        assert Path("killed", name).read_bytes() == Path("whole", name).read_bytes()


def test_the_next_epoch_may_have_other_pieces(folder):
    assert run("train", *TINY, "callbacks.clips.enabled=false", "run_dir=run")[0] == 0
    more = ("trainer.max_epochs=2", "data.length=64", "data.carry=true")
    code, output = run("train", "ckpt=last", "run_dir=run", *more)
    assert code == 0, output
    assert measures("run")["epochs"] == 2
    assert load_pipeline("run/checkpoints/last.ckpt").facts["audio"]["length"] == 64


def test_fine_tuning_takes_the_body_of_the_same_task(trained):
    still = ("optimizer.lr=0.0", "model.mixer.lr=null")
    code, output = run("train", *TINY, "init_from=run", *still, "callbacks.clips.enabled=false", "run_dir=tuned")
    assert code == 0, output
    body = {name: value for name, value in load_pipeline("run").state_dict().items() if not name.startswith("head.")}
    tuned = load_pipeline("tuned").state_dict()
    assert all(torch.equal(tuned[name], value) for name, value in body.items())
    assert not torch.equal(tuned["head.weight"], load_pipeline("run").state_dict()["head.weight"])
    expect_one_line(
        run("train", *TINY, "init_from=run", "model.d_model=16", "run_dir=out"), "run: ", "does not fit this model"
    )


def test_a_checkpoint_goes_on_with_its_own_encoding_alone(trained):
    shutil.copytree("run", "encoded")
    other, mend = "data.encoding=linear", "set data.encoding=mu_law data.bits=8 data.rescale=false"
    expect_one_line(run("train", "ckpt=last", "run_dir=encoded", "trainer.max_epochs=2", other), "another way", mend)
    expect_one_line(run("train", *TINY, "init_from=run", other, "run_dir=out"), "run: ", "another way", mend)


def test_another_sample_rate_fine_tunes_but_does_not_resume(trained):
    """It is told, for the rate of the mixers can bring their steps along."""
    shutil.copytree("run", "slower")
    half = f"data.sample_rate={RATE // 2}"
    rates = f"trained at {RATE} Hz, and this run's clips are at {RATE // 2} Hz"
    expect_one_line(
        run("train", "ckpt=last", "run_dir=slower", "trainer.max_epochs=2", half), rates, f"set data.sample_rate={RATE}"
    )
    rate = "model.mixer.rate=2"
    still = "callbacks.clips.enabled=false"
    code, output = run("train", *TINY, "init_from=run", half, rate, still, "run_dir=tuned_slower")
    assert code == 0
    assert rates in output


def test_a_run_without_a_validation_names_the_checkpoint_it_has(trained):
    shutil.copytree("run", "short")
    Path("short/checkpoints/best.ckpt").unlink()
    expect_one_line(
        run("generate", "ckpt=short", "out=out"),
        "it comes with a validation",
        "give ckpt=short/checkpoints/last.ckpt",
    )


def test_markov_models_of_the_same_codes(trained):
    code, output = run("baseline", *DATA, f"data.sample_rate={RATE}", "data.bits=6")
    assert code == 0, output
    found = json.loads(output)
    train, val, test = (
        [read_codes(path, 64) for path in Path("clips", split).iterdir()] for split in ("train", "val", "test")
    )
    expected = MarkovBaseline(64, 32).fit(train, val).bits(test)
    assert [found[f"test/nll_bits_order_{order}"] for order in range(3)] == pytest.approx(expected, rel=1e-9)
    assert expected[0] > expected[1] > expected[2] > 0


def test_the_default_runs(folder):
    notes = ("data.clips={train: 6, val: 2, test: 2}", "data.seconds=0.2", "model.d_model=8", "model.n_layers=1")
    code, output = run("train", "task=audio_generate", "debug=fast", *notes, *CLIPS, "run_dir=run")
    assert code == 0, output
    assert measures("run")["test/records"] == 2
