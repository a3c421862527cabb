"""A draft server that sees a folder as read-only, or as a disk of its own of some size.

`python -m tests.own_disk FOLDER ro|SIZE ARGUMENTS`: Linux's `unshare -rm` makes the mount for this server alone,
without root where the system allows that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_UNSHARE = ("unshare", "-rm")


def own_disk(folder: Path, kind: str) -> tuple[str, ...]:
    """Return the module to start, with its first arguments, for `draft_server`."""
    can = shutil.which("unshare") and subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False)
    if not can or can.returncode:
        pytest.skip("`unshare -rm` makes no mounts of our own here")
    return ("-m", "tests.own_disk", str(folder), kind)


if __name__ == "__main__":
    folder, kind, *arguments = sys.argv[1:]
    options = ("--bind", "-o", "ro", folder) if kind == "ro" else ("-t", "tmpfs", "-o", f"size={kind},mode=700", "none")
    mount = subprocess.list2cmdline(["mount", *options, folder])
    server = (sys.executable, "-m", "skills.skill_draft.server", *arguments)
    os.execvp(_UNSHARE[0], [*_UNSHARE, "sh", "-c", f'{mount} && exec "$@"', "sh", *server])
