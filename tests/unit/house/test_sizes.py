"""A file is one idea, and a function fits on a screen."""

from __future__ import annotations

from tests.python_files import python_file
from tests.tracked import tracked_texts

MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 350, 50
ROOMS = ("bench/", "core/", "sarai/", "skills/", "tools/")
GENERATED = ("_pb2.py", "_pb2_grpc.py")


def test_files_and_functions_are_short() -> None:
    long = []
    for name, text in tracked_texts().items():
        if not name.startswith(ROOMS) or not name.endswith(".py") or name.endswith(GENERATED):
            continue
        if (lines := text.count("\n")) > MOST_LINES_OF_A_FILE:
            long.append(f"{name}: {lines} lines")
        sizes = python_file(name).functions
        long += [
            f"{name}: {function} has {lines} lines" for function, lines in sizes if lines > MOST_LINES_OF_A_FUNCTION
        ]
    assert long == []
