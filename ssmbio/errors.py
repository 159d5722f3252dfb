"""The one exception that means "the user can mend this": entry points print it as a single line and exit with 1."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """A fault in what the user gave: a file, a setting, a checkpoint.

    Args:
        what: what is wrong, naming the value.
        where: the file, with a line or record number if there is one (``genes.csv, line 7``).
        mend: what to do about it, as an instruction.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, mend: str | None = None) -> None:
        parts = [f"{where}: {what}" if where is not None else what]
        if mend:
            parts.append(mend)
        super().__init__("; ".join(part.rstrip(".") for part in parts) + ".")
