"""Fetch a Redis server for tests of the store that replicas share.

It comes from Debian bookworm's packages, whose signatures apt checks; they are unpacked into
`${XDG_CACHE_HOME:-~/.cache}/sarai`, nothing is installed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from tools import debian

# redis-server is a link to what is in redis-tools; the rest are libraries that few machines have.
_PACKAGES = ("redis-server", "redis-tools", "libatomic1", "libjemalloc2", "liblzf1")
_SUITE = "bookworm"


def command() -> tuple[list[str], dict[str, str]]:
    """Return how to start a server, and what its environment needs in addition; it is fetched if necessary.

    A server that this machine has installed is taken instead.

    Raises:
        debian.UnavailableError: There is none, and this is not Debian, or its archive is not reachable.
    """
    for name in ("valkey-server", "redis-server"):
        if installed := shutil.which(name):
            return [installed], {}
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sarai" / "redis-server"
    server = base / "usr" / "bin" / "redis-server"
    if not server.exists():
        _fetch(base)
    libraries = [str(path) for path in sorted((base / "usr" / "lib").glob("*-linux-gnu*"))]
    return [str(server)], {"LD_LIBRARY_PATH": ":".join(libraries)}


def _fetch(base: Path) -> None:
    base.parent.mkdir(parents=True, exist_ok=True)
    # Next to the target, so that the last step is a rename and a partial server is never used.
    with tempfile.TemporaryDirectory(dir=base.parent) as temporary:
        work = Path(temporary)
        debian.unpack(_PACKAGES, suite=_SUITE, work=work)
        shutil.rmtree(base, ignore_errors=True)
        (work / "root").rename(base)
