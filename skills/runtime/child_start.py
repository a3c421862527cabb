"""Starts a child process, if need be before anything else is imported.

What a child imports and what its server imports take about as long, for the draft skill half a second together.
`start_early`, called before the server's imports, lets both happen at once. So this file imports little.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

Started = tuple["subprocess.Popen[bytes]", socket.socket]
"""The process, and the server's end of the socket to it."""

_early: dict[tuple[object, ...], Started] = {}


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a Python process that is to find the modules that this one finds.

    Args:
        variables: what it has on top.
    """
    path = os.pathsep.join(entry or "." for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, **variables}


def start(module: str, **variables: str) -> Started:
    """Start `python -m module FD`, or take the one that was started early.

    FD is the child's end of a socket pair. The child ends when the server's end is closed, or with the server.

    Args:
        module: the child's code (see `skills.runtime.child`).
        variables: what it has in its environment on top.

    Raises:
        OSError: It cannot be started.
    """
    if early := _early.pop((module, *variables.items()), None):
        return early
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env=environment(**variables),
        )
    return process, ours


def start_early(module: str, **variables: str) -> None:
    """Start a child that `start` will be asked for; one that is never taken ends with the server."""
    _early[module, *variables.items()] = start(module, **variables)
