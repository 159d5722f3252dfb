"""Files and folders of the cache are there whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ssmbio.data.cache import cache_folder, new_file, new_folder
from ssmbio.errors import UserError


def test_folder_from_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSMBIO_CACHE", str(tmp_path))
    assert cache_folder("gue", "tf_0") == tmp_path / "gue" / "tf_0"
    monkeypatch.delenv("SSMBIO_CACHE")
    monkeypatch.setenv("HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/.cache/ssmbio")


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
