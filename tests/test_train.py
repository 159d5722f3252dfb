"""Training as its user meets it: files in, a run folder out, and back again after a kill."""

from __future__ import annotations

import csv
import importlib
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from ssmbio.checkpoints import load_pipeline, read_checkpoint
from ssmbio.errors import UserError

TINY = (
    "task=dna_classify",
    "data=table",
    "data.train=train.csv",
    "data.test=test.csv",
    "model.d_model=8",
    "model.n_layers=1",
    "model.mixer.d_state=4",
    "model.dropout=0.1",
    "data.batch_size=8",
    "callbacks.progress.enabled=false",
    "trainer.accelerator=cpu",
)


def write_table(path: Path, records: int, seed: int, labels=("off", "on")) -> None:
    """Ragged sequences; those of the last class hold a TATA box."""
    random.seed(seed)
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["sequence", "label"])
        for i in range(records):
            bases = random.choices("ACGT", k=random.randint(20, 60))
            if i % len(labels) == len(labels) - 1:
                start = random.randint(0, len(bases) - 8)
                bases[start : start + 8] = "TATAATAA"
            table.writerow(["".join(bases), labels[i % len(labels)]])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "train.csv", 60, 0)
    write_table(tmp_path / "test.csv", 24, 1)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    def command(name: str, *arguments: str) -> tuple[int, str]:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        try:
            importlib.import_module(f"ssmbio.{name}").main()
        except SystemExit as exit_:
            return int(exit_.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().out

    return command


def step_losses(run_dir: str) -> dict[int, float]:
    """Training loss of each logged step, over all logs of a run."""
    losses = {}
    for log in sorted(Path(run_dir, "logs", "csv").glob("version_*/metrics.csv")):
        for row in csv.DictReader(log.open()):
            if row.get("train/loss_step"):
                losses[int(row["step"])] = float(row["train/loss_step"])
    return losses


def test_a_run_folder_holds_what_it_promises(folder, run):
    code, output = run("train", *TINY, "trainer.max_epochs=2", "run_dir=run")
    assert code == 0
    assert "results in run" in output
    assert "test/auroc" in output
    metrics = json.loads(Path("run/metrics.json").read_text())
    for name in ("accuracy", "mcc", "auroc", "auprc", "f1", "loss"):
        assert math.isfinite(metrics[f"test/{name}"])
    assert metrics["parameters"] == sum(p.numel() for p in load_pipeline("run").parameters())
    assert metrics["seconds"] > 0
    assert metrics["train/sequences_per_second"] > 0
    for name in ("config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert Path("run", name).stat().st_size > 0
    for name in ("learning_curves", "confusion_matrix", "roc_and_precision_recall"):
        assert Path("run/pictures", f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert list(Path("run/logs/tensorboard").rglob("events.out.tfevents.*"))

    rows = list(csv.DictReader(open("run/test_predictions.tsv"), delimiter="\t"))
    assert len(rows) == 24
    assert list(rows[0]) == ["name", "start", "end", "strand", "label", "p_off", "p_on", "true_label"]
    right = sum(row["label"] == row["true_label"] for row in rows) / len(rows)
    assert right == pytest.approx(metrics["test/accuracy"])

    # A checkpoint is all that evaluation and prediction need, and they agree with the run.
    code, _ = run(
        "evaluate", "ckpt=run", "run_dir=again", "data=table", "data.test=test.csv", "trainer.accelerator=cpu"
    )
    assert code == 0
    again = json.loads(Path("again/metrics.json").read_text())
    for name in ("accuracy", "mcc", "auroc", "auprc", "f1", "loss"):
        assert again[f"test/{name}"] == pytest.approx(metrics[f"test/{name}"], abs=1e-6)
    code, _ = run("predict", "ckpt=run", "input=test.csv", "output=predictions.tsv", "device=cpu", "batch_size=5")
    assert code == 0
    predicted = list(csv.DictReader(open("predictions.tsv"), delimiter="\t"))
    for one, two in zip(rows, predicted, strict=True):
        assert float(one["p_on"]) == pytest.approx(float(two["p_on"]), abs=1e-5)


def test_a_killed_run_resumes_inside_an_epoch_with_the_same_losses(folder, run, monkeypatch):
    """Killed hard after step 11 of 16 (epochs have 7 steps): no handler runs, only last.ckpt of step 10 is left."""
    settings = (*TINY, "trainer.max_epochs=3", "callbacks.last.every_n_train_steps=2", "trainer.log_every_n_steps=1")
    assert run("train", *settings, "run_dir=whole")[0] == 0

    from ssmbio.pipelines import DnaClassify

    class Killed(BaseException):
        pass

    original = DnaClassify.loss

    def dies(self, batch):
        if self.global_step == 11:
            raise Killed
        return original(self, batch)

    monkeypatch.setattr(DnaClassify, "loss", dies)
    with pytest.raises(Killed):
        run("train", *settings, "run_dir=killed")
    monkeypatch.setattr(DnaClassify, "loss", original)
    assert read_checkpoint("killed/checkpoints/last.ckpt")["global_step"] == 10
    before = step_losses("killed")
    assert run("train", "ckpt=last", "run_dir=killed")[0] == 0

    whole, resumed = step_losses("whole"), step_losses("killed")
    assert len(whole) == 21
    assert {step: loss for step, loss in resumed.items() if step >= 10}.keys() >= set(range(10, 21))
    assert resumed == pytest.approx(whole, abs=1e-6)
    assert before == pytest.approx({step: whole[step] for step in before}, abs=1e-6)
    final = [json.loads(Path(name, "metrics.json").read_text())["test/loss"] for name in ("whole", "killed")]
    assert final[0] == pytest.approx(final[1], abs=1e-6)
    for one, two in zip(
        read_checkpoint("whole/checkpoints/last.ckpt")["state_dict"].values(),
        read_checkpoint("killed/checkpoints/last.ckpt")["state_dict"].values(),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


def test_seeds_repeat_and_differ(folder, run):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run("train", *TINY, "trainer.max_epochs=1", f"run_dir={name}", f"seed={seed}")[0] == 0
    loss = {name: json.loads(Path(name, "metrics.json").read_text())["test/loss"] for name in "abc"}
    assert loss["a"] == loss["b"]
    assert abs(loss["a"] - loss["c"]) > 1e-4


def test_fine_tuning_takes_the_body_and_makes_a_new_head(folder, run):
    write_table(Path("three.csv"), 45, 2, labels=("x", "y", "z"))
    assert run("train", *TINY, "trainer.max_epochs=1", "run_dir=first")[0] == 0
    overrides = ("data.train=three.csv", "data.test=null", "trainer.max_epochs=1", "optimizer.lr=0.0")
    assert run("train", *TINY, *overrides, "run_dir=second", "init_from=first")[0] == 0
    first, second = load_pipeline("first"), load_pipeline("second")
    assert second.labels == ["x", "y", "z"]
    body = {name: value for name, value in first.state_dict().items() if not name.startswith("head.")}
    for name, value in body.items():  # the learning rate was 0: what was loaded is what was saved
        assert torch.equal(second.state_dict()[name], value)
    code, error = run("train", *TINY, "init_from=first", "model.d_model=16", "run_dir=third")
    assert code == 1
    assert "does not fit this model" in error
    assert not Path("third").exists()


def test_moving_average_is_what_is_tested_and_saved(folder, run):
    settings = (*TINY, "trainer.max_epochs=2", "callbacks.ema.enabled=true", "callbacks.ema.decay=0.9")
    assert run("train", *settings, "run_dir=ema")[0] == 0
    checkpoint = read_checkpoint("ema/checkpoints/last.ckpt")
    current, average = checkpoint["current_model_state"], checkpoint["state_dict"]
    assert any(not torch.equal(current[name], average[name]) for name in average)
    code, _ = run("evaluate", "ckpt=ema", "run_dir=again", "trainer.accelerator=cpu")
    assert code == 0
    values = [json.loads(Path(name, "metrics.json").read_text())["test/loss"] for name in ("ema", "again")]
    assert values[0] == pytest.approx(values[1], abs=1e-6)


def test_a_loss_that_turns_nan_stops_the_run_and_says_where(folder, run):
    code, error = run("train", *TINY, "trainer.max_epochs=5", "optimizer.lr=1e30", "run_dir=nan")
    assert code == 1
    assert len(error.strip().splitlines()) == 1
    for word in ("loss is nan at step", "batch", "train.csv, line", "optimizer.lr"):
        assert word in error


def test_several_labels_a_record(folder, run):
    with open("multi.csv", "w") as file:
        file.write("sequence,label\n")
        random.seed(3)
        for i in range(40):
            file.write("".join(random.choices("ACGT", k=30)) + "," + ["a", "b", "a;b", ""][i % 4] + "\n")
    overrides = ("data.train=multi.csv", "data.test=multi.csv", 'data.label_separator=";"', "trainer.max_epochs=1")
    assert run("train", *TINY, *overrides, "run_dir=multi")[0] == 0
    rows = list(csv.DictReader(open("multi/test_predictions.tsv"), delimiter="\t"))
    assert [row["true_label"] for row in rows[:4]] == ["a", "b", "a;b", ""]
    assert {"p_a", "p_b"} <= rows[0].keys()


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"_target_": "os.mkdir", "path": "owned"}},
        {"task": {"_target_": "ssmbio.cli.fail", "message": "owned"}},
        {"model": {"_target_": "ssmbio.backbones.stack.nn.Linear"}},
        {"model": {"mixer": {"_target_": "ssmbio.mixers.mamba.math.sqrt"}}},
        # Behind a reference, which is resolved only when the object is built.
        {"model": {"mixer": "${hidden}"}, "hidden": {"_target_": "os.mkdir", "path": "owned"}},
    ],
    ids=str,
)
def test_strangers_checkpoints_run_no_code(folder, run, change):
    assert run("train", *TINY, "trainer.max_epochs=1", "run_dir=run")[0] == 0
    checkpoint = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    config = checkpoint["ssmbio"]["config"]
    checkpoint["ssmbio"]["config"] = OmegaConf.to_container(OmegaConf.merge(config, change))
    torch.save(checkpoint, "evil.ckpt")
    with pytest.raises(UserError, match="not a class of ssmbio"):
        load_pipeline("evil.ckpt")
    assert not Path("owned").exists()


