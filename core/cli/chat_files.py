"""Completion of file names in a chat, after the commands that take one."""

from __future__ import annotations

import os
import re
from pathlib import Path

_COMMAND = re.compile(r"(/(?:image|save)\s+)((?:.*/)?)([^/]*)", re.DOTALL)


def complete_files() -> None:
    """Have Tab complete the names of files. Elsewhere it writes a tab, as without completion."""
    import readline

    readline.set_completer_delims("")  # the line is one word, as names may have blanks
    readline.set_completer(completion)
    readline.parse_and_bind("tab: complete")


def completion(line: str, number: int) -> str | None:
    """Return a line with one of the files that its end may stand for; None if there are no more.

    Args:
        line: The line up to the cursor.
        number: Which of them, counted from 0.
    """
    if (typed := _COMMAND.fullmatch(line)) is None:
        return None if number else f"{line}\t"
    command, folder, start = typed.groups()
    names = [name for name in _names(folder) if name.startswith(start) and (start or not name.startswith("."))]
    return f"{command}{folder}{names[number]}" if number < len(names) else None


def _names(folder: str) -> list[str]:
    """Return the names in a folder, sorted; those of folders end with a slash."""
    try:
        with os.scandir(Path(folder or ".").expanduser()) as entries:
            return sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries)
    except OSError:
        return []
