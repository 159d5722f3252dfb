"""Settings and folders of runs that cannot be meant: one line, exit code 1, and nothing of an earlier run touched."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from ssmbio.pipelines import DnaClassify

TABLE = "sequence,label\n" + "ACGTACGTAA,a\nACGTTTGTAA,b\n" * 10
TINY = (
    *("task=dna_classify", "model.d_model=4", "model.n_layers=1", "model.mixer.d_state=4", "data.batch_size=4"),
    *("data=table", "data.train=table.csv", "data.test=table.csv", "trainer.accelerator=cpu"),
    *("callbacks.progress.enabled=false", "trainer.max_epochs=1"),
)


def command(name: str, *arguments: str) -> int:
    GlobalHydra.instance().clear()
    before = sys.argv
    sys.argv = [name, *arguments]
    try:
        importlib.import_module(f"ssmbio.{name}").main()
    except SystemExit as exit_:
        return int(exit_.code or 0)
    finally:
        sys.argv = before
    return 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a table and two finished runs of it, `run` and `other`."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("table.csv").write_text(TABLE)
        assert command("train", *TINY, "run_dir=run") == 0
        shutil.copytree("run", "other")
    return folder


@pytest.fixture
def refused(trained, tmp_path, monkeypatch, capsys):
    """A check that a command ends in one line with these words, and leaves every file as it was."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}

    def check(words: str, name: str, *arguments: str) -> None:
        before = contents()
        capsys.readouterr()
        code, error = command(name, *arguments), capsys.readouterr().err
        assert code == 1, error
        assert words in error
        assert len([line for line in error.splitlines() if line.strip()]) == 1, error
        assert contents() == before

    return check


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["seed=1.5"], "seed=1.5 is no seed"),
        (["seed=null"], "seed=None is no seed"),
        (["trainer.val_check_interval=1000"], "but an epoch has 5 batches"),
        (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches=0"),
        (["trainer.check_val_every_n_epoch=0"], "trainer.check_val_every_n_epoch=0"),
        (["callbacks.mode=maximum"], "callbacks: "),
        (["callbacks.last.every_n_train_steps=-5"], "callbacks: "),
        (["ckpt=table.csv"], "table.csv: not a checkpoint, or damaged"),
        (["ckpt=123"], "123: no such checkpoint"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_setting_that_no_training_can_have(refused, settings, words):
    refused(words, "train", *TINY, *settings, "run_dir=new")


def test_a_run_is_not_gone_on_with_in_the_folder_of_another(refused):
    refused("other: it holds a run already", "train", *TINY, "ckpt=run/checkpoints/last.ckpt", "run_dir=other")


def test_the_measures_of_a_training_are_not_those_of_an_evaluation(refused):
    refused("run: it holds a run already", "evaluate", "ckpt=run", "run_dir=run")


def test_a_run_that_is_over_is_left_as_it_is(refused):
    refused("this run is over, after 1 epochs", "train", "ckpt=last", "run_dir=run", "data.batch_size=5")


def test_the_optimizer_of_a_run_that_has_begun_keeps_its_settings(refused):
    what = "optimizer.lr=1e-7 would change a run that has begun"
    refused(what, "train", "ckpt=last", "run_dir=run", "trainer.max_epochs=2", "optimizer.lr=1e-7")


def test_resuming_needs_the_folder_of_the_run(refused):
    refused("add run_dir=<the run's folder>", "train", "ckpt=last")


def test_an_experiment_without_its_task(refused):
    refused("task is not set", "train", "experiment=gue_300_tata", "data.root=.", "run_dir=new")


@pytest.mark.parametrize("name", ["table.csv", "run/config.yaml"])
def test_a_file_that_is_no_checkpoint(refused, name):
    refused(f"{name}: not a checkpoint, or damaged", "predict", f"ckpt={name}", "input=table.csv", "output=new.tsv")


@pytest.mark.parametrize("named", ["ckpt=0", "ckpt=[0,1]"])
def test_names_that_look_like_numbers(refused, named):
    refused("0: no such checkpoint", "evaluate", named, "run_dir=new")


def test_nothing_to_test(refused):
    refused("leaves nothing to test", "evaluate", "ckpt=run", "trainer.limit_test_batches=0", "run_dir=new")


def test_records_without_intervals_have_no_window_length(refused):
    words = "length=7 has no meaning for inputs without intervals; leave length out."
    refused(words, "predict", "ckpt=run", "input=table.csv", "output=new.tsv", "length=7")


def test_a_command_without_data_says_so(refused):
    words = "data.length: this command has no settings of data"
    refused(words, "predict", "ckpt=run", "input=table.csv", "output=new.tsv", "data.length=5")


@pytest.fixture
def copied(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def test_training_without_a_test_ends_as_any_other(copied):
    assert command("train", *TINY, "trainer.limit_test_batches=0", "run_dir=new") == 0
    assert Path("new/metrics.json").exists()
    assert not Path("new/test_predictions.tsv").exists()


def test_a_run_folder_as_checkpoint_goes_on_from_its_last(copied):
    assert command("train", *TINY, "trainer.max_epochs=2", "ckpt=run", "run_dir=new") == 0
    assert '"epochs": 2' in Path("new/metrics.json").read_text()


@pytest.mark.parametrize("step", ["training_step", "test_step"])
def test_the_keyboard_stops_a_run_with_a_word(copied, monkeypatch, capsys, step):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(DnaClassify, step, stop)
    assert command("train", *TINY, "run_dir=new") == 130
    assert capsys.readouterr().err.strip().splitlines()[-1] == "error: interrupted."