def test_a_strangers_data_are_checked_too(folder, run):
    assert run("train", *TINY, "trainer.max_epochs=1", "run_dir=run")[0] == 0
    checkpoint = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    checkpoint["ssmbio"]["config"]["data"]["datamodule"]["source"] = {"_target_": "os.mkdir", "path": "owned"}
    torch.save(checkpoint, "evil.ckpt")
    code, error = run("evaluate", "ckpt=evil.ckpt", "run_dir=out")
    assert code == 1
    assert "not a class of ssmbio" in error
    assert not Path("owned").exists()


def test_a_folder_that_holds_a_run_is_not_written_over(folder, run):
    settings = (*TINY, "trainer.max_epochs=1", "run_dir=run")
    assert run("train", *settings)[0] == 0
    before = Path("run/metrics.json").read_text()
    code, error = run("train", *settings)
    assert code == 1
    assert "holds a run already" in error
    assert Path("run/metrics.json").read_text() == before


def test_a_resumed_run_takes_new_values_but_no_new_choices(folder, run):
    assert run("train", *TINY, "trainer.max_epochs=1", "run_dir=run")[0] == 0
    code, _ = run("train", "ckpt=last", "run_dir=run", "trainer.max_epochs=2", "data.num_workers=0")
    assert code == 0
    assert json.loads(Path("run/metrics.json").read_text())["epochs"] == 2
    for wrong, words in (
        ("data=fasta", "would change a run that has begun"),
        ("model.d_model=16", "does not fit this model"),
        ("data.num_worker=0", "did you mean data.num_workers"),
    ):
        code, error = run("train", "ckpt=last", "run_dir=run", wrong)
        assert code == 1
        assert words in error
        assert len(error.strip().splitlines()) == 1


