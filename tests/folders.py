"""Which kind of test a file holds: the folder says it, so that no test can be forgotten."""

from __future__ import annotations

from pathlib import Path

_TESTS = Path(__file__).resolve().parent


def folder_of(path: Path) -> str:
    """The marker of a test's file: its folder below `tests`; a skill's own tests start servers, as `system` does."""
    return path.relative_to(_TESTS).parts[0] if path.is_relative_to(_TESTS) else "system"
