"""Folders of runs: one for each, whoever starts at the same time, and one for all processes of a run."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf

from ssmbio import run_folder
from ssmbio.run_folder import claim_run_dir, remove_unused


@pytest.fixture
def claim(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`claim_run_dir` under a command line, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("SSMBIO_RUN_DIR", "")
    monkeypatch.delenv("SSMBIO_RUN_DIR")

    def claim(run_dir: str = "runs/now", *said: str, job: int | None = None) -> Path:
        mode = RunMode.RUN if job is None else RunMode.MULTIRUN
        hydra = SimpleNamespace(mode=mode, job=SimpleNamespace(num=job), overrides=SimpleNamespace(task=list(said)))
        monkeypatch.setattr(run_folder.HydraConfig, "get", lambda: hydra)
        return claim_run_dir(OmegaConf.create({"run_dir": run_dir, "ckpt": None}))

    return claim


def test_runs_that_start_within_one_second_have_folders_of_their_own(claim) -> None:
    found: list[Path] = []
    start = threading.Barrier(8)

    def one() -> None:
        start.wait()
        found.append(run_folder._new_folder(Path("runs/now")))

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, found)) == ["runs/now", *(f"runs/now_{k}" for k in range(2, 9))]
    assert claim() == Path("runs/now_9")


def test_a_folder_that_is_named_is_taken_as_it_is(claim) -> None:
    Path("mine").mkdir()
    assert claim("mine", "run_dir=mine") == Path("mine")
    assert not Path("runs").exists()


def test_what_was_not_used_is_removed_and_what_holds_something_stays(claim) -> None:
    claim()
    remove_unused()
    assert not Path("runs").exists()
    (claim() / "file").touch()
    remove_unused()
    assert Path("runs/now/file").exists()
    Path("mine").mkdir()
    claim("mine", "run_dir=mine")
    remove_unused()
    assert Path("mine").exists()


def test_processes_for_other_devices_share_the_folder_of_the_first(claim, monkeypatch) -> None:
    assert claim() == Path("runs/now")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert claim("runs/later") == Path("runs/now")


def test_each_job_of_a_sweep_has_its_own_on_every_device(claim, monkeypatch) -> None:
    assert claim("sweep", job=0) == Path("sweep/0")
    monkeypatch.setenv("LOCAL_RANK", "0")  # as Lightning leaves it in the first process
    assert claim("sweep", job=1) == Path("sweep/1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [claim("other", job=job) for job in (0, 1)] == [Path("sweep/0"), Path("sweep/1")]
