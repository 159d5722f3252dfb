"""Generation as its user meets it: clips in a folder or a stream, whole and listed whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

import ssmbio.generate
from ssmbio.checkpoints import load_pipeline
from ssmbio.data.audio_files import write_audio
from ssmbio.generation.clip_files import ListedClip, read_table
from ssmbio.generation.clips import generate_clips
from ssmbio.generation.progress import ProgressLine, Speed
from ssmbio.generation.sampling import SamplingSettings
from ssmbio.pipelines import AudioGenerate
from ssmbio.pipelines.base import CHECKPOINT_KEY

RATE = 1000
LENGTH = 300
MODEL = {
    "_target_": "ssmbio.backbones.UNet",
    "d_model": 8,
    "n_layers": 1,
    "mixer": {"_target_": "ssmbio.mixers.S4D", "_partial_": True, "d_state": 4},
}
RECIPE = {
    "config": {"model": MODEL, "task": {"_target_": "ssmbio.pipelines.AudioGenerate"}},
    "facts": {
        "audio": {"sample_rate": RATE, "length": LENGTH, "encoding": {"kind": "mu_law", "bits": 8, "rescale": False}}
    },
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A run folder with a tiny untrained model."""
    torch.manual_seed(0)
    pipeline = AudioGenerate(instantiate(MODEL), RECIPE["facts"])
    pipeline.recipe = RECIPE
    saved = {"state_dict": pipeline.state_dict()}
    pipeline.on_save_checkpoint(saved)
    folder = tmp_path_factory.mktemp("run")
    (folder / "checkpoints").mkdir()
    torch.save(saved, folder / "checkpoints" / "best.ckpt")
    return folder


