"""Starts an engine process, if need be before anything else is imported.

What the engine imports and what the server imports take about as long, half a second together. `start_early`, called
before the server's imports, lets both happen at once; the engine then waits for its configuration.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ENGINE_MODULE = "skills.skill_draft.engine"
Started = tuple["subprocess.Popen[bytes]", socket.socket]
"""The process, and our end of the socket to it."""

_ROOT = Path(__file__).resolve().parents[2]
_early: dict[tuple[str, str], Started] = {}


def start(module: str, numerics: str) -> Started:
    """Starts `python -m module`, or takes the one that was started early."""
    if early := _early.pop((module, numerics), None):
        return early
    ours, theirs = socket.socketpair()
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "SKILL_DRAFT_NUMERICS": numerics},
        )
    finally:
        theirs.close()
    return process, ours


def start_early(arguments: Sequence[str]) -> None:
    """Starts the engine that a server with these arguments will want; one that is not taken ends with the server."""
    from .settings import SettingsError, load

    try:
        settings, _ = load(arguments)
    except SettingsError:
        return  # the server will say so
    _early[ENGINE_MODULE, settings.numerics] = start(ENGINE_MODULE, settings.numerics)
