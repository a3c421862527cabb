"""Starts a child process, if necessary before anything else is imported.

The imports of a child and of its server take about equally long, half a second together for the draft skill.
`start_early`, called before the server's imports, lets both run concurrently. So this file imports little.
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
    """Return an environment in which a Python process finds the modules that this one finds.

    Args:
        variables: variables in addition to those of this process.
    """
    path = os.pathsep.join(entry or "." for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, **variables}


def start(module: str, **variables: str) -> Started:
    """Start `python -m module FD`, or return the one that was started early.

    FD is the child's end of a socket pair. The child ends when the server's end is closed, or with the server.

    Args:
        module: the child's code (see `skills.runtime.child`).
        variables: environment variables in addition to those of this process.

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
    """Start a child for a later `start` with the same arguments; one that is never taken ends with the server."""
    _early[module, *variables.items()] = start(module, **variables)