@pytest.fixture
def generate(checkpoint, monkeypatch, capfdbinary, tmp_path):
    """Run the command in an empty folder; gives its exit code, its standard output and its standard error."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str, ckpt: Path | str = checkpoint) -> tuple[int, bytes, str]:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["generate", f"ckpt={ckpt}", "device=cpu", *arguments])
        code = 0
        try:
            ssmbio.generate.main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        output, error = capfdbinary.readouterr()
        return code, output, error.decode()

    return command


def running(checkpoint: Path, *arguments: str, before: str = "") -> subprocess.Popen:
    """The command as a process of its own; `before` is code that it runs first."""
    # A process that was started in the background ignores Ctrl-C, which Python would inherit.
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{before}\n"
    code += "import ssmbio.generate; ssmbio.generate.main()"
    command = [sys.executable, "-c", code, f"ckpt={checkpoint}", "device=cpu", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def pcm(path: Path | str) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE
    return samples


def listed(folder: str) -> list[ListedClip]:
    """What the table lists, which is what there is, each of its length."""
    clips = read_table(Path(folder))
    audio = sorted(entry.name for entry in Path(folder).iterdir() if entry.suffix in (".wav", ".flac"))
    assert audio == sorted(clip.file for clip in clips)
    assert [len(pcm(Path(folder) / clip.file)) for clip in clips] == [clip.samples for clip in clips]
    assert not list(Path(folder).glob("*.part"))
    return clips


def tone(path: str, seconds: float = 0.1, rate: int = RATE) -> np.ndarray:
    waveform = (0.5 * np.sin(np.arange(round(seconds * rate)) / 5)).astype(np.float32)
    write_audio(path, waveform, rate)
    return waveform


def test_clips_are_those_of_the_model_with_these_settings(generate, checkpoint):
    given = ("n=3", "seconds=0.2", "seed=5", "temperature=0.8", "top_k=40", "top_p=0.9", "min_p=0.01", "out=deep/clips")
    code, output, error = generate(*given)
    assert (code, error) == (0, "")
    assert output.startswith(b"3 clips made at ")
    assert b"real time: deep/clips/index.html\n" in output
    assert output.count(b"\n") == 1
    model = load_pipeline(checkpoint, "audio_generate")
    settings = SamplingSettings(0.8, 40, 0.9, 0.01)
    expected = list(generate_clips(model, n=3, samples=200, settings=settings, seed=5))
    for row, clip in zip(listed("deep/clips"), expected, strict=True):
        assert (row.number, row.seed, row.samples, row.seconds) == (clip.number, 5, 200, 0.2)
        assert row.nll_bits == pytest.approx(clip.nll_bits, abs=1e-6)
        np.testing.assert_array_equal(pcm(f"deep/clips/{row.file}"), np.rint(model.encoding.decode(clip.codes) * 2**15))
    page = Path("deep/clips/index.html").read_text()
    for words in (
        "3 clips",
        "temperature 0.8, top-k 40, top-p 0.9, min-p 0.01",
        "0.2 s, 200 samples",
        "mu-law, 8 bits",
    ):
        assert words in page
    assert len(list(Path("deep/clips").glob("*.png"))) == 3


def test_a_clip_does_not_depend_on_the_others(generate):
    assert generate("n=5", "batch_size=2", "samples=100", "out=five")[0] == 0
    assert generate("n=2", "samples=100", "out=two")[0] == 0
    assert generate("n=2", "samples=100", "seed=1", "out=other")[0] == 0
    for name in ("clip_000.wav", "clip_001.wav"):
        assert Path("five", name).read_bytes() == Path("two", name).read_bytes()
        assert Path("five", name).read_bytes() != Path("other", name).read_bytes()
    assert len({Path("five", clip.file).read_bytes() for clip in listed("five")}) == 5


def test_without_a_length_clips_are_as_long_as_those_of_training(generate):
    assert generate()[0] == 0
    assert [clip.samples for clip in listed("clips")] == [LENGTH]


def test_the_best_of_many(generate):
    assert generate("n=6", "samples=50", "out=all")[0] == 0
    code, output, _ = generate("n=6", "samples=50", "out=best", "keep=2", "sort=true", "format=flac", "batch_size=1")
    assert code == 0
    assert b"6 clips made" in output
    assert b"of which 2 are kept" in output
    by_likelihood = sorted(listed("all"), key=lambda clip: clip.nll_bits)
    assert [clip.number for clip in listed("best")] == [clip.number for clip in by_likelihood[:2]]
    for clip in listed("best"):
        assert clip.file.endswith(".flac")
        np.testing.assert_array_equal(pcm(f"best/{clip.file}"), pcm(f"all/clip_{clip.number:03}.wav"))


@pytest.mark.parametrize(("settings", "used"), [([], 100), (["prompt_seconds=0.04"], 40)])
def test_clips_begin_with_the_prompt_and_go_on_from_it(generate, checkpoint, settings, used):
    waveform = tone("prompt.wav")
    assert generate("n=2", "samples=150", "prompt=prompt.wav", *settings)[0] == 0
    encoding = load_pipeline(checkpoint, "audio_generate").encoding
    begin = np.rint(encoding.decode(encoding.encode(waveform[:used])) * 2**15)
    first, second = (pcm(f"clips/{clip.file}") for clip in listed("clips"))
    for clip in (first, second):
        assert np.abs(clip[:used] - begin).max() <= 2**15 / 64  # a level; the file has 16 bits, the model 8
    np.testing.assert_array_equal(first[:used], second[:used])
    assert (first[used:] != second[used:]).any()
    assert {clip.prompt_seconds for clip in listed("clips")} == {used / RATE}
    assert f"prompt.wav, {used / RATE:g} s" in Path("clips/index.html").read_text()


def test_a_prompt_at_another_rate_is_resampled_if_that_is_allowed(generate):
    tone("fast.wav", rate=2 * RATE)
    code, _, error = generate("samples=150", "prompt=fast.wav", "resample=false")
    assert code == 1
    assert error == "error: fast.wav: 2,000 Hz, not the model's 1,000 Hz; set resample=true.\n"
    pytest.importorskip("torchaudio")
    assert generate("samples=150", "prompt=fast.wav")[0] == 0
    assert [clip.prompt_seconds for clip in listed("clips")] == [0.1]


@pytest.mark.parametrize("prompt", [False, True])
def test_a_stream_is_the_first_clip_and_nothing_else(generate, prompt):
    tone("prompt.wav")
    given = ["samples=700", "seed=3", *(["prompt=prompt.wav"] if prompt else [])]
    assert generate(*given, "out=files")[0] == 0
    code, output, error = generate(*given, "stream=true", "out=none")
    assert code == 0
    np.testing.assert_array_equal(np.frombuffer(output, "<i2"), pcm("files/clip_000.wav"))
    told, made = error.splitlines()
    assert "aplay -r 1000 -f S16_LE -c 1" in told
    assert made.startswith("700 samples at ")
    assert not made.startswith("700 samples at 0 ")
    assert not Path("none").exists()


def test_what_libraries_print_does_not_get_into_the_stream(generate, monkeypatch):
    load = ssmbio.generate.load_model

    def noisy(config):
        print("noise", flush=True)
        os.write(1, b"more noise\n")
        return load(config)

    monkeypatch.setattr(ssmbio.generate, "load_model", noisy)
    code, output, error = generate("samples=64", "stream=true")
    assert code == 0
    assert len(output) == 128
    assert error.startswith("noise\nmore noise\n")
    monkeypatch.undo()
    print("still here", flush=True)  # standard output is as it was


def test_a_stream_has_no_end_until_the_other_side_closes(checkpoint):
    process = running(checkpoint, "stream=true")
    assert process.stdout is not None
    assert process.stderr is not None
    first = process.stdout.read(50 * LENGTH)
    assert len(first) == 50 * LENGTH
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read().count(b"\n") == 1


def test_after_ctrl_c_the_finished_clips_are_there_and_listed(checkpoint, tmp_path):
    out = tmp_path / "clips"
    process = running(checkpoint, "n=100000", "samples=400", "batch_size=2", f"out={out}")
    deadline = time.monotonic() + 120
    while not read_table(out):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=60)
    assert (process.returncode, output, error) == (130, b"", b"error: interrupted.\n")
    clips = listed(str(out))
    assert 1 <= len(clips) < 100000
    page = (out / "index.html").read_text()
    assert page.count("<audio ") == len(clips)
    assert "interrupted before all of the 100,000 clips" in page
    assert len(list(out.glob("*.png"))) == len(clips)


def test_on_a_full_disk_the_finished_clips_are_there_and_listed(checkpoint, tmp_path):
    """No file may have more than 500 bytes from the third clip on, which the table outgrows soon after."""
    out = tmp_path / "clips"
    before = """
