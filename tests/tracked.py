"""The files of this tree that git tracks or would track, as text."""

from __future__ import annotations

import functools
import subprocess

from tests.servers import ROOT


@functools.cache
def tracked_texts() -> dict[str, str]:
    """Return the text of each file by its path from the root; bytes that are not UTF-8 are replaced."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    texts = {
        name: (ROOT / name).read_bytes().decode("utf-8", "replace")
        for name in listed.stdout.split("\0")
        if name and (ROOT / name).is_file()
    }
    assert "Makefile" in texts
    return texts
