"""Reading CIFAR-10's python version: pickles, from which nothing but arrays, lists and strings is built."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssmbio.data.nearest import shorten
from ssmbio.data.text_files import file_faults
from ssmbio.errors import UserError

FOLDER, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
_MEND = f"give {FOLDER} as it comes out of {ARCHIVE}, or that archive"
# What a pickled numpy array asks for, under its old and its new module names.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}

Split = tuple[npt.NDArray[np.uint8], list[str], list[str], Path]
"""Images (n, 32, 32, 3), the name of each one's class, the name of each, and where they lie."""


def read_cifar10(root: Path) -> dict[str, Split]:
    """Train and test, from the folder, the archive, or a folder that holds one of them.

    Raises:
        UserError: neither is there, a batch is missing or damaged, or it asks for more than arrays.
    """
    place, read = _opened(root)
    classes = [_text(name) for name in _field(_unpickled(read("batches.meta"), place, "batches.meta"), "label_names")]
    splits: dict[str, Split] = {}
    for split, batches in _BATCHES.items():
        images, labels, names = [], [], []
        for batch in batches:
            content = _unpickled(read(batch), place, batch)
            data, codes = np.asarray(_field(content, "data")), list(_field(content, "labels"))
            if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072 or len(codes) != len(data):
                raise UserError(
                    f"{batch} holds {data.dtype} of the shape {data.shape} and {len(codes)} labels",
                    where=place,
                    mend=_MEND,
                )
            if not all(type(code) is int and 0 <= code < len(classes) for code in codes):
                raise UserError(f"{batch} has labels outside of batches.meta", where=place, mend=_MEND)
            # Stored channel by channel.
            images.append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels += [classes[code] for code in codes]
            names += [f"{batch}[{i}]" for i in range(len(codes))]
        splits[split] = (np.ascontiguousarray(np.concatenate(images)), labels, names, place)
    return splits


def _opened(root: Path) -> tuple[Path, Callable[[str], bytes]]:
    """Where the batches lie, and what reads one by its name."""
    candidates = [root, root / FOLDER, root / ARCHIVE] if root.is_dir() else [root]
    for place in candidates:
        if (place / "batches.meta").is_file():
            return place, partial(_file, place)
        if place.is_file():
            return place, _archive(place)
    what = f"neither {FOLDER} nor {ARCHIVE} is in it" if root.is_dir() else "there is no such file or folder"
    raise UserError(what, where=root, mend="set data.root to CIFAR-10's python version; it is not downloaded")


def _file(folder: Path, name: str) -> bytes:
    with file_faults(folder / name):
        return (folder / name).read_bytes()


def _archive(path: Path) -> Callable[[str], bytes]:
    with _archive_faults(path), tarfile.open(path) as archive:
        files = {}
        for member in archive:  # one pass: a gzip archive cannot be read at random
            name = Path(member.name).name
            if member.isfile() and name in {"batches.meta", *_BATCHES["train"], *_BATCHES["test"]}:
                stream = archive.extractfile(member)
                files[name] = stream.read() if stream is not None else b""

    def read(name: str) -> bytes:
        if name not in files:
            raise UserError(f"there is no {name} in it", where=path, mend=_MEND)
        return files[name]

    return read


@contextmanager
def _archive_faults(path: Path) -> Iterator[None]:
    try:
        with file_faults(path):
            yield
    except tarfile.TarError:
        raise UserError("not a tar archive, or damaged", where=path, mend=_MEND) from None


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _unpickled(content: bytes, place: Path, name: str) -> dict[Any, Any]:
    try:
        found = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(
            f"{name} is not a batch of CIFAR-10 ({shorten(str(error), 80)})", where=place, mend=_MEND
        ) from None
    if not isinstance(found, dict):
        raise UserError(f"{name} is not a batch of CIFAR-10", where=place, mend=_MEND)
    return {"where": f"{place}, {name}", **{_text(key): value for key, value in found.items()}}


def _field(content: dict[Any, Any], name: str) -> Any:
    if name not in content:
        raise UserError(f"there is no '{name}'", where=content["where"], mend=_MEND)
    return content[name]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
