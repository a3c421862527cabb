"""A file is one idea, and a function fits on a screen."""

from __future__ import annotations

import ast

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
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if (lines := node.end_lineno - node.lineno + 1) > MOST_LINES_OF_A_FUNCTION:
                    long.append(f"{name}: {node.name} has {lines} lines")
    assert long == []