def test_the_best_epoch_is_kept_and_the_run_stops_early_with_a_reason(folder, run):
    settings = ("trainer.max_epochs=30", "callbacks.early_stopping.patience=1", "optimizer.lr=0.05")
    code, output = run("train", *TINY, *settings, "run_dir=run")
    assert code == 0
    losses = {}
    for row in csv.DictReader(next(Path("run/logs/csv").rglob("metrics.csv")).open()):
        if row.get("val/loss"):
            losses[int(row["epoch"])] = float(row["val/loss"])
    assert "stopped early after" in output
    assert len(losses) < 30
    assert read_checkpoint("run/checkpoints/best.ckpt")["epoch"] == min(losses, key=losses.get)


def test_gradients_are_clipped(folder, run, monkeypatch):
    """With plain gradient descent at rate 1 and a clip of 0.01, no step is longer than that."""
    from ssmbio.pipelines import DnaClassify

    steps = []

    def before(self, *_):
        self.was = torch.cat([p.detach().flatten().clone() for p in self.parameters()])

    def after(self, *_):
        steps.append((torch.cat([p.detach().flatten() for p in self.parameters()]) - self.was).norm().item())

    monkeypatch.setattr(DnaClassify, "on_before_optimizer_step", before)
    monkeypatch.setattr(DnaClassify, "on_train_batch_end", after, raising=False)
    sgd = ("~optimizer.betas", "~optimizer.eps", "optimizer._target_=torch.optim.SGD", "optimizer.weight_decay=0")
    settings = (
        *sgd,
        "optimizer.lr=1.0",
        "scheduler=constant",
        "trainer.gradient_clip_val=0.01",
        "trainer.max_epochs=1",
    )
    assert run("train", *TINY, *settings, "run_dir=run")[0] == 0
    assert max(steps) == pytest.approx(0.01, rel=1e-3)


