"""Where the cache is."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssmbio.data.cache import cache_folder


def test_folder_from_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSMBIO_CACHE", str(tmp_path))
    assert cache_folder("gue", "tf_0") == tmp_path / "gue" / "tf_0"
    monkeypatch.delenv("SSMBIO_CACHE")
    monkeypatch.setenv("HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/.cache/ssmbio")
