"""Fetch the docker command's plugins that most users have, BuildKit's builder and Compose v2, for tests of both.

They come from Debian trixie's packages, whose signatures apt checks; they are unpacked into
`${XDG_CACHE_HOME:-~/.cache}/sarai`, nothing is installed.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from tools import debian

PLUGINS = ("buildx", "compose")
_PACKAGES = ("docker-buildx", "docker-compose")
_SUITE = "trixie"


def config_dir() -> Path:
    """Return a folder for DOCKER_CONFIG with both plugins, fetched if necessary.

    Raises:
        debian.UnavailableError: This is not Debian, or its archive is not reachable.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sarai" / "docker-plugins"
    plugins = base / "cli-plugins"
    if not all((plugins / f"docker-{name}").exists() for name in PLUGINS):
        _fetch(base)
    return base


def has(name: str) -> bool:
    """Return whether the docker command of this machine has a plugin."""
    asked = subprocess.run(["docker", name, "version"], capture_output=True, timeout=60, check=False)
    return asked.returncode == 0


def _fetch(base: Path) -> None:
    base.mkdir(parents=True, exist_ok=True)
    # Next to the target, so that the last step is a rename and a partial plugin is never used.
    with tempfile.TemporaryDirectory(dir=base) as temporary:
        work = Path(temporary)
        debian.unpack(_PACKAGES, suite=_SUITE, work=work)
        (base / "cli-plugins").mkdir(exist_ok=True)
        for name in PLUGINS:
            (found,) = (work / "root").glob(f"usr/libexec/docker/cli-plugins/docker-{name}")
            found.rename(base / "cli-plugins" / found.name)