def test_an_undefined_monitor_stops_with_a_reason(folder, run):
    Path("val.csv").write_text("sequence,label\nACGTACGT,on\nACGTACGA,on\n")
    code, error = run("train", *TINY, "data.val=val.csv", "callbacks.monitor=val/auroc", "run_dir=run")
    assert code == 1
    assert "val/auroc is undefined on this validation set" in error


def test_accumulated_batches_draw_their_own_dropout(folder, run, monkeypatch):
    from ssmbio.pipelines import DnaClassify

    drawn = []
    original = DnaClassify.loss
    monkeypatch.setattr(
        DnaClassify, "loss", lambda self, batch: drawn.append(torch.rand(1).item()) or original(self, batch)
    )
    assert run("train", *TINY, "trainer.max_epochs=2", "trainer.accumulate_grad_batches=3", "run_dir=run")[0] == 0
    assert len(set(drawn)) == len(drawn) == 14


@pytest.mark.slow
def test_two_devices_share_one_run_folder(folder):
    """Two processes on the CPU: one folder, one table, and the measures of all records."""
    command = [sys.executable, "-m", "ssmbio.train", *TINY, "trainer.devices=2", "trainer.strategy=ddp"]
    result = subprocess.run([*command, "trainer.max_epochs=1"], capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    (only,) = Path("runs/dna_classify").iterdir()
    assert result.stdout.count("results in") == 1
    rows = list(csv.DictReader(open(only / "test_predictions.tsv"), delimiter="\t"))
    assert len(rows) == 24
    right = sum(row["label"] == row["true_label"] for row in rows) / len(rows)
    assert json.loads((only / "metrics.json").read_text())["test/accuracy"] == pytest.approx(right)


def test_wrong_checkpoints_are_named(folder, run):
    Path("text.ckpt").write_text("hello")
    torch.save({"state_dict": {}}, "other.ckpt")
    Path("cut.ckpt").write_bytes(Path("other.ckpt").read_bytes()[:300])
    for name, words in (
        ("text.ckpt", "not a checkpoint, or damaged"),
        ("cut.ckpt", "not a checkpoint, or damaged"),
        ("other.ckpt", "not one of ssmbio"),
        ("missing.ckpt", "no such checkpoint"),
    ):
        code, error = run("predict", f"ckpt={name}", "input=test.csv", "output=out.tsv")
        assert code == 1
        assert f"{name}: " in error
        assert words in error
        assert not Path("out.tsv").exists()
    assert run("train", *TINY, "trainer.max_epochs=1", "run_dir=run")[0] == 0
    checkpoint = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    checkpoint["ssmbio"]["task"] = "audio_generate"
    torch.save(checkpoint, "audio.ckpt")
    code, error = run("predict", "ckpt=audio.ckpt", "input=test.csv", "output=out.tsv")
    assert code == 1
    assert "a checkpoint of task audio_generate, not of dna_classify" in error


def test_sweeps_give_each_job_its_folder(folder, run):
    code, _ = run("train", "-m", *TINY, "trainer.max_epochs=1", "run_dir=sweep", "seed=0,1")
    assert code == 0
    assert {path.parent.name for path in Path("sweep").glob("*/metrics.json")} == {"0", "1"}
