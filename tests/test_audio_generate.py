"""The task audio_generate through the commands: a run, its likelihoods, a kill, other data, and one line for faults."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from audio_commands import RATE, expect_one_line, inside, run, write

from ssmbio.checkpoints import load_pipeline, read_checkpoint
from ssmbio.data.audio_codes import Encoding
from ssmbio.markov import MarkovBaseline
from ssmbio.pipelines import AudioGenerate

LENGTH = 128
DATA = ("data=audio_folder", "data.root=clips")
AUDIO = ("task=audio_generate", *DATA, f"data.sample_rate={RATE}", f"data.length={LENGTH}", "data.batch_size=4")
CLIPS = ("callbacks.clips.n=2", "callbacks.clips.seconds=0.02")
STACK = ("model=stack", "model/mixer=s4d", "model.n_layers=1", "model.d_model=8", "model.mixer.d_state=4")
SASHIMI = ("model=sashimi_small", "model.n_layers=1", "model.d_model=8")
TINY = (*AUDIO, *CLIPS, *STACK, "trainer.max_epochs=1", "optimizer.lr=0.01")


def sound(seed: int, samples: int, rate: int = RATE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tone = 0.5 * np.sin(2 * np.pi * rng.uniform(100, 400) * np.arange(samples) / rate)
    return (tone + 0.02 * rng.standard_normal(samples)).astype(np.float32)


def write_clips(root: str, rate: int = RATE) -> None:
    """train, val and test, of ragged clips of 0.05 to 0.09 seconds; one is flac, one has two channels."""
    for split, count in (("train", 20), ("val", 3), ("test", 5)):
        for i in range(count):
            seed = i + 100 * len(split)
            write(f"{root}/{split}/{i}.wav", sound(seed, (400 + 70 * (i % 5)) * rate // RATE, rate), rate)
    write(f"{root}/test/5.flac", sound(5, 300 * rate // RATE, rate), rate)
    stereo = np.stack([sound(6, 350 * rate // RATE, rate), sound(7, 350 * rate // RATE, rate)], 1)
    write(f"{root}/test/6.wav", stereo, rate)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the clips and a run on them."""
    folder = tmp_path_factory.mktemp("audio")
    with inside(folder):
        write_clips("clips")
        code, output = run("train", *TINY, "run_dir=run")
        assert code == 0, output
        assert "results in run" in output
    return folder


