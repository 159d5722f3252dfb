"""Settings and folders of runs that cannot be meant: one line, exit code 1, and nothing of an earlier run touched."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from audio_commands import expect_one_line, inside, run

from ssmbio.pipelines import DnaClassify

TABLE = "sequence,label\n" + "ACGTACGTAA,a\nACGTTTGTAA,b\n" * 10
TINY = (
    *("task=dna_classify", "model.d_model=4", "model.n_layers=1", "model.mixer.d_state=4", "data.batch_size=4"),
    *("data=table", "data.train=table.csv", "data.test=table.csv", "trainer.max_epochs=1"),
)
NEW = ("train", *TINY, "run_dir=new")
GO_ON = ("train", "ckpt=last", "run_dir=run")
PREDICT = ("predict", "input=table.csv", "output=new.tsv")
FAULTS = {
    "seed=1.5 is no seed": (*NEW, "seed=1.5"),
    "seed=None is no seed": (*NEW, "seed=null"),
    "but an epoch has 5 batches": (*NEW, "trainer.val_check_interval=1000"),
    "trainer.accumulate_grad_batches=0": (*NEW, "trainer.accumulate_grad_batches=0"),
    "trainer.check_val_every_n_epoch=0": (*NEW, "trainer.check_val_every_n_epoch=0"),
    "trainer.max_epochs=abc is not a whole number": (*NEW, "trainer.max_epochs=abc"),
    "trainer.max_epochs=2.5 is not": (*NEW, "trainer.max_epochs=2.5"),
    "the length of the run is not set": (*NEW, "trainer.max_epochs=-1"),
    "run_dir is empty": ("train", *TINY, "run_dir="),
    "~callbacks.early_stopping would change a run": (*GO_ON, "trainer.max_epochs=2", "~callbacks.early_stopping"),
    "cut.ckpt: not a checkpoint, or damaged": ("evaluate", "ckpt=cut.ckpt", "run_dir=new"),
    "callbacks: `mode` can be min, max but got maximum": (*NEW, "callbacks.mode=maximum"),
    "callbacks: Invalid value for every_n_train_steps": (*NEW, "callbacks.last.every_n_train_steps=-5"),
    "table.csv: not a checkpoint, or damaged": (*NEW, "ckpt=table.csv"),
    "123: no such checkpoint": (*NEW, "ckpt=123"),
    "other: it holds a run already": ("train", *TINY, "ckpt=run/checkpoints/last.ckpt", "run_dir=other"),
    "this run is over, after 1 epochs": (*GO_ON, "data.batch_size=5"),
    "optimizer.lr=1e-7 would change a run": (*GO_ON, "trainer.max_epochs=2", "optimizer.lr=1e-7"),
    "add run_dir=<the run's folder>": ("train", "ckpt=last"),
    "task is not set": ("train", "experiment=gue_300_tata", "data.root=.", "run_dir=new"),
    "run: it holds a run already": ("evaluate", "ckpt=run", "run_dir=run"),
    "0: no such checkpoint": ("evaluate", "ckpt=0", "run_dir=new"),
    "5: no such checkpoint": ("evaluate", "ckpt=[5,run]", "run_dir=new"),
    "leaves nothing to test": ("evaluate", "ckpt=run", "trainer.limit_test_batches=0", "run_dir=new"),
    "table.csv: not a checkpoint": (*PREDICT, "ckpt=table.csv"),
    "run/config.yaml: not a checkpoint": (*PREDICT, "ckpt=run/config.yaml"),
    "length=7 has no meaning for inputs without intervals": (*PREDICT, "ckpt=run", "length=7"),
    "data.length: this command has no settings of data": (*PREDICT, "ckpt=run", "data.length=5"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a table and two finished runs of it, `run` and `other`."""
    folder = tmp_path_factory.mktemp("trained")
    with inside(folder):
        Path("table.csv").write_text(TABLE)
        assert run("train", *TINY, "run_dir=run")[0] == 0
        shutil.copytree("run", "other")
        whole = Path("run/checkpoints/best.ckpt").read_bytes()
        Path("cut.ckpt").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture
def copied(trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    with inside(tmp_path):
        yield


def contents() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize("words", FAULTS)
def test_a_fault_is_one_line_and_every_file_stays_as_it_was(copied, words):
    before = contents()
    expect_one_line(run(*FAULTS[words]), words)
    assert contents() == before


def test_training_without_a_test_ends_as_any_other(copied):
    assert run("train", *TINY, "trainer.limit_test_batches=0", "run_dir=new")[0] == 0
    assert Path("new/metrics.json").exists()
    assert not Path("new/test_predictions.tsv").exists()


def test_a_setting_given_twice_can_be_set_back_on_resuming(copied):
    assert run("train", "trainer.max_epochs=2", *TINY, "run_dir=new")[0] == 0  # the later one counts, 1
    assert epochs("new") == 1
    assert run("train", "ckpt=last", "run_dir=new", "trainer.max_epochs=2")[0] == 0
    assert epochs("new") == 2


def epochs(run_dir: str) -> int:
    return torch.load(f"{run_dir}/checkpoints/last.ckpt", weights_only=True)["epoch"] + 1


def test_without_checkpoints_a_run_writes_none(copied):
    before = set(contents())
    off = [f"callbacks.{name}.enabled=false" for name in ("best", "last", "last_of_epoch")]
    off += [f"logger.{name}.enabled=false" for name in ("csv", "tensorboard")]
    assert run("train", *TINY, *off, "run_dir=new")[0] == 0
    assert {path.parts[0] for path in set(contents()) - before} == {"new"}
    assert not list(Path("new").rglob("*.ckpt"))


@pytest.mark.parametrize("folder", ["new", "run"])
def test_a_run_folder_as_checkpoint_goes_on_from_its_last(copied, folder):
    assert run("train", *TINY, "trainer.max_epochs=2", "ckpt=run", f"run_dir={folder}")[0] == 0
    assert '"epochs": 2' in Path(folder, "metrics.json").read_text()


@pytest.mark.parametrize("step", ["training_step", "test_step"])
def test_the_keyboard_stops_a_run_with_a_word(copied, monkeypatch, step):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(DnaClassify, step, stop)
    code, error = run("train", *TINY, "run_dir=new")
    assert code == 130
    assert error.strip().splitlines()[-1] == "error: interrupted."
