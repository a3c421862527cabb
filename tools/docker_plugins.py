"""Fetches the docker command's plugins that most users have, BuildKit's builder and Compose v2, for tests of both.

Run as `python3 -m tools.docker_plugins`; it prints a folder to be used as DOCKER_CONFIG. The plugins come from Debian
trixie's packages, whose signatures apt checks; they are unpacked into `${XDG_CACHE_HOME:-~/.cache}/sarai`, nothing is
installed. Where the docker command has both plugins already, or this is no Debian, nothing is done.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PLUGINS = ("buildx", "compose")
_PACKAGES = ("docker-buildx", "docker-compose")
_SUITE = "trixie"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_MIRROR = "http://deb.debian.org/debian"
_TIMEOUT_S = 300.0


class UnavailableError(Exception):
    """The plugins cannot be had here; the text says why."""


def config_dir() -> Path:
    """A folder for DOCKER_CONFIG with both plugins; fetches them where they have not been fetched yet.

    Raises:
        UnavailableError: This is no Debian, or its mirror is not reached.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sarai" / "docker-plugins"
    plugins = base / "cli-plugins"
    if not all((plugins / f"docker-{name}").exists() for name in PLUGINS):
        _fetch(base)
    return base


def has(name: str) -> bool:
    """Whether the docker command of this machine has a plugin."""
    asked = subprocess.run(["docker", name, "version"], capture_output=True, timeout=60, check=False)
    return asked.returncode == 0


def _fetch(base: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None or not Path(_KEYRING).exists():
        raise UnavailableError("this machine has no apt, which the plugins would come from")
    base.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is a rename: half a plugin is never taken for one.
    with tempfile.TemporaryDirectory(dir=base) as temporary:
        work = Path(temporary)
        if os.geteuid() == 0:  # apt downloads as a user of its own, who has to get in
            work.chmod(0o755)
        _download(work)
        for package in work.glob("*.deb"):
            _run(["dpkg", "-x", str(package), str(work / "root")])
        (base / "cli-plugins").mkdir(exist_ok=True)
        for name in PLUGINS:
            (found,) = (work / "root").glob(f"usr/libexec/docker/cli-plugins/docker-{name}")
            found.rename(base / "cli-plugins" / found.name)


def _download(work: Path) -> None:
    """Asks apt for the packages of another suite, with lists and caches of its own."""
    (work / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {_MIRROR} {_SUITE} main\n", encoding="utf-8")
    for name in ("lists/partial", "archives/partial", "empty"):
        (work / name).mkdir(parents=True)
    options = [
        f"Dir::Etc::SourceList={work / 'sources.list'}", f"Dir::Etc::SourceParts={work / 'empty'}",
        f"Dir::State::Lists={work / 'lists'}", f"Dir::Cache={work}", "Acquire::Languages=none",
        "APT::Sandbox::User=root",
    ]  # fmt: skip
    apt = ["apt-get", "-qq", *(part for option in options for part in ("-o", option))]
    _run([*apt, "update"])
    _run([*apt, "download", *_PACKAGES], cwd=work)


def _run(command: list[str], cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{' '.join(command[:1])} did not answer in {_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        raise UnavailableError(f"{command[0]}: {done.stderr.strip().splitlines()[-1:] or done.returncode}")


def main() -> int:
    """Prints the folder."""
    if shutil.which("docker") is not None and all(has(name) for name in PLUGINS):
        print(os.environ.get("DOCKER_CONFIG") or Path("~/.docker").expanduser())
        return 0
    try:
        print(config_dir())
    except UnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
