"""Images and ListOps through the commands: a run, its checkpoint elsewhere, and one line for what is wrong."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image as Pillow

from ssmbio.checkpoints import load_pipeline

SMALL = (
    "task=pixel_classify",
    "model/mixer=mamba",
    "model.mixer.d_state=4",
    "model.d_model=8",
    "model.n_layers=1",
    "trainer.max_epochs=2",
    "data.batch_size=8",
)
QUIET = ("callbacks.progress.enabled=false", "trainer.accelerator=cpu")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSMBIO_CACHE", str(tmp_path / "cache"))

    def command(name: str, *arguments: str) -> tuple[int, str]:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [name, *arguments, *(QUIET if name == "train" else ())])
        code = 0
        try:
            importlib.import_module(f"ssmbio.{name}").main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return code, captured.err if code else captured.out

    return command


@pytest.fixture
def folder(run) -> Path:
    """Images of 6×5: bright above, or bright below."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8), ("test", 9)):
        for i in range(count):
            pixels = rng.integers(0, 90, (6, 5), np.uint8)
            rows = slice(0, 2) if i % 2 else slice(4, 6)
            pixels[rows] += 150
            path = Path("images", split, "up" if i % 2 else "down", f"{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Pillow.fromarray(pixels).save(path)
    return Path("images")


def table(path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(open(path), delimiter="\t"))


def expect_one_line(result: tuple[int, str], *words: str) -> None:
    code, error = result
    assert code == 1, error
    lines = [line for line in error.splitlines() if line.strip()]
    assert len(lines) == 1, error
    for word in words:
        assert word in lines[0]


def measures(name: str) -> dict[str, float]:
    return json.loads(Path(name, "metrics.json").read_text())


@pytest.mark.slow
def test_the_default_runs_and_is_learnt_a_little(run):
    """The drawn shapes with the default mixer, smaller: twice as good as guessing one of four after 375 steps."""
    easy = ("data.side=10", "data.noise=0", "data.counts={train: 1200, test: 120}", "data.batch_size=16")
    model = ("model.d_model=32", "model.mixer.d_state=16", "optimizer.lr=0.01", "trainer.max_epochs=5")
    code, output = run("train", "task=pixel_classify", *easy, *model, "run_dir=run")
    assert code == 0, output
    assert "results in run" in output
    assert measures("run")["test/accuracy"] > 0.5
    assert len(table("run/test_predictions.tsv")) == 120


def test_debug_fast_runs(run):
    code, output = run("train", "task=pixel_classify", "debug=fast", "data.counts={train: 60, test: 20}", "run_dir=run")
    assert code == 0, output
    assert measures("run")["epochs"] == 1


def test_a_run_on_a_folder_and_its_checkpoint_elsewhere(run, folder):
    code, output = run("train", *SMALL, "data=image_folder", "data.root=images", "run_dir=run", "data.permutation=7")
    assert code == 0, output
    rows = table("run/test_predictions.tsv")
    assert list(rows[0]) == ["name", "label", "p_down", "p_up", "true_label"]
    assert [row["name"] for row in rows] == sorted(
        str(path.relative_to(folder)) for path in folder.glob("test/*/*.png")
    )
    right = np.mean([row["label"] == row["true_label"] for row in rows])
    assert right == pytest.approx(measures("run")["test/accuracy"])
    assert load_pipeline("run").facts["image"]["order"] != list(range(30))
    assert (Path("run/pictures") / "confusion_matrix.png").is_file()

    # Prediction from the files, in batches of another size, gives what the test gave.
    expected = {Path(row["name"]).name: float(row["p_up"]) for row in rows}
    code, output = run("predict", "ckpt=run", "input=images/test", "output=all.tsv", "device=cpu", "batch_size=4")
    assert code == 0, output
    found = table("all.tsv")
    assert list(found[0]) == ["name", "label", "p_down", "p_up"]
    assert {Path(row["name"]).name: float(row["p_up"]) for row in found} == pytest.approx(expected, abs=1e-5)
    assert run("predict", "ckpt=run", "input=images/test/up/1.png", "output=one.tsv", "device=cpu")[0] == 0
    (one,) = table("one.tsv")
    assert (one["name"], float(one["p_up"])) == ("1.png", pytest.approx(expected["1.png"], abs=1e-5))

    # The same images as data of others: a folder without splits, of which all is tested.
    Path("images/test").rename("others")
    others = ("data=image_folder", "data.root=others", "trainer.accelerator=cpu")
    code, output = run("evaluate", "ckpt=run", "run_dir=again", *others)
    assert code == 0, output
    for measure in ("accuracy", "loss", "auroc", "mcc"):
        assert measures("again")[f"test/{measure}"] == pytest.approx(measures("run")[f"test/{measure}"], abs=1e-6)
    assert measures("again")["test/records"] == 9


def test_what_is_resized_in_training_is_resized_later(run, folder):
    settings = ("data=image_folder", "data.root=images", "data.size=4", "data.mode=rgb", "trainer.max_epochs=1")
    assert run("train", *SMALL, *settings, "run_dir=run")[0] == 0
    expected = {Path(row["name"]).name: row["p_up"] for row in table("run/test_predictions.tsv")}
    assert load_pipeline("run").facts["image"]["shape"] == [4, 4, 3]
    assert run("predict", "ckpt=run", "input=images/test", "output=all.tsv", "device=cpu")[0] == 0
    for row in table("all.tsv"):
        assert float(row["p_up"]) == pytest.approx(float(expected[Path(row["name"]).name]), abs=1e-5)
    code, output = run(
        "evaluate", "ckpt=run", "run_dir=again", "data=image_folder", "data.root=images/test", "trainer.accelerator=cpu"
    )
    assert code == 0, output
    assert measures("again")["test/loss"] == pytest.approx(measures("run")["test/loss"], abs=1e-6)


def test_mnist_file_and_a_resumed_run(run):
    rng = np.random.default_rng(0)
    labels = np.arange(48) // 16
    images = (rng.integers(0, 60, (48, 4, 4)) + 60 * labels[:, None, None]).astype(np.uint8)
    np.savez("mnist.npz", x_train=images, y_train=labels, x_test=images[::4], y_test=labels[::4])
    settings = (*SMALL, "data=mnist", "data.root=.", "callbacks.ema.enabled=true", "callbacks.ema.decay=0.5")
    assert run("train", *settings, "run_dir=whole")[0] == 0
    assert run("evaluate", "ckpt=whole", "run_dir=again", "trainer.accelerator=cpu")[0] == 0
    assert measures("again")["test/loss"] == pytest.approx(measures("whole")["test/loss"], abs=1e-6)
    assert [row["name"] for row in table("whole/test_predictions.tsv")] == [f"x_test[{i}]" for i in range(12)]
    assert run("train", "ckpt=last", "run_dir=whole", "trainer.max_epochs=3")[0] == 0
    assert measures("whole")["epochs"] == 3


def test_fine_tuning_takes_the_body_and_makes_a_new_head(run, folder):
    settings = (*SMALL, "data=image_folder", "data.root=images", "trainer.max_epochs=1")
    assert run("train", *settings, "run_dir=first")[0] == 0
    other = ("data=shapes", "data.side=8", "data.counts={train: 20, test: 8}", "optimizer.lr=0.0", "init_from=first")
    assert run("train", *settings[:-3], "trainer.max_epochs=1", *other, "run_dir=second")[0] == 0
    first, second = load_pipeline("first"), load_pipeline("second")
    assert second.labels == ["cross", "disc", "square", "triangle"]
    body = {name: value for name, value in first.state_dict().items() if not name.startswith("head.")}
    assert all(torch.equal(second.state_dict()[name], value) for name, value in body.items())
    assert second.facts["image"]["mean"] != first.facts["image"]["mean"]  # the scale is of the new images
    expect_one_line(
        run("train", *settings, "data.mode=rgb", "init_from=first", "run_dir=no"), "does not fit this model"
    )
    tokens = (
        "task=sequence_classify",
        "data.counts={train: 40, val: 4, test: 4}",
        "data.shortest=2",
        "data.longest=30",
    )
    expect_one_line(run("train", *tokens, "init_from=first", "run_dir=no"), "reads images, but this one sequences")
    assert not Path("no").exists()


def test_bad_images_and_settings_are_one_line_and_leave_nothing(run, folder):
    assert run("train", *SMALL, "data=image_folder", "data.root=images", "trainer.max_epochs=1", "run_dir=run")[0] == 0
    before = sorted(path for path in Path().iterdir())
    image = Pillow.fromarray(np.zeros((6, 5), np.uint8))

    def refused(arguments: tuple[str, ...], *words: str) -> None:
        expect_one_line(run("predict", "ckpt=run", "output=out.tsv", "device=cpu", *arguments), *words)
        assert sorted(path for path in Path().iterdir()) == before

    Path("images/test/up/bad.png").write_text("no image")
    refused(("input=images/test",), "images/test/up/bad.png: not an image, or damaged", "PNG")
    image.resize((7, 6)).save("images/test/up/bad.png")
    refused(("input=images/test", "batch_size=1"), "bad.png: 6×7 grey, but the model takes 6×5 grey", "data.size")
    image.convert("I;16").save("images/test/up/bad.png")
    refused(("input=images/test/up/bad.png",), "bad.png", "8 bits a channel")
    Path("images/test/up/bad.png").unlink()
    refused(("input=nowhere.png",), "nowhere.png: there is no such file")
    refused(("input=run/logs",), "run/logs: no image files in it")
    refused(("input=images/test", "window=5"), "window=5 has no meaning for images")
    refused(("input=images/test", "both_strands=true"), "both_strands=True has no meaning for images")

    def not_trained(*arguments: str) -> tuple[int, str]:
        result = run("train", *SMALL, "run_dir=second", *arguments)
        assert not Path("second").exists()
        return result

    expect_one_line(not_trained("data=mnist"), "data.root is not set")
    expect_one_line(not_trained("data=cifar10", "data.root=images"), "it is not downloaded")
    expect_one_line(not_trained("data=image_folder", "data.root=images", "data.mode=gray"), "grey or rgb")
    expect_one_line(not_trained("data=shapes", "data.counts.train=1"), "1 train images")
    expect_one_line(not_trained("data=shapes", "data.reverse_complement=0.5"), "unknown key data.reverse_complement")
    expect_one_line(not_trained("data=simulated_genome", "data.contigs=4", "data.genes_per_contig=20"), "reads images")
    expect_one_line(not_trained("data=image_folder", "data.root=images", "task=dna_classify"), "are images, but")
    elsewhere = ("evaluate", "ckpt=run", "run_dir=second", "trainer.accelerator=cpu")
    expect_one_line(run(*elsewhere, "data=image_folder", "data.root=images", "data.size=3"), "the model takes 6×5 grey")
    expect_one_line(run(*elsewhere, "data=table", "data.test=x.csv"), "data=table are sequences")
    assert not Path("second").exists()


def test_listops_through_the_commands(run):
    settings = ("data.counts={train: 200, val: 12, test: 20}", "data.shortest=4", "data.longest=40", "data.depth=4")
    small = (*SMALL, "task=sequence_classify", "trainer.max_epochs=1", *settings)
    code, output = run("train", *small, "run_dir=run")
    assert code == 0, output
    rows = table("run/test_predictions.tsv")
    assert list(rows[0]) == ["name", "label", *(f"p_{digit}" for digit in range(10)), "true_label"]
    (made,) = Path("cache").glob("listops-*")
    arguments = ("ckpt=run", f"input={made}/basic_test.tsv", "output=out.tsv", "device=cpu", "batch_size=7")
    code, output = run("predict", *arguments)
    assert code == 0, output
    for one, two in zip(rows, table("out.tsv"), strict=True):
        assert float(one["p_0"]) == pytest.approx(float(two["p_0"]), abs=1e-5)
    code, output = run(
        "evaluate", "ckpt=run", "run_dir=again", "data=listops", f"data.root={made}", "trainer.accelerator=cpu"
    )
    assert code == 0, output
    assert measures("again")["test/loss"] == pytest.approx(measures("run")["test/loss"], abs=1e-6)

    Path("bad.tsv").write_text("Source\tTarget\n[MAX 2 3 ]\t3\n[AVG 2 3 ]\t3\n")
    bad = run("predict", "ckpt=run", "input=bad.tsv", "output=bad.out", "device=cpu")
    expect_one_line(bad, "bad.tsv, line 3", "'[AVG' is no token of ListOps")
    assert not Path("bad.out").exists()
    expect_one_line(run("train", *small, "data.max_length=10", "run_dir=no"), "tokens, more than max_length = 10")
    expect_one_line(run("train", *small, "task=dna_classify", "data=listops", "run_dir=no"), "not DNA")
    assert not Path("no").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("task=dna_classify", "data=listops"), ("data=listops are not DNA", "task=sequence_classify")),
        (("task=dna_classify", "data=pathfinder"), ("data=pathfinder are images", "task=dna_classify reads sequences")),
        (("task=pixel_classify", "data=listops"), ("data=listops are sequences", "reads images")),
        (("task=pixel_classify", "model.mixer.init=foo"), ("init must be one of", "foo")),
    ],
)
def test_what_does_not_fit_is_told_before_data_are_made(run, settings, words):
    expect_one_line(run("train", *settings, "run_dir=no"), *words)
    assert list(Path().iterdir()) == []
