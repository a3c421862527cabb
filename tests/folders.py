"""A test file's kind, which its folder decides, so that no test can lack a marker."""

from __future__ import annotations

import functools
from pathlib import Path

_TESTS = Path(__file__).resolve().parent


@functools.cache
def folder_of(path: Path) -> str:
    """Return the marker of a test file: its folder in `tests`; `system` for a skill's tests, which start servers."""
    return path.relative_to(_TESTS).parts[0] if path.is_relative_to(_TESTS) else "system"