@pytest.fixture
def trained(made: Path) -> Iterator[Path]:
    with inside(made):
        yield made
        for name in ("out", "out.tsv"):
            shutil.rmtree(name, ignore_errors=True)
            Path(name).unlink(missing_ok=True)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty one with the clips."""
    with inside(tmp_path):
        write_clips("clips")
        yield tmp_path


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
    assert run("generate", "ckpt=run", "n=2", "samples=160", "seed=0", "out=out")[0] == 0
    for row in listed:
        assert Path("out", row["file"]).read_bytes() == Path("run/clips", row["file"]).read_bytes()


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
        "it comes with the first validation",
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


def damaged(case: str) -> tuple[str, ...]:
    """Make bad/, with a file that is wrong; gives the settings to meet it with."""
    shutil.copytree("clips", "bad", dirs_exist_ok=True)
    wave, path = sound(0, 400), "bad/val/bad.wav"
    if case == "no audio":
        shutil.rmtree("bad")
        Path("bad").mkdir()
        Path("bad/notes.txt").write_text("none here")
    elif case == "one clip":
        shutil.rmtree("bad")
        write("bad/one.wav", wave)
    elif case == "one clip to train":
        shutil.rmtree("bad")
        write("bad/train/one.wav", wave)
    elif case == "text":
        Path(path).write_text("these are words\n" * 30)
    elif case == "empty":
        Path(path).touch()
    elif case == "truncated":
        write(path, wave)
        Path(path).write_bytes(Path(path).read_bytes()[:500])
    elif case == "truncated flac":
        path = write("bad/val/bad.flac", sound(0, 20_000))
        path.write_bytes(path.read_bytes()[:15_000])
    elif case == "three channels":
        write(path, np.stack([wave] * 3, 1))
    elif case == "NaN":
        wave[77] = np.nan
        write(path, wave, subtype="FLOAT")
    elif case == "clipping":
        write(path, 3 * wave, subtype="FLOAT")
    elif case == "another rate":
        write(path, wave, 2 * RATE)
        return ("data.root=bad", "data.resample=false")
    return ("data.root=bad",)


FAULTS = {
    "no audio": ["bad: no audio files in it", ".wav .flac .ogg .mp3"],
    "one clip": ["bad: 1 file is too few", "cut files into several"],
    "one clip to train": ["bad/train/one.wav: train has one clip", "<data.root>/val/"],
    "text": ["bad/val/bad.wav: not audio"],
    "empty": ["bad/val/bad.wav: the file is empty"],
    "truncated": ["bad/val/bad.wav: truncated: 500 bytes of 844"],
    "truncated flac": ["bad/val/bad.flac: damaged or truncated", "copy or download it again"],
    "three channels": ["bad/val/bad.wav: 3 channels", "mix it"],
    "NaN": ["bad/val/bad.wav: sample 77 is NaN"],
    "clipping": ["bad/val/bad.wav: samples reach 1.6", "beyond ±1; set data.rescale=true, or scale it to ±1"],
    "another rate": ["bad/val/bad.wav: 16,000 Hz, not 8,000 Hz; set data.resample=true."],
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_of_files_are_found_before_there_is_a_run(folder, case):
    settings = damaged(case)
    expect_one_line(run("train", *TINY, *settings, "run_dir=out"), *FAULTS[case])


def test_the_mends_work(folder):
    write("bad/a.wav", 3 * sound(0, 400), 2 * RATE, subtype="FLOAT")
    for i in range(9):
        write(f"bad/{i}.wav", sound(i, 300))
    few = ("data.root=bad", "trainer.limit_train_batches=1", "callbacks.clips.enabled=false")
    mends = ("data.rescale=true", "data.resample=true")
    code, output = run("train", *TINY, *few, *mends, "run_dir=run")
    assert code == 0, output


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.length=8"], ["length 8", "set data.length to", "16 or more"]),
        (["data.encoding=foo"], ["encoding 'foo'", "mu_law, linear"]),
        (["data.bits=9"], ["bits 9", "set data.bits to 1 to 8"]),
        (["data.rescale=3"], ["set data.rescale to true or false"]),
        (["data.carry=true", "data.length=100"], ["length 100 with carry=true", "multiple of data.pad_to = 16"]),
        (["model/mixer=bimamba", "~model.mixer.d_state"], ["cannot generate", "choose a causal mixer"]),
        (["model.bidirectional=true"], ["cannot generate", "bidirectional=false"]),
        (["callbacks.clips.n=0"], ["callbacks.clips.n"]),
        (["callbacks.monitor=val/auroc"], ["val/auroc is not measured", "val/loss"]),
        (["data.root=nowhere"], ["nowhere: there is no such folder", "data.root"]),
        (["task=audio_quality"], ["task=audio_quality trains nothing", "ssmbio.evaluate task=audio_quality"]),
    ],
    ids=str,
)
def test_bad_settings_are_one_line(trained, settings, words):
    expect_one_line(run("train", *TINY, *settings, "run_dir=out"), *words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.mixers.centre.bidirectional=true"], ["cannot generate"]),
        (["data.carry=true", "data.length=100", "data.pad_to=4"], ["data.length=100", "a multiple of 16"]),
    ],
    ids=str,
)
def test_bad_settings_of_a_u_net_are_one_line(trained, settings, words):
    expect_one_line(run("train", *AUDIO, *SASHIMI, *settings, "run_dir=out"), *words)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (["data=shapes"], "images"),
        (["data=image_folder", "data.root=clips"], "images"),
        (["data=table"], "sequences"),
        (["data=simulated_genome"], "sequences"),
        (["data=listops"], "sequences"),
    ],
    ids=str,
)
def test_data_of_another_kind_are_refused_before_they_are_made(trained, data, kind):
    for task in ("audio_generate", "audio_classify"):
        result = run("train", f"task={task}", *data, "run_dir=out")
        expect_one_line(result, f"{data[0]} are {kind}, but task={task} reads audio", "as data=audio_folder data.root=")
    assert not Path("cache").exists()
    result = run("evaluate", "ckpt=run", *data, "run_dir=out")
    expect_one_line(result, f"{data[0]} are {kind}, but the checkpoint takes audio", "as data=audio_folder data.root=")


def test_other_tasks_refuse_audio(trained):
    for task, kind in (("dna_classify", "sequences"), ("sequence_classify", "sequences"), ("pixel_classify", "images")):
        result = run("train", f"task={task}", "data=plucked", "run_dir=out")
        expect_one_line(result, f"data=plucked are audio, but task={task} reads {kind}")
    assert not Path("cache").exists()


def test_bad_settings_of_an_evaluation_are_one_line(trained):
    write("fast/a.wav", sound(0, 400), 2 * RATE)
    write("loud/a.wav", 3 * sound(0, 400), subtype="FLOAT")
    for settings, words in (
        ([*DATA, "data.encoding=linear"], ["encoded as linear", "set data.encoding=mu_law"]),
        ([*DATA, "data.rescale=true"], ["rescaled, but the model takes mu_law", "data.rescale=false"]),
        ([*DATA, "data.sample_rate=16000"], ["clips are at 16000 Hz", "set data.sample_rate=8000"]),
        ([*DATA, "data.length=8"], ["length 8"]),
        ([*DATA, "data.root=fast", "data.resample=false"], ["16,000 Hz, not 8,000 Hz; set data.resample=true."]),
        ([*DATA, "data.root=loud"], ["loud/a.wav: samples reach 1.6", "beyond ±1; scale it to ±1."]),
        (["data=audio_folder"], ["data.root is not set"]),
        (["data.root=clips"], ["choose data=<group> too"]),
        (["task=audio_generate"], ["the checkpoint knows its task"]),
    ):
        expect_one_line(run("evaluate", "ckpt=run", *settings, "run_dir=out"), *words)


def test_checkpoints_of_other_tasks_are_refused_everywhere(trained):
    Path("table.csv").write_text("sequence,label\n" + "ACGTACGTAA,a\nACGTTTGTAA,b\n" * 6)
    dna = ("task=dna_classify", "data=table", "data.train=table.csv", "model.d_model=8", "model.n_layers=1")
    code, output = run("train", *dna, "trainer.max_epochs=1", "run_dir=dna")
    assert code == 0, output
    other = "a checkpoint of task dna_classify, not of audio_generate"
    expect_one_line(run("generate", "ckpt=dna", "out=out"), "dna/checkpoints/best.ckpt", other)
    mine = "a checkpoint of task audio_generate, not of "
    expect_one_line(run("predict", "ckpt=run", "input=clips/test", "output=out.tsv"), "run/checkpoints/best.ckpt", mine)
    quality = ("task=audio_quality", "clips=clips/test", "reference=clips", "run_dir=out")
    expect_one_line(run("evaluate", *quality, "classifier=run"), "run/checkpoints/best.ckpt", mine + "audio_classify")
    result = run("evaluate", "ckpt=dna", *DATA, "run_dir=out")
    expect_one_line(result, "data=audio_folder are audio, but the checkpoint takes sequences")
    result = run("train", *TINY, "init_from=dna", "run_dir=out")
    expect_one_line(result, "dna: its model reads sequences", "give a checkpoint of task=audio_generate")
    result = run("train", *dna, "init_from=run", "run_dir=out")
    expect_one_line(result, "run: its model reads codes of audio", "give a checkpoint of task=dna_classify")
    result = run("train", *TINY, "ckpt=dna/checkpoints/last.ckpt", "run_dir=out")
    expect_one_line(result, other)
