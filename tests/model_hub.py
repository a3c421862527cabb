"""A local hub of model files, which can disturb downloads as networks and servers do."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "publisher/Tiny-GGUF"
SOURCE = "tiny.gguf"

CATALOG = """
[models.tiny]
summary = "a test's own"
file = "Tiny-Q8_0.publisher.gguf"
repository = "{repository}"
commit = "{commit}"
source = "{source}"
size_bytes = {size}
sha256 = "{sha256}"
license = "MIT"
context = 5000
cell_bytes = 100
"""
IMAGES = """
[models.tiny.images]
file = "mmproj-Tiny-Q8_0.publisher.gguf"
repository = "{repository}"
commit = "{commit}"
source = "{source}"
"""
PLUGIN = """
from core.hookspecs import hookimpl
from tests.stub_plugin import stub_spec

@hookimpl
def sarai_skills():
    return [stub_spec("tiny", catalog="tiny_catalog/catalog.toml")]
"""


def model_bytes(megabytes: int) -> bytes:
    """Return the content of a file that begins like a model."""
    return b"GGUF" + os.urandom((megabytes << 20) - 4)


@dataclass
class Hub:
    """The hub's content and behaviour."""

    content: bytes
    target: str = ""
    status: int = 200
    """The HTTP status of its answers."""
    redirect: bool = True
    """Whether it redirects to another server for files, as the real hub does."""
    ranges: bool = True
    """Whether it can send the rest of a file."""
    tells_size: bool = True
    tells_hash: bool = True
    cuts: list[int] = field(default_factory=list)
    """The next connections break after this many bytes."""
    resets: bool = False
    """Whether a broken connection is reset instead of closed."""
    pause_s: float = 0.0
    """Time between the last byte of a connection and those before it."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and range of each request."""

    @property
    def sha256(self) -> str:
        """Return the hash of the whole content."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def downloads(self) -> list[str]:
        """Return the ranges of all requests that fetched content."""
        return [asked for method, path, asked in self.asked if method == "GET" and path.startswith("/cdn/")]

    def install(
        self, folder: Path, *, size: int | None = None, sha256: str | None = None, images: bool = False
    ) -> None:
        """Install a package with a plugin whose catalogue has this file, and perhaps another one that reads images."""
        (folder / "tiny_plugin.py").write_text(PLUGIN)
        package, info = folder / "tiny_catalog", folder / "tiny_plugin-1.dist-info"
        for made in (package, info):
            made.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
        (package / "catalog.toml").write_text(
            CATALOG.format(
                repository=REPOSITORY, commit=COMMIT, source=SOURCE,
                size=len(self.content) if size is None else size, sha256=self.sha256 if sha256 is None else sha256,
            )
            + (IMAGES.format(repository=REPOSITORY, commit=COMMIT, source=SOURCE) if images else "")
        )  # fmt: skip
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny_plugin\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[sarai.skills]\ntiny_plugin = tiny_plugin\n")


@contextlib.contextmanager
def running_hub(content: bytes) -> Iterator[Hub]:
    """Run a hub with one file."""
    hub = Hub(content)

    class Handler(_Handler):
        def setup(self) -> None:
            super().setup()
            self.hub = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.target = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.hub
        hub.asked.append((self.command, self.path, self.headers.get("Range", "")))
        known = (f"/{REPOSITORY}/resolve/{COMMIT}/{SOURCE}", "/cdn/blob")
        if hub.status != 200 or self.path not in known:
            self.send_response(hub.status if hub.status != 200 else 404)
            self.send_header("X-Error-Code", "EntryNotFound" if hub.status in (200, 404) else "")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == known[0] and hub.redirect:
            self.send_response(302)
            # The machine's other name counts as another server.
            self.send_header("Location", hub.target.replace("127.0.0.1", "localhost") + known[1])
            self._headers_of_the_hub()
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send_file()

    def _headers_of_the_hub(self) -> None:
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", '"0123"')
        if self.hub.tells_hash:
            self.send_header("X-Linked-Etag", f'"{self.hub.sha256}"')
        if self.hub.tells_size:
            self.send_header("X-Linked-Size", str(len(self.hub.content)))

    def _send_file(self) -> None:
        hub, start = self.hub, 0
        if hub.ranges and (asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            start = int(asked[1])
        rest = memoryview(hub.content)[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(hub.content) - 1}/{len(hub.content)}")
        if hub.tells_size:
            self.send_header("Content-Length", str(len(rest)))
        if not hub.redirect:
            self._headers_of_the_hub()
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = hub.cuts.pop(0) if hub.cuts else None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(rest[:cut][:-1])
            self.wfile.flush()
            time.sleep(hub.pause_s)
            self.wfile.write(rest[:cut][-1:])
        if cut is not None and hub.resets:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
