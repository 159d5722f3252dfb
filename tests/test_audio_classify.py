"""The task audio_classify through the commands: learnt in seconds, tested and predicted alike, one line for faults."""

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
from audio_commands import RATE, expect_one_line, inside, run, write, write_damaged

from ssmbio.checkpoints import load_pipeline

LENGTH = 400
DATA = ("data=audio_folder", "data.root=clips")
AUDIO = ("task=audio_classify", *DATA, f"data.sample_rate={RATE}", f"data.length={LENGTH}", "data.batch_size=4")
SMALL = ("model.n_layers=1", "model.d_model=8")
STACK = ("trainer.max_epochs=4", "optimizer.lr=0.02")
BOTH_WAYS = tuple(f"model.mixers.{stage}.bidirectional=true" for stage in ("outer", "middle", "centre"))
SASHIMI = ("model=sashimi_small", *BOTH_WAYS, "trainer.max_epochs=6", "optimizer.lr=0.005")


def sound(label: str, seed: int, samples: int, rate: int = RATE) -> np.ndarray:
    """A low tone, or a hiss with nothing above 4 kHz."""
    rng = np.random.default_rng(seed)
    if label == "tone":
        wave = 0.6 * np.sin(2 * np.pi * 100 * np.arange(samples) / rate + rng.uniform(0, 6))
    else:
        wave = np.repeat(0.2 * rng.standard_normal(-(-samples // (rate // RATE))).clip(-3, 3), rate // RATE)[:samples]
    return wave.astype(np.float32)


def write_clips(root: str) -> None:
    """Shorter than `LENGTH`, as long, and longer."""
    for split, count in (("train", 24), ("val", 6), ("test", 7)):
        for i in range(count):
            label = "tone" if i % 2 else "hiss"
            write(f"{root}/{split}/{label}/{i}.wav", sound(label, i + 1000 * count, LENGTH + 40 * (i % 3 - 1)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the clips and two runs on them."""
    folder = tmp_path_factory.mktemp("audio")
    with inside(folder):
        write_clips("clips")
        for name, settings in (("stack", STACK), ("sashimi", SASHIMI)):
            code, output = run("train", *AUDIO, *SMALL, *settings, f"run_dir={name}")
            assert code == 0, output
            assert f"results in {name}" in output
    return folder


@pytest.fixture
def trained(made: Path) -> Iterator[Path]:
    with inside(made):
        yield made
        for name in ("out", "out.tsv", "bad"):
            shutil.rmtree(name, ignore_errors=True)
            Path(name).unlink(missing_ok=True)


def measures(name: str) -> dict[str, float]:
    return json.loads(Path(name, "metrics.json").read_text())


def table(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def scores(path: str) -> dict[str, float]:
    """Name → probability of a tone."""
    return {row["name"]: float(row["p_tone"]) for row in table(path)}


MODELS = pytest.mark.parametrize("model", ["stack", "sashimi"])


@MODELS
def test_two_sounds_are_told_apart(trained, model):
    metrics = measures(model)
    assert metrics["test/auroc"] > 0.95
    assert metrics["test/loss"] < np.log(2)
    for name in ("train/positions_per_second", "train/sequences_per_second", "parameters"):
        assert metrics[name] > 0
    rows = table(f"{model}/test_predictions.tsv")
    assert list(rows[0]) == ["name", "label", "p_hiss", "p_tone", "true_label"]
    assert [row["name"] for row in rows] == [
        f"test/{label}/{i}.wav" for label, places in (("hiss", (0, 2, 4, 6)), ("tone", (1, 3, 5))) for i in places
    ]
    assert all(row["true_label"] == row["name"].split("/")[1] for row in rows)
    right = sum(row["label"] == row["true_label"] for row in rows) / len(rows)
    assert right == pytest.approx(metrics["test/accuracy"])
    for name in ("learning_curves", "confusion_matrix", "roc_and_precision_recall"):
        assert Path(model, "pictures", f"{name}.png").read_bytes().startswith(b"\x89PNG")
    pipeline = load_pipeline(model)
    assert pipeline.facts["audio"] == {"sample_rate": RATE, "length": LENGTH}
    assert pipeline.backbone.causal == (model == "stack")


@MODELS
def test_evaluation_and_prediction_agree_with_the_test(trained, model):
    code, output = run("evaluate", f"ckpt={model}", f"run_dir={model}-own")
    assert code == 0, output
    # The same folder as data of others: the rate and the length that are left open are those of the checkpoint.
    code, output = run("evaluate", f"ckpt={model}", f"run_dir={model}-same", *DATA)
    assert code == 0, output
    for name in ("accuracy", "loss", "auroc", "mcc"):
        for again in ("own", "same"):
            assert measures(f"{model}-{again}")[f"test/{name}"] == measures(model)[f"test/{name}"]

    # In batches of another size, and of clips that are longer than the model's length the same middle.
    expected = {name.removeprefix("test/"): value for name, value in scores(f"{model}/test_predictions.tsv").items()}
    code, output = run("predict", f"ckpt={model}", "input=clips/test", f"output={model}.tsv", "batch_size=3")
    assert code == 0, output
    assert list(table(f"{model}.tsv")[0]) == ["name", "label", "p_hiss", "p_tone"]
    assert scores(f"{model}.tsv") == pytest.approx(expected, abs=1e-5)
    longest = "clips/test/tone/5.wav"
    assert soundfile.info(longest).frames > LENGTH
    assert run("predict", f"ckpt={model}", f"input={longest}", f"output={model}-one.tsv")[0] == 0
    assert scores(f"{model}-one.tsv") == pytest.approx({"5.wav": expected["tone/5.wav"]}, abs=1e-5)


def test_another_folder_at_another_rate(trained):
    for label in ("tone", "hiss"):
        for i in range(3):
            write(f"fast/{label}/{i}.wav", sound(label, i, 4 * LENGTH + i, 4 * RATE), 4 * RATE)
    assert run("evaluate", "ckpt=stack", "run_dir=fast-tested", "data=audio_folder", "data.root=fast")[0] == 0
    assert measures("fast-tested")["test/records"] == 6
    assert measures("fast-tested")["test/auroc"] == pytest.approx(1)
    assert run("predict", "ckpt=stack", "input=fast", "output=fast.tsv")[0] == 0
    assert scores("fast.tsv") == pytest.approx(scores("fast-tested/test_predictions.tsv"), abs=1e-5)


def test_only_the_middle_of_a_long_clip_is_judged(trained):
    middle = sound("tone", 0, LENGTH)
    silence = np.zeros(1000, np.float32)
    write("long/short.wav", middle)
    write("long/long.wav", np.concatenate([silence, middle, silence]))
    assert run("predict", "ckpt=stack", "input=long", "output=long.tsv")[0] == 0
    found = scores("long.tsv")
    assert found["long.wav"] == pytest.approx(found["short.wav"], abs=1e-5)


def test_fine_tuning_takes_the_body_of_the_same_task_alone(trained):
    still = ("model/mixer=s4d", "model.mixer.lr=null", "optimizer.lr=0.0", "trainer.max_epochs=1")
    code, output = run("train", *AUDIO, *SMALL, *still, "init_from=stack", "run_dir=tuned")
    assert code == 0, output
    body = {name: value for name, value in load_pipeline("stack").state_dict().items() if not name.startswith("head.")}
    tuned = load_pipeline("tuned").state_dict()
    assert all(torch.equal(tuned[name], value) for name, value in body.items())

    generates = ("task=audio_generate", *AUDIO[1:], *SMALL, "model=stack", "model/mixer=s4d", "trainer.max_epochs=1")
    few = ("trainer.limit_train_batches=2", "callbacks.clips.enabled=false")
    code, output = run("train", *generates, *few, "run_dir=codes")
    assert code == 0, output
    result = run("train", *AUDIO, *SMALL, *STACK, "init_from=codes", "run_dir=out")
    expect_one_line(result, "codes: its model reads codes of audio, but this one samples", "of task=audio_classify")
    result = run("train", *generates, *few, "init_from=stack", "run_dir=out")
    expect_one_line(result, "stack: its model reads samples of audio, but this one codes", "of task=audio_generate")


def test_a_resumed_run_goes_on(trained):
    first = ("trainer.max_epochs=1", "callbacks.last.every_n_train_steps=4", "data.shift=5", "data.gain=3")
    assert run("train", *AUDIO, *SMALL, *first, "run_dir=resumed")[0] == 0
    code, output = run("train", "ckpt=last", "run_dir=resumed", "trainer.max_epochs=2")
    assert code == 0, output
    assert measures("resumed")["epochs"] == 2


def test_the_default_runs(tmp_path):
    notes = ("data.clips={train: 16, val: 8, test: 8}", "data.seconds=0.1")
    with inside(tmp_path):
        code, output = run("train", "task=audio_classify", "debug=fast", *notes, *SMALL, "run_dir=run")
        assert code == 0, output
        assert measures("run")["test/records"] == 8
        assert load_pipeline("run").labels == sorted(["A2", "C3", "E3", "G3", "A3", "C4", "E4", "A4"])


def damaged(case: str) -> tuple[str, ...]:
    """Make bad/, with a file that is wrong; gives the settings to meet it with."""
    shutil.copytree("clips", "bad", dirs_exist_ok=True)
    wave, path = sound("tone", 0, LENGTH), "bad/test/tone/bad.wav"
    if case == "no audio":
        shutil.rmtree("bad")
        Path("bad").mkdir()
    elif case == "one class":
        shutil.rmtree("bad/train/hiss")
    elif case == "one clip":
        shutil.rmtree("bad")
        write("bad/tone/one.wav", wave)
    elif case == "no labels":
        shutil.rmtree("bad")
        for i in range(20):
            write(f"bad/{i}.wav", wave)
    elif case == "a label that train lacks":
        Path("bad/test/hiss").rename("bad/test/hum")
    else:
        write_damaged(path, wave, case)
    return ("data.root=bad", "data.resample=false") if case == "another rate" else ("data.root=bad",)


FAULTS = {
    "no audio": ["bad: no audio files in it", ".wav .flac .ogg .mp3"],
    "one class": ["all training records are of one class, 'tone'"],
    "one clip": ["bad: 1 file is too few"],
    "no labels": ["the clip has no label", "splits.csv"],
    "a label that train lacks": ["bad/test/hum/0.wav: label 'hum' is not among the labels of the training data"],
    "text": ["bad/test/tone/bad.wav: not audio"],
    "empty": ["bad/test/tone/bad.wav: the file is empty"],
    "truncated": ["bad/test/tone/bad.wav: truncated: 500 bytes of 844"],
    "three channels": ["bad/test/tone/bad.wav: 3 channels", "mix it"],
    "NaN": ["bad/test/tone/bad.wav: sample 77 is NaN"],
    # There is no data.rescale here.
    "clipping": ["bad/test/tone/bad.wav: samples reach 1.7", "beyond ±1; scale it to ±1."],
    "another rate": ["bad/test/tone/bad.wav: 16,000 Hz, not 8,000 Hz; set data.resample=true."],
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_of_files_are_found_before_there_is_a_run(trained, case):
    settings = damaged(case)
    expect_one_line(run("train", *AUDIO, *SMALL, *settings, "run_dir=out"), *FAULTS[case])


@pytest.mark.parametrize("case", ["text", "empty", "truncated", "three channels", "NaN", "clipping"])
def test_faults_of_files_to_test_and_to_predict(trained, case):
    damaged(case)
    expect_one_line(run("evaluate", "ckpt=stack", "data=audio_folder", "data.root=bad", "run_dir=out"), *FAULTS[case])
    expect_one_line(run("predict", "ckpt=stack", "input=bad/test", "output=out.tsv", "batch_size=1"), *FAULTS[case])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.length=8"], ["length 8", "16 or more"]),
        (["data.rescale=true"], ["unknown key data.rescale"]),
        (["data.shift=-1"], ["shift -1", "set data.shift to"]),
        (["data.gain=loud"], ["gain loud", "decibels"]),
        (["data/datamodule=audio"], ["no labels, which audio_classify needs", "leave data/datamodule out"]),
        (["task.pooling=median"], ["mean, last, max, attention"]),
        (["data.root=nowhere"], ["nowhere: there is no such folder", "data.root"]),
    ],
    ids=str,
)
def test_bad_settings_are_one_line(trained, settings, words):
    expect_one_line(run("train", *AUDIO, *SMALL, *settings, "run_dir=out"), *words)


def test_bad_settings_of_evaluation_and_prediction_are_one_line(trained):
    write("unlabelled/0.wav", sound("tone", 0, LENGTH))
    Path("nothing").mkdir()
    for settings, words in (
        ([*DATA, "data.rescale=true"], ["data.rescale has no meaning for clips with labels", "leave data.rescale out"]),
        ([*DATA, "data.encoding=foo"], ["data.encoding has no meaning"]),
        ([*DATA, "data.sample_rate=16000"], ["clips are at 16000 Hz", "set data.sample_rate=8000"]),
        ([*DATA, "data.root=unlabelled"], ["unlabelled/0.wav: the clip has no label"]),
        (["data=shapes"], ["data=shapes are images, but the checkpoint takes audio"]),
        (["data=table", "data.test=x.csv"], ["data=table are sequences, but the checkpoint takes audio"]),
    ):
        expect_one_line(run("evaluate", "ckpt=stack", *settings, "run_dir=out"), *words)
    for settings, words in (
        (["input=nothing"], ["nothing: no audio files in it"]),
        (["input=nowhere.wav"], ["nowhere.wav: there is no such file"]),
        (["input=clips/test", "window=5"], ["window=5 has no meaning for audio"]),
        (["input=clips/test", "both_strands=true"], ["both_strands=True has no meaning for audio"]),
    ):
        expect_one_line(run("predict", "ckpt=stack", *settings, "output=out.tsv"), *words)
    expect_one_line(run("generate", "ckpt=stack", "out=out"), "of task audio_classify, not of audio_generate")
