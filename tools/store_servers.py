"""Fetch Valkey's and Redis' servers for tests of the store that replicas share.

They come from Debian bookworm's packages, whose signatures apt checks; they are unpacked into
`${XDG_CACHE_HOME:-~/.cache}/sarai`, nothing is installed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tools import debian

# Libraries that few machines have.
_LIBRARIES = ("libatomic1", "libjemalloc2", "liblzf1")
# NAME-server is a link to what is in NAME-tools.
_PACKAGES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "valkey": {"bookworm-backports": ("valkey-server", "valkey-tools"), "bookworm": _LIBRARIES},
    "redis": {"bookworm": ("redis-server", "redis-tools", *_LIBRARIES)},
}
NAMES = tuple(_PACKAGES)


def command(name: str) -> tuple[list[str], dict[str, str]]:
    """Return how to start a server, and what its environment needs in addition; it is fetched if necessary.

    Args:
        name: one of `NAMES`; what this machine has installed of it is taken instead.

    Raises:
        debian.UnavailableError: There is none, and this is not Debian, or its archive is not reachable.
    """
    if installed := shutil.which(f"{name}-server"):
        return [installed], {}
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sarai" / f"{name}-server"
    server = base / "usr" / "bin" / f"{name}-server"
    if not server.exists():
        _fetch(name, base)
    libraries = [str(path) for path in sorted((base / "usr" / "lib").glob("*-linux-gnu*"))]
    return [str(server)], {"LD_LIBRARY_PATH": ":".join(libraries)}


def _fetch(name: str, base: Path) -> None:
    base.parent.mkdir(parents=True, exist_ok=True)
    # Next to the target, so that the last step is a rename and a partial server is never used.
    with tempfile.TemporaryDirectory(dir=base.parent) as temporary:
        work = Path(temporary)
        for suite, packages in _PACKAGES[name].items():
            debian.unpack(packages, suite=suite, work=work)
        shutil.rmtree(base, ignore_errors=True)
        (work / "root").rename(base)
