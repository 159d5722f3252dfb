"""The cache folder: what is downloaded or simulated lies there, whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssmbio.errors import UserError


def cache_folder(*parts: str) -> Path:
    """``$SSMBIO_CACHE``, or ``~/.cache/ssmbio``, and ``parts`` below it. Nothing is created."""
    root = os.environ.get("SSMBIO_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "ssmbio").joinpath(*parts)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, which takes its place once the block has ended well.

    The name is of this process alone, so several processes may make the same file at once: the last one stays.

    Raises:
        UserError: the disk is full or the folder cannot be written; nothing is left behind.
    """
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
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise
        raise UserError(
            f"cannot be written ({error.strerror})",
            where=path,
            mend="free some space, or set SSMBIO_CACHE to a folder on another disk",
        ) from error
