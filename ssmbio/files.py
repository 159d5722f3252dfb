"""Writing files and folders whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ssmbio.errors import UserError

_MORE_SPACE = "free some space, or choose a folder on another disk (SSMBIO_CACHE names that of downloads)"
_OTHER_FOLDER = "choose a folder you can write to (SSMBIO_CACHE names that of downloads)"
_OTHER_NAME = "a folder of that name is in the way: choose another name, or remove it"
_NOT_A_FOLDER = "a file stands where a folder is needed: choose another path, or remove it"

# What a disk can do wrong, and what to do about it.
_MEND = {
    errno.ENOSPC: _MORE_SPACE,
    errno.EDQUOT: _MORE_SPACE,
    errno.EFBIG: _MORE_SPACE,
    errno.EACCES: _OTHER_FOLDER,
    errno.EPERM: _OTHER_FOLDER,
    errno.EROFS: _OTHER_FOLDER,
    errno.EISDIR: _OTHER_NAME,
    errno.ENOTEMPTY: _OTHER_NAME,
    errno.EEXIST: _NOT_A_FOLDER,
    errno.ENOTDIR: _NOT_A_FOLDER,
    errno.ENAMETOOLONG: "choose a shorter name",
}


@contextmanager
def whole_file(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a file for writing that appears under its name only once the block has ended well; faults as `new_file`."""
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    with new_file(path) as partial, open(partial, mode, **text) as file:  # type: ignore[call-overload]
        yield file


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``, which takes its place once the block has ended well.

    The name is of this process alone, so several processes may make the same file at once: the last one stays.

    Raises:
        UserError: the disk is full, the folder cannot be written, or a folder has that name; nothing is left behind.
    """
    path = Path(path)
    with _disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
    partial = Path(name)
    try:
        with _disk_faults(path):
            yield partial
            partial.chmod(0o644)  # mkstemp lets only the owner read
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``, which takes its place once the block has ended well.

    A folder that another process has put there in the meantime stays, and this one is thrown away.

    Raises:
        UserError: as `new_file`.
    """
    with _disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        with _disk_faults(path):
            yield partial
            partial.chmod(0o755)
            try:
                os.rename(partial, path)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or not path.is_dir():
                    raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def make_folder(path: Path) -> bool:
    """Makes a folder; False where there is something of that name. Raises UserError as `new_file`."""
    with _disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir()
        except FileExistsError:
            return False
    return True


@contextmanager
def _disk_faults(path: Path) -> Iterator[None]:
    """Turn what a disk can do wrong into one line; other errors pass."""
    try:
        yield
    except OSError as error:
        mend = _MEND.get(error.errno or 0)
        if mend is None:
            raise
        raise UserError(f"cannot be written ({error.strerror})", where=path, mend=mend) from error
