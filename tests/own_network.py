"""A separate network for a command, in which a skill's port is free whatever else runs on this machine.

Linux's `unshare -rn` creates it, without root where the system allows that. Run as a program, this file turns its
loopback interface on and then executes the command.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys

import pytest

_SIOCSIFFLAGS = 0x8914
_UP_LOOPBACK_RUNNING = 0x1 | 0x8 | 0x40


def own_network(port: int) -> tuple[str, ...]:
    """Return the prefix for a command that needs the port; empty without such a network, if the port is free."""
    prefix = ("unshare", "-rn", sys.executable, __file__)
    if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
        return prefix
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            pytest.skip(f"a server is on port {port}, and `unshare -rn` makes no network of our own here")
    return ()


if __name__ == "__main__":
    with socket.socket() as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _UP_LOOPBACK_RUNNING))
    os.execvp(sys.argv[1], sys.argv[1:])
