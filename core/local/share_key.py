"""What two processes must have in common so that one server of a skill serves both."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from core.local.rundir import NAME_BYTES

if TYPE_CHECKING:
    from core.skill import SkillSpec

_SETTINGS = "SKILL_"


def share_key(spec: SkillSpec, environment: Mapping[str, str]) -> str:
    """A name that is the same where the same server would be started: SHA-256 of all that decides what it serves.

    Args:
        spec: the skill.
        environment: what the server would get. Of its variables only the skills' settings and PYTHONPATH count.

    Returns:
        The first 120 bits, in letters that a file's name may have: the path of a socket has no room for more.
    """
    decides = {
        "user": os.getuid(),
        # Process ids and paths mean other things in another container, though /tmp may be the same.
        "namespaces": [_namespace("pid"), _namespace("mnt")],
        "skill": [spec.name, spec.version],
        "python": sys.executable,
        "serve": [_meant(argument) for argument in spec.serve],
        "modules": _search_path(spec.serve, environment["PYTHONPATH"].split(os.pathsep)),
        "settings": sorted((name, _meant(value)) for name, value in environment.items() if name.startswith(_SETTINGS)),
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).digest()
    return base64.urlsafe_b64encode(digest[:NAME_BYTES]).decode()


def _namespace(kind: str) -> str:
    try:
        return str(Path(f"/proc/self/ns/{kind}").readlink())
    except OSError:
        return ""


def _meant(value: str) -> str:
    """A path that is relative to the working directory in full, since others work elsewhere; anything else as it is."""
    return str(Path(value).absolute()) if os.path.lexists(value) else value


def _search_path(serve: tuple[str, ...], path: list[str]) -> list[str]:
    """Where the server's modules are looked for.

    Python puts the directory of the program, or the working directory, before all others. It is left out if the server
    would be found in the same place without it: else only runs of the same program could share.
    """
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    own = {str(Path(program).resolve().parent)} if program else set()
    with contextlib.suppress(FileNotFoundError):  # the working directory was removed
        own.add(str(Path.cwd()))
    if serve[0] == "-m" and len(serve) > 1 and path[0] in own:
        package = serve[1].partition(".")[0]
        if _place(package, path) == _place(package, path[1:]):
            return path[1:]
    return path


def _place(package: str, path: list[str]) -> tuple[str | None, list[str]] | None:
    found = PathFinder.find_spec(package, path)
    return (found.origin, list(found.submodule_search_locations or ())) if found else None
