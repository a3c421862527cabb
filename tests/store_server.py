"""A real store for kept answers: Redis or Valkey, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import pytest
import valkey

from tests.servers import free_port
from tools import containers, debian, store_servers


class StoreServer:
    """A store on a TCP port and on a Unix socket, which keeps nothing on disk; a context manager.

    Args:
        folder: for its socket and its log.
        options: of the server, in addition.
        kind: one of `store_servers.NAMES`.
    """

    def __init__(self, folder: Path, *options: str, kind: str = "valkey") -> None:
        try:
            self._command, self._environment = store_servers.command(kind)
        except debian.UnavailableError as error:
            if containers.are_required():
                raise
            pytest.skip(f"no store can be tested: {error}")
        self._folder, self._options = folder, options
        self.port = free_port()
        self.url = f"valkey://127.0.0.1:{self.port}"
        self.socket_url = f"unix://{folder}/store.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, with nothing in it."""
        with (self._folder / "store.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._command, "--port", str(self.port), "--unixsocket", f"{self._folder}/store.sock",
                 "--save", "", "--appendonly", "no", "--dir", str(self._folder), *self._options],
                env=os.environ | self._environment, stdout=log, stderr=log,
            )  # fmt: skip
        end_s = time.monotonic() + 20
        while "eady to accept connections" not in (self._folder / "store.log").read_text():
            assert self._process.poll() is None, "the store has ended"
            assert time.monotonic() < end_s, "the store does not start"
            time.sleep(0.01)

    def kill(self) -> None:
        """End it without a farewell."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def client(self) -> Any:  # its replies are typed as what the asynchronous client gives too
        """Return a plain client, for a look behind the tier's back."""
        return valkey.Valkey.from_url(self.url)

    def pause(self) -> None:
        """Stop it: its connections stay open, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
