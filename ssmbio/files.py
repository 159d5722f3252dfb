"""Writing files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ssmbio.errors import UserError


@contextmanager
def whole_file(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a file for writing that appears under its name only once the block has ended well.

    Raises:
        UserError: the disk is full, or the folder cannot be written; nothing is left behind.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, mode, **({} if "b" in mode else {"encoding": "utf-8", "newline": "\n"})) as file:
            yield file
        os.replace(partial, path)
    except OSError as error:
        if error.filename not in (None, str(partial), str(path), str(path.parent)):
            raise  # another file's fault, raised inside the block
        raise UserError(
            f"cannot be written ({error.strerror})", where=path, mend="free some space or choose another path"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
