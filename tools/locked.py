"""Read our lock files: pip's requirements format, every entry pinned and with its hashes."""

from __future__ import annotations

import re
from pathlib import Path

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")


def canonical(name: str) -> str:
    """Return a package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(lock: Path) -> list[tuple[str, str]]:
    """Return all entries as (canonical name, text with version, marker and hashes), in the file's order.

    A package can have several, for different versions of Python.
    """
    joined = lock.read_text(encoding="utf-8").replace("\\\n", " ")
    return [
        (canonical(name[0]), " ".join(line.split()) + "\n")
        for line in joined.splitlines()
        if (name := _NAME.match(line)) is not None
    ]


def requirement(lock: Path, package: str) -> str:
    """Return the entry of one package, as a separate requirements file.

    Raises:
        KeyError: The package is not in the lock.
    """
    found = "".join(text for name, text in entries(lock) if name == canonical(package))
    if not found:
        raise KeyError(f"{package} is not in {lock}")
    return found


def without(lock: Path, package: str) -> str:
    """Return all entries except those of one package, as a requirements file."""
    return "".join(text for name, text in entries(lock) if name != canonical(package))
