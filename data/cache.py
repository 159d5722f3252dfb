"""The cache folder: where what is downloaded, simulated or indexed lies."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(*parts: str) -> Path:
    """``$SSMBIO_CACHE``, or ``~/.cache/ssmbio``, and ``parts`` below it. Nothing is created."""
    root = os.environ.get("SSMBIO_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "ssmbio").joinpath(*parts)
