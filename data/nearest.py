"""What a message offers in place of a name that is not there."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def instead_of(name: str, known: Iterable[str], limit: int = 10) -> str:
    """An instruction for the end of an error: the nearest known name, and the first `limit` of all in their order."""
    names = list(known)
    shown = ", ".join(shorten(known_name) for known_name in names[:limit])
    there = f"there are {shown}" if len(names) <= limit else f"there are {len(names)}: {shown}, …"
    close = get_close_matches(name, names, n=1, cutoff=0.6) or [n for n in names if n.lower() == name.lower()]
    return f"did you mean '{close[0]}'? {there}" if close else there


def shorten(text: str, width: int = 30) -> str:
    """`text` on one line and cut to `width` letters, so that a cell full of bases does not fill a message."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
