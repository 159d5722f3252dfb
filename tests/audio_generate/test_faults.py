"""The task audio_generate through the commands: what is wrong with files, settings and checkpoints is one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from audio_commands import RATE, expect_one_line, run, write, write_damaged
from audio_generate_cases import AUDIO, DATA, SASHIMI, TINY, sound


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
    elif case == "truncated flac":
        path = write("bad/val/bad.flac", sound(0, 20_000))
        path.write_bytes(path.read_bytes()[:15_000])
    else:
        write_damaged(path, wave, case)
    return ("data.root=bad", "data.resample=false") if case == "another rate" else ("data.root=bad",)


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
