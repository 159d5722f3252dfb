"""Checkpoints of a run are written whole, beside the old one, and the best is known again in a folder that moved."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from ssmbio.errors import UserError
from ssmbio.training.run_checkpoint import RunCheckpoint, WholeFiles


def test_a_checkpoint_is_made_beside_the_one_it_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    path = tmp_path / "run" / "last.ckpt"
    for value in (1, 2):
        WholeFiles().save_checkpoint({"value": value}, path)
        assert torch.load(path, weights_only=True) == {"value": value}
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_checkpoint_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint({"value": 1}, path)
    opened = open

    class Full:
        def __init__(self, path: Path, mode: str) -> None:
            self.file = opened(path, mode)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def write(self, data: memoryview) -> None:
            self.file.write(data[:100])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("ssmbio.files.open", Full, raising=False)
    with pytest.raises(UserError, match=r"last.ckpt: cannot be written \(No space left on device\)"):
        WholeFiles().save_checkpoint({"value": 2}, path)
    assert torch.load(path, weights_only=True) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def best_of(folder: Path) -> RunCheckpoint:
    return RunCheckpoint(dirpath=folder, filename="best", monitor="val/loss", mode="min")


def state_of(folder: Path) -> dict[str, object]:
    """Of a run whose best checkpoint lies in the folder."""
    callback = best_of(folder)
    best = str(folder / "best.ckpt")
    callback.best_model_path = callback.kth_best_model_path = best
    callback.best_model_score, callback.best_k_models = torch.tensor(0.25), {best: torch.tensor(0.25)}
    return callback.state_dict()


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("moved", [True, False])
def test_the_best_score_moves_with_the_folder(moved: bool, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "elsewhere" / "new"
    state = state_of(old)
    new.mkdir(parents=True)
    if moved:
        (new / "best.ckpt").touch()
    callback = best_of(new)
    callback.load_state_dict(state)
    if moved:
        here = str(new / "best.ckpt")
        assert (callback.best_model_path, callback.best_model_score) == (here, 0.25)
        assert callback.best_k_models == {here: 0.25}
    else:  # another run, which this one begins from
        assert callback.best_model_score is None


def test_its_state_is_read_of_checkpoints_that_lightnings_own_wrote(tmp_path: Path) -> None:
    ours, theirs = (made(tmp_path, monitor="val/loss", mode="min") for made in (RunCheckpoint, ModelCheckpoint))
    assert ours.state_key == theirs.state_key
