"""Downloads against a server on loopback: what arrives, what is checked, and what is left when it fails."""

from __future__ import annotations

import hashlib
import http.server
import socket
import threading
from pathlib import Path

import pytest

from ssmbio.data.download import fetch
from ssmbio.errors import UserError

BODY = bytes(range(256)) * 5000
SHA = hashlib.sha256(BODY).hexdigest()


class Host(http.server.BaseHTTPRequestHandler):
    """Paths name what goes wrong; `requests` keeps (path, Range header)."""

    requests: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.requests.append((self.path, self.headers.get("Range")))
        kind = self.path.strip("/").split("/")[0]
        if kind == "absent":
            self.send_error(404)
        elif kind == "moved":
            self.send_response(302)
            self.send_header("Location", "/good/file.bin")
            self.send_header("X-Linked-Etag", f'"{SHA if self.path.endswith("right.bin") else "0" * 64}"')
            self.end_headers()
        elif kind == "cut" or (kind == "resumes" and "Range" not in self.headers):
            self._send(BODY[: len(BODY) // 2], len(BODY))
        elif kind == "resumes":
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            self._send(BODY[start:], len(BODY) - start, status=206)
        elif kind == "silent":
            self.server.stop.wait(5)  # type: ignore[attr-defined]
        else:
            self._send(BODY, len(BODY))

    def _send(self, body: bytes, length: int, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    handler = type("Recording", (Host,), {"requests": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.stop = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.requests
    server.stop.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


def test_success_is_recorded_and_fetched_once(host, tmp_path: Path) -> None:
    url, requests = host
    path = fetch(f"{url}/good/file.bin", tmp_path / "deep" / "file.bin", sha256=SHA.upper())
    assert path.read_bytes() == BODY
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["file.bin", "file.bin.sha256"]
    assert (path.parent / "file.bin.sha256").read_text() == f"{SHA}  file.bin\n"
    assert fetch(f"{url}/good/file.bin", path) == path
    assert len(requests) == 1


def test_changed_copy_is_noticed(host, tmp_path: Path) -> None:
    url, _ = host
    path = fetch(f"{url}/good/file.bin", tmp_path / "file.bin")
    path.write_bytes(BODY[:-1])
    with pytest.raises(UserError, match=r"file\.bin: the file is not what was downloaded; delete it"):
        fetch(f"{url}/good/file.bin", path)


def refused(url: str, folder: Path, message: str, **settings) -> None:
    """The download raises one line that holds the address and the mend, and leaves nothing in the folder."""
    with pytest.raises(UserError, match=message) as caught:
        fetch(url, folder / "file.bin", mend="set data.root", **settings)
    assert str(caught.value).startswith(f"{url}: ")
    assert str(caught.value).endswith("set data.root.")
    assert "\n" not in str(caught.value)
    assert not list(folder.iterdir())


def test_wrong_checksum(host, tmp_path: Path) -> None:
    refused(f"{host[0]}/good/file.bin", tmp_path, f"its sha256 is {SHA}, not {'1' * 64}", sha256="1" * 64)


def test_checksum_that_the_hub_publishes(host, tmp_path: Path) -> None:
    url, _ = host
    refused(f"{url}/moved/wrong.bin", tmp_path, f"its sha256 is {SHA}, not {'0' * 64}")
    assert fetch(f"{url}/moved/right.bin", tmp_path / "file.bin").read_bytes() == BODY


def test_truncated_body(host, tmp_path: Path) -> None:
    refused(f"{host[0]}/cut/file.bin", tmp_path, r"the download broke off at 640,000 of 1,280,000 bytes")


def test_broken_download_goes_on_where_it_broke(host, tmp_path: Path) -> None:
    url, requests = host
    assert fetch(f"{url}/resumes/file.bin", tmp_path / "file.bin").read_bytes() == BODY
    assert [asked for _, asked in requests] == [None, f"bytes={len(BODY) // 2}-"]


def test_absent(host, tmp_path: Path) -> None:
    refused(f"{host[0]}/absent/file.bin", tmp_path, r"the host answers 404 \(Not Found\)")


def test_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    refused(f"http://127.0.0.1:{port}/file.bin", tmp_path, r"the host cannot be reached \(.*refused")


def test_silence(host, tmp_path: Path) -> None:
    refused(f"{host[0]}/silent/file.bin", tmp_path, r"the host cannot be reached \(timed out\)", timeout=0.2)


def test_other_protocols_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    with pytest.raises(UserError, match="no address of http or https"):
        fetch(f"file://{tmp_path}/secret", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