import resource
import ssmbio.generation.clip_files as files
add = files.ClipFolder.add
def limited(self, clip):
    if clip.number == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
    add(self, clip)
files.ClipFolder.add = limited
"""
    process = running(checkpoint, "n=50", "samples=100", f"out={out}", before=before)
    output, error = process.communicate(timeout=120)
    assert (process.returncode, output) == (1, b"")
    assert error.decode().startswith(f"error: {out}/clips.tsv: cannot be written (File too large); free some space")
    assert error.count(b"\n") == 1
    clips = listed(str(out))
    assert 3 <= len(clips) < 12
    assert [clip.number for clip in clips] == list(range(len(clips)))
    assert sorted(entry.suffix for entry in out.iterdir()) == [".tsv", *[".wav"] * len(clips)]


def test_clips_of_before_stay_unless_told(generate):
    assert generate("n=3", "samples=50")[0] == 0
    before = {path.name: path.read_bytes() for path in Path("clips").iterdir()}
    code, _, error = generate("n=1", "samples=60", "format=flac")
    assert code == 1
    assert error == "error: out=clips already holds clips.tsv; choose another out=, or overwrite=true.\n"
    assert {path.name: path.read_bytes() for path in Path("clips").iterdir()} == before
    assert generate("n=1", "samples=60", "format=flac", "overwrite=true")[0] == 0
    names = sorted(path.name for path in Path("clips").iterdir())
    assert names == ["clip_000.flac", "clip_000.png", "clips.tsv", "index.html"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("n=0", ["n=0", "set n to 1 or more"]),
        ("n=2.5", ["n=2.5"]),
        ("n=null", ["n=None"]),
        ("batch_size=0", ["batch_size=0"]),
        ("keep=0", ["keep=0"]),
        ("n=2 keep=3", ["keep=3 of n=2"]),
        ("seconds=0", ["seconds=0", "above 0"]),
        ("seconds=-1", ["seconds=-1"]),
        ("seconds=inf", ["seconds=inf"]),
        ("seconds=four", ["seconds=four"]),
        ("samples=1000000000000000", ["out of memory", "make fewer clips side by side"]),
        ("samples=0", ["samples=0"]),
        ("seconds=1 samples=5", ["seconds and samples are both set"]),
        ("format=mp3", ["format=mp3", "wav or flac"]),
        ("temperature=-1", ["temperature=-1"]),
        ("temperature=hot", ["temperature=hot"]),
        ("top_k=-2", ["top_k=-2"]),
        ("top_p=0", ["top_p=0"]),
        ("min_p=2", ["min_p=2"]),
        ("seed=-1", ["seed=-1"]),
        ("device=tpu", ["device=tpu", "auto or cpu or cuda"]),
        ("sort=maybe", ["sort=maybe", "true or false"]),
        ("out=file", ["out=file is a file"]),
        ("prompt_seconds=1", ["prompt_seconds is set but prompt is not"]),
        ("prompt=tone.wav samples=100", ["tone.wav", "0.1 s", "nothing to generate", "prompt_seconds"]),
        ("prompt=tone.wav samples=50", ["tone.wav", "0.05 s"]),
        ("prompt=tone.wav prompt_seconds=2", ["tone.wav", "lasts 0.1 s", "prompt_seconds=2"]),
        ("prompt=tone.wav prompt_seconds=0", ["prompt_seconds=0"]),
        ("prompt=file", ["file: not audio"]),
        ("prompt=nothing.wav", ["nothing.wav"]),
        ("prompt=empty.wav", ["empty.wav: the file is empty"]),
        ("stream=true n=2", ["stream=true makes one clip"]),
        ("stream=true keep=1", ["stream=true makes one clip"]),
        ("stream=1", ["stream=1", "true or false"]),
        ("temprature=1", ["unknown key temprature", "did you mean temperature"]),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(generate, settings, words):
    Path("file").write_text("no audio")
    Path("empty.wav").touch()
    tone("tone.wav")
    there = sorted(Path().iterdir())
    code, output, error = generate(*settings.split())
    assert (code, output) == (1, b"")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    assert sorted(Path().iterdir()) == there


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_one_line(generate):
    assert generate("device=cuda") == (1, b"", "error: device=cuda, but torch sees no GPU; use device=cpu.\n")


def test_a_checkpoint_of_another_task_is_one_line(generate):
    torch.save({"state_dict": {}, CHECKPOINT_KEY: {**RECIPE, "task": "dna_classify"}}, "dna.ckpt")
    code, _, error = generate(ckpt="dna.ckpt")
    assert code == 1
    assert error.startswith("error: dna.ckpt: a checkpoint of task dna_classify, not of audio_generate")
    assert error.count("\n") == 1
    assert generate(ckpt="nothing.ckpt")[::2] == (
        1,
        "error: nothing.ckpt: no such checkpoint; give ckpt=<run folder>/checkpoints/best.ckpt.\n",
    )


def test_help_shows_the_command_and_every_key(generate):
    code, output, _ = generate("--help")
    assert code == 0
    for words in (b"python -m ssmbio.generate", b"aplay", b"prompt_seconds", b"overwrite", b"temperature"):
        assert words in output


def test_the_speed_is_of_the_making_alone(monkeypatch):
    now = 0.0
    monkeypatch.setattr("ssmbio.generation.progress.time.perf_counter", lambda: now)
    speed = Speed(100)

    def made():
        nonlocal now
        for _ in range(4):
            now += 2
            speed.samples += 50
            yield

    for _ in speed.timed(made()):
        now += 100
    assert speed.seconds == 8
    assert speed.per_second == 25
    assert str(speed) == "25 samples/s, 0.25 × real time"
    assert str(Speed(100)) == "0 samples/s, 0.00 × real time"


def test_the_progress_line_says_clips_samples_a_second_and_the_real_time_factor(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then writes as to a terminal
    monkeypatch.setenv("COLUMNS", "120")
    speed = Speed(100)
    speed._seconds = 2.0
    line = ProgressLine(3, 40, speed)
    with line.shown():
        line.advance(80)
        line.clip_done()
    output, error = capsys.readouterr()
    assert output == ""
    for words in ("1 of 3 clips", "40 samples/s, 0.40 × real time"):
        assert words in error
