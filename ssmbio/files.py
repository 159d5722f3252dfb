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

_FAULTS_OF_A_DISK = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
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
        UserError: the disk is full or the folder cannot be written; nothing is left behind.
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


@contextmanager
def _disk_faults(path: Path) -> Iterator[None]:
    """Turn what a disk can do wrong into one line; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FAULTS_OF_A_DISK:
            raise
        raise UserError(
            f"cannot be written ({error.strerror})",
            where=path,
            mend="free some space, or choose a folder on another disk (SSMBIO_CACHE names that of downloads)",
        ) from error
