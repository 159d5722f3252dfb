"""Fetching one file over HTTP into the cache: whole, checked, with progress, and a plain line when it fails.

What stands for a file's contents, in this order: the sha256 that the caller knows; the one that Hugging Face's hub
sends along (header ``X-Linked-Etag``, for every file it keeps in large-file storage); none, and then only the length
is checked. In each case the sha256 is written beside the file at the first download and compared at every later use.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ssmbio.errors import UserError
from ssmbio.files import new_file

ATTEMPTS = 3
_BLOCK = 1 << 20
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def fetch(url: str, path: Path, *, sha256: str | None = None, timeout: float = 30.0, mend: str = "") -> Path:
    """Return `path`, downloading it from `url` unless it is there.

    A broken connection is taken up where it broke, where the host can do that, up to `ATTEMPTS` times in all.

    Args:
        url: http or https.
        path: where the file goes; ``<name>.sha256`` is written beside it.
        sha256: of the contents, in hexadecimal, if it is known.
        timeout: seconds without an answer before an attempt is given up.
        mend: what to do when the host cannot help, for the message.

    Raises:
        UserError: the host cannot be reached or has no such file, the file breaks off, its checksum is another, the
            copy in the cache has changed, or the disk is full. Nothing half-written stays.
    """
    if path.exists():
        _check_cached(path, sha256)
        return path
    with new_file(path) as partial:
        with open(partial, "wb") as file:
            published = _download(url, file, timeout, mend)
        found = sha256_of(partial)
        expected = sha256 or published
        if expected is not None and found != expected.lower():
            raise UserError(f"its sha256 is {found}, not {expected}", where=url, mend=mend or "try again later")
        with new_file(_sidecar(path)) as sidecar:
            sidecar.write_text(f"{found}  {path.name}\n", encoding="ascii")
    return path


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _check_cached(path: Path, sha256: str | None) -> None:
    sidecar = _sidecar(path)
    known = sha256 or (sidecar.read_text(encoding="ascii").split()[0] if sidecar.exists() else None)
    if known is not None and sha256_of(path) != known.lower():
        raise UserError("the file is not what was downloaded", where=path, mend="delete it, and it is fetched again")


def _download(url: str, file: IO[bytes], timeout: float, mend: str) -> str | None:
    """Write the body of `url` to `file`; returns the sha256 that the host publishes, if it does."""
    published = None
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with _open(url, file.tell(), timeout) as (response, linked):
                published = linked or published
                _copy(response, file, url)
            return published
        except urllib.error.HTTPError as error:
            raise UserError(f"the host answers {error.code} ({error.reason})", where=url, mend=mend) from None
        except (urllib.error.URLError, OSError, http.client.HTTPException, _Truncated) as error:
            if getattr(error, "errno", None) in _DISK_FAULTS:
                raise
            if attempt == ATTEMPTS or file.tell() == 0:
                raise _unreachable(url, error, mend) from None
    raise AssertionError("unreachable")


class _Truncated(Exception):
    """The body ended before its length."""


def _unreachable(url: str, error: Exception, mend: str) -> UserError:
    if isinstance(error, _Truncated):
        return UserError(f"the download broke off at {error}", where=url, mend=mend)
    reason = getattr(error, "reason", None) or error
    return UserError(f"the host cannot be reached ({reason})", where=url, mend=mend)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps the checksum that the hub sends with the first of them."""

    def __init__(self) -> None:
        self.linked: str | None = None

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> Any:
        self.linked = self.linked or _linked_sha256(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _open(url: str, offset: int, timeout: float) -> Iterator[tuple[http.client.HTTPResponse, str | None]]:
    if not url.startswith(("http://", "https://")):
        raise UserError(f"'{url}' is no address of http or https", mend="set data.url to https://<host>")
    headers = {"User-Agent": "ssmbio", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    redirects = _Redirects()
    opener = urllib.request.build_opener(redirects)
    with opener.open(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
        yield response, redirects.linked or _linked_sha256(response.headers)


def _linked_sha256(headers: Any) -> str | None:
    """Git's own objects have an etag of 40 digits (sha1); those in large-file storage have their sha256."""
    etag = (headers.get("X-Linked-Etag") or "").removeprefix("W/").strip('"')
    return etag if re.fullmatch(r"[0-9a-fA-F]{64}", etag) else None


def _copy(response: http.client.HTTPResponse, file: IO[bytes], url: str) -> None:
    """Append the body to `file`; from its start where the host does not go on from the offset."""
    if response.status != http.client.PARTIAL_CONTENT:
        file.seek(0)
        file.truncate()
    start = file.tell()
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(url.rsplit("/", 1)[-1], total=total, completed=start)
        while block := response.read(_BLOCK):
            file.write(block)
            progress.update(task, completed=file.tell())
    if total is not None and file.tell() < total:
        raise _Truncated(f"{file.tell():,} of {total:,} bytes")
