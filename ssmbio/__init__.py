"""State-space models for genomic and raw-audio sequences of a million steps.

Installed, `ssmbio.kernels`, `ssmbio.data`, `ssmbio.pipelines` and `ssmbio.conf` lie inside this package. In a checkout
they are folders at its root, so that the tree shows the architecture; the lines below let Python find them there.
"""

from pathlib import Path

__version__ = "0.1.0"

_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "kernels").is_dir():
    __path__.append(str(_root))
