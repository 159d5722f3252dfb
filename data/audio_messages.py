"""Keeping what libmpg123 prints off standard error, where one line of ours says what is wrong with a file."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryFile

# Its own lines, all of them about the file that is being read: "[src/libmpg123/layer3.c:…] error: …" and the like.
_LINES = re.compile(rb"^(?:\[[^\n\]]*libmpg123[^\n]*|(?:Note|Warning): [^\n]*)(?:\n|\Z)", re.MULTILINE)
_turn = threading.Lock()


@contextmanager
def mpg123_silenced() -> Iterator[None]:
    """Hold the file descriptor 2 while libmpg123 works, and then pass on what was not its own.

    It writes there from C, and libsndfile has no switch for it. The descriptor belongs to the whole process, so readers
    in threads take turns, and what other threads print meanwhile comes a little late. Workers of a data loader are
    processes of their own.
    """
    with _turn, ExitStack() as stack:
        try:
            kept = stack.enter_context(TemporaryFile(buffering=0))
            own = os.dup(2)
        except OSError:  # no standard error, or no place for the file
            own = -1
        if own < 0:
            yield
            return
        try:
            os.dup2(kept.fileno(), 2)
            yield
        finally:
            os.dup2(own, 2)
            os.close(own)
            if kept.tell():
                kept.seek(0)
                _write(_LINES.sub(b"", kept.read()))


def _write(rest: bytes) -> None:
    while rest:
        rest = rest[os.write(2, rest) :]
