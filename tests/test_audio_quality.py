"""Judging clips as its user meets it: what is compared with what, what is written, and one line for each mistake."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hydra.core.global_hydra import GlobalHydra

from ssmbio.audio_quality.features import view_of
from ssmbio.audio_quality.measures import am_score, fid, inception_score, modified_inception_score
from ssmbio.build import rebuild_pipeline
from ssmbio.data.audio_files import read_audio, write_audio
from ssmbio.data.audio_folder import AudioFolderSource
from ssmbio.generation.clip_files import ListedClip, write_table

RATE, LENGTH = 8000, 240
LABELS = ["high", "low"]
MODEL = {
    "_target_": "ssmbio.backbones.Stack",
    "d_model": 4,
    "n_layers": 1,
    "mixer": {"_target_": "ssmbio.mixers.S4D", "_partial_": True, "d_state": 4},
}
AUDIO = {"sample_rate": RATE, "length": LENGTH}
CLASSES = {"labels": LABELS, "problem": "binary", "class_weights": None}
ENCODING = {"kind": "mu_law", "bits": 8, "rescale": False}


def save_checkpoint(path: str, task: str, facts: dict):
    """A tiny untrained model of a task; returns it."""
    torch.manual_seed(0)
    target = {"audio_classify": "AudioClassify", "audio_generate": "AudioGenerate"}[task]
    recipe = {"config": {"model": MODEL, "task": {"_target_": f"ssmbio.pipelines.{target}"}}, "facts": facts}
    pipeline = rebuild_pipeline(recipe).eval()
    checkpoint = {"state_dict": pipeline.state_dict()}
    pipeline.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return pipeline


def write_clips(folder: str, names: list[str], seed: int, rate: int = RATE, samples: int = LENGTH) -> None:
    rng = np.random.default_rng(seed)
    for name in names:
        hertz = rng.uniform(800, 1500) if "high" in name else rng.uniform(200, 700)
        wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate) + rng.normal(0, 0.02, samples)
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, wave.astype(np.float32), rate)


def write_reference(train: int = 12, test: int = 8) -> None:
    """real/ with a splits.csv."""
    rows = ["path,label,split"]
    for split, count in (("train", train), ("val", 4), ("test", test)):
        names = [f"{LABELS[i % 2]}/{split}_{i}.flac" for i in range(count)]
        write_clips("real", names, seed=len(split))
        rows += [f"{name},{name.split('/')[0]},{split}" for name in names]
    Path("real/splits.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def judge(monkeypatch, capsys, tmp_path):
    """Run the command in a folder with made/ (10 clips), real/ and the two checkpoints; (exit code, output, error)."""
    monkeypatch.chdir(tmp_path)
    save_checkpoint("classifier.ckpt", "audio_classify", {"audio": AUDIO, **CLASSES})
    save_checkpoint("model.ckpt", "audio_generate", {"audio": {**AUDIO, "encoding": ENCODING}})
    write_reference()
    write_clips("made", [f"clip_{i:03}.wav" for i in range(10)], seed=9)

    def command(*arguments: str, task: str = "audio_quality") -> tuple[int, str, str]:
        GlobalHydra.instance().clear()
        given = {"clips": "made", "reference": "real", "classifier": "classifier.ckpt"}
        given |= {"run_dir": "out", "device": "cpu"}
        given |= dict(text.split("=", 1) for text in arguments)
        settings = [f"{key}={value}" for key, value in given.items() if value]
        monkeypatch.setattr(sys, "argv", ["evaluate", *settings[:2], f"task={task}", *settings[2:]])
        code = 0
        try:
            importlib.import_module("ssmbio.evaluate").main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return code, *capsys.readouterr()

    return command


def found() -> dict[str, float]:
    return json.loads(Path("out/metrics.json").read_text())


def seen(root: str, split: str = "train"):
    pipeline = save_checkpoint("again.ckpt", "audio_classify", {"audio": AUDIO, **CLASSES})
    clips = AudioFolderSource(root=root, sample_rate=RATE).splits()[split]
    return view_of(pipeline, clips, 5, torch.device("cpu")), clips


def hits(view, clips) -> int:
    return sum(LABELS[i] == label for i, label in zip(view.log_p.argmax(1), clips.labels(), strict=True))


def test_the_measures_are_those_of_the_sets_that_are_named(judge):
    code, output, error = judge("seed=3")
    assert (code, error) == (0, "")
    metrics = found()
    made, (train, clips), (test, test_clips) = seen("made")[0], seen("real"), seen("real", "test")
    assert metrics == {
        "clips": 10,
        "reference/clips": 12,
        "fid": pytest.approx(fid(made.features, train.features), rel=1e-4),
        "is": pytest.approx(inception_score(made.log_p, seed=3), rel=1e-6),
        "mis": pytest.approx(modified_inception_score(made.log_p), rel=1e-6),
        "am": pytest.approx(am_score(made.log_p, train.log_p), rel=1e-6),
        "train/clips": 12,
        "test/clips": 8,
        "test/fid": pytest.approx(fid(test.features, train.features), rel=1e-4),
        "test/is": pytest.approx(inception_score(test.log_p, seed=3), rel=1e-6),
        "test/mis": pytest.approx(modified_inception_score(test.log_p), rel=1e-6),
        "test/am": pytest.approx(am_score(test.log_p, train.log_p), rel=1e-6),
        "train/accuracy": hits(train, clips) / 12,
        "test/accuracy": hits(test, test_clips) / 8,
    }
    assert "made against real (train), as classifier.ckpt sees" in output
    assert re.search(r"\bfid\W+" + f"{metrics['fid']:.4f}", output)
    assert re.search(r"reference/clips\W+12\b", output)


def test_the_reference_itself_has_no_distance(judge):
    Path("real/copies").mkdir()
    for path in Path("real").glob("*/train_*.flac"):
        shutil.copy(path, f"real/copies/{path.parent.name}_{path.name}")
    assert judge("clips=real/copies", "batch_size=5")[0] == 0
    assert found()["fid"] < 1e-6 * found()["test/fid"]
    assert judge("reference_split=null")[0] == 0
    assert found()["reference/clips"] == 12 + 4 + 8
    assert judge("clips=real/copies", "reference_split=test")[0] == 0
    assert found()["reference/clips"] == 8
    # Which set is called the reference makes no difference to FID.
    assert found()["fid"] == pytest.approx(found()["test/fid"], rel=1e-4)


def test_what_clips_tsv_lists_is_judged(judge):
    assert judge()[0] == 0
    of_all = found()["fid"]
    kept = [ListedClip(f"clip_{i:03}.wav", i, 0, 1.0, 0.03, 0.0, LENGTH) for i in (1, 4, 5)]
    write_table(Path("made"), kept)
    assert judge()[0] == 0
    assert found()["clips"] == 3
    listed = found()["fid"]
    assert listed != pytest.approx(of_all, rel=0.01)
    for i in (0, 2, 3, 6, 7, 8, 9):
        Path(f"made/clip_{i:03}.wav").unlink()
    Path("made/clips.tsv").unlink()
    assert judge()[0] == 0
    assert found()["fid"] == pytest.approx(listed, rel=1e-9)


def test_a_reference_without_splits_is_taken_whole(judge):
    Path("real/splits.csv").unlink()
    assert judge()[0] == 0
    assert found()["reference/clips"] == 24
    assert set(found()) == {"clips", "reference/clips", "fid", "is", "mis", "am", "reference/accuracy"}


def test_labels_that_the_classifier_does_not_know(judge):
    table = Path("real/splits.csv")
    table.write_text(table.read_text().replace(",low,", ",bass,"))
    code, _, error = judge()
    assert code == 0
    assert error == "warning: the classifier does not know bass; its accuracy leaves such clips out\n"
    table.write_text(table.read_text().replace(",high,", ",,").replace(",bass,", ",,"))
    assert judge()[0] == 0
    assert "train/accuracy" not in found()


def test_likelihood_of_the_test_clips(judge):
    # Longer than the model's pieces, and ragged.
    write_clips("real", ["high/test_0.flac"], seed=1, samples=2 * LENGTH + 50)
    code, output, error = judge("ckpt=model.ckpt", "batch_size=3")
    assert code == 0, error
    model = save_checkpoint("again.ckpt", "audio_generate", {"audio": {**AUDIO, "encoding": ENCODING}})
    bits = []
    for path in sorted(Path("real").glob("*/test_*.flac")):
        codes = torch.from_numpy(model.encoding.encode(read_audio(path, sample_rate=RATE))).long()
        with torch.no_grad():
            bits += [model.bits(piece[None])[0] for piece in codes.split(LENGTH)]
    assert found()["test/nll_bits"] == pytest.approx(float(torch.cat(bits).mean()), rel=1e-6)
    assert "test/nll_bits" in output


def test_the_batch_makes_no_difference_and_the_seed_repeats(judge):
    results = []
    for size in (1, 4, 100):
        assert judge(f"batch_size={size}", "ckpt=model.ckpt")[0] == 0
        results.append(found())
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-3)
    assert judge("batch_size=100", "ckpt=model.ckpt")[0] == 0
    assert found() == results[-1]


def test_too_few_clips_for_their_features_are_said_in_one_line(judge):
    shutil.rmtree("made")
    write_clips("made", [f"clip_{i:03}.wav" for i in range(4)], seed=9)
    code, _, error = judge()
    assert code == 0
    assert error.count("\n") == 1
    for word in ("warning: ", "the classifier's 4 features", "clips (4)", "singular"):
        assert word in error
    assert np.isfinite(found()["fid"])


def test_longer_clips_are_said_to_be_cut(judge):
    write_clips("made", ["clip_000.wav", "clip_001.wav"], seed=9, samples=LENGTH + 1)
    code, _, error = judge()
    assert code == 0
    assert error.startswith("warning: clips: 2 of 10 are longer than the 240 samples")
    assert error.count("\n") == 1


@pytest.mark.parametrize("at", [55, 4 * LENGTH - 1])
@pytest.mark.parametrize("name", ["made/clip_003", "real/high/train_0", "real/low/test_1"])
def test_faults_outside_of_what_is_judged_are_faults(judge, name, at):
    """As they are in training."""
    wave = np.full(4 * LENGTH, 0.5, np.float32)
    wave[at] = np.nan
    soundfile.write(f"{name}.wav", wave, RATE, subtype="FLOAT")
    table = Path("real/splits.csv")
    inside = name.removeprefix("real/")
    table.write_text(table.read_text().replace(f"{inside}.flac", f"{inside}.wav"))
    code, _, error = judge()
    assert code == 1
    assert error == f"error: {name}.wav: sample {at} is NaN; remove the file, or write it again.\n"
    assert not Path("out").exists()


def test_clipped_clips_are_told_in_one_line(judge):
    for path in ("made/clip_001.wav", "real/high/test_0.flac", "real/high/test_2.flac"):
        write_audio(path, np.sign(np.sin(np.arange(LENGTH) / 9)).astype(np.float32), RATE)
    code, output, _ = judge()
    assert code == 0
    assert output.count("clipping") == 1
    assert "3 of 30 clips are cut off at full scale (clipping), made/clip_001.wav first" in output


def test_another_rate_can_be_refused(judge):
    write_clips("made", ["clip_003.wav"], seed=9, rate=16000, samples=2 * LENGTH)
    code, _, error = judge("resample=false")
    assert code == 1
    assert error.count("\n") == 1
    for word in ("clip_003.wav", "16,000 Hz", "8,000 Hz", "resample=true"):
        assert word in error
    assert judge()[::2] == (0, "")  # at the classifier's rate it is no longer than the others
    assert found()["clips"] == 10
    Path("made/clip_003.wav").unlink()
    write_clips("real", ["low/train_1.flac"], seed=9, rate=16000)
    assert "train_1.flac: 16,000 Hz" in judge("resample=false")[2]


def broken(path: str) -> None:
    Path(path).write_bytes(b"no audio at all")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["clips=nowhere"], ["nowhere", "no such folder", "set clips"]),
        (["clips=model.ckpt"], ["model.ckpt", "this is a file"]),
        (["clips=empty"], ["empty", "no clips in it", ".wav"]),
        (["clips=single"], ["single", "has 1 clip", "2 clips at least"]),
        (["clips=broken"], ["broken/b.wav", "not audio"]),
        (["clips=none_listed"], ["clips.tsv lists no clips"]),
        (["clips=gone"], ["gone.wav", "no such file"]),
        (["clips="], ["clips is not set"]),
        (["reference=nowhere"], ["nowhere", "no such folder", "set reference"]),
        (["reference=empty"], ["empty", "no audio files"]),
        (["reference=single"], ["single", "has 1 clip"]),
        (["reference_split=tset"], ["tset", "did you mean 'test'"]),
        (["reference=made", "reference_split=test"], ["made", "no split 'test'", "train"]),
        (["classifier=nowhere.ckpt"], ["nowhere.ckpt", "no such checkpoint"]),
        (["classifier=model.ckpt"], ["model.ckpt", "audio_generate", "not of audio_classify"]),
        (["classifier=several.ckpt"], ["several.ckpt", "several labels"]),
        (["ckpt=classifier.ckpt"], ["classifier.ckpt", "audio_classify", "not of audio_generate"]),
        (["ckpt=model.ckpt", "reference=made"], ["made", "no split test", "leave ckpt out"]),
        (["device=tpu"], ["device=tpu", "auto, cpu or cuda"]),
        (["batch_size=0"], ["batch_size=0", "at least 1"]),
        (["seed=-1"], ["seed=-1"]),
        (["resample=perhaps"], ["resample=perhaps", "true or false"]),
        (["clip=made"], ["unknown key clip", "did you mean clips"]),
    ],
)
def test_mistakes_get_one_line(judge, arguments, words):
    Path("empty").mkdir()
    write_clips("single", ["a.wav"], seed=0)
    write_clips("broken", ["a.wav", "c.wav"], seed=0)
    broken("broken/b.wav")
    Path("none_listed").mkdir()
    write_table(Path("none_listed"), [])
    Path("gone").mkdir()
    write_table(Path("gone"), [ListedClip("gone.wav", i, 0, 1.0, 0.03, 0.0, LENGTH) for i in range(2)])
    save_checkpoint("several.ckpt", "audio_classify", {"audio": AUDIO, **CLASSES, "problem": "multilabel"})
    code, _, error = judge(*arguments)
    assert code == 1, error
    assert error.count("\n") == 1, error
    assert error.startswith("error: ")
    for word in words:
        assert word in error
    assert not Path("out").exists()


def test_another_task_is_the_checkpoints_to_know(judge):
    code, _, error = judge(task="audio_classify")
    assert code == 1
    assert error.count("\n") == 1
    assert "task=audio_classify" in error
    assert "leave it out" in error


def test_help_says_what_figures_compare_with(judge, monkeypatch, capsys):
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["evaluate", "task=audio_quality", "--help"])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module("ssmbio.evaluate").main()
    output = capsys.readouterr().out
    for word in (
        "python -m ssmbio.evaluate task=audio_quality",
        "same classifier",
        "SaShiMi",
        "reference_split: train",
    ):
        assert word in output
