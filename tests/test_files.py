"""Files and folders are there whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ssmbio.errors import UserError
from ssmbio.files import new_file, new_folder


def test_new_file_replaces_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with new_file(path) as partial:
        partial.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    assert path.stat().st_mode & 0o777 == 0o644


def test_failed_file_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write() -> None:
        with new_file(path) as partial:
            partial.write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write()
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("new", [new_file, new_folder])
def test_full_disk_is_one_line(tmp_path: Path, new) -> None:
    def write() -> None:
        with new(tmp_path / "result"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"result: cannot be written \(No space left on device\); free some space"):
        write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("new", [new_file, new_folder])
def test_a_file_in_the_way_of_the_folder(tmp_path: Path, new) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises((UserError, FileExistsError), match="cache"), new(tmp_path / "cache" / "result"):
        pass


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), new_file(tmp_path / "result"):
        (tmp_path / "absent").read_text()
    assert not list(tmp_path.iterdir())


def test_folder_of_another_process_stays(tmp_path: Path) -> None:
    path = tmp_path / "set"
    with new_folder(path) as partial:
        (partial / "mine").write_text("mine")
        path.mkdir()
        (path / "theirs").write_text("theirs")
    assert [entry.name for entry in path.iterdir()] == ["theirs"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]
