"""What the rules of this tree need to know of a Python file, which is parsed once for all of them."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers import ROOT

_BY_NAME = {"import_module", "find_spec", "__import__"}
_GENERATED = ("_pb2.py", "_pb2_grpc.py")


@dataclass(frozen=True, slots=True)
class PythonFile:
    """A file's content, as far as rules are about it."""

    imports: tuple[str, ...]
    """Full names, including those in functions and for type checking."""
    constants: frozenset[object]
    """Strings, numbers and so on; those that strings are formatted from too."""
    functions: tuple[tuple[str, int], ...]
    """Each function's name and its number of lines."""


@functools.cache
def sources(folder: str) -> tuple[str, ...]:
    """Return the hand-written Python files under a folder, relative to the root."""
    paths = (ROOT / folder).rglob("*.py")
    return tuple(sorted(str(path.relative_to(ROOT)) for path in paths if not path.name.endswith(_GENERATED)))


@functools.cache
def python_file(path: str) -> PythonFile:
    """Return what a file contains; the path is relative to the root."""
    return examine((ROOT / path).read_text(encoding="utf-8"), list(Path(path).parent.parts))


def examine(text: str, package: list[str]) -> PythonFile:
    """Return what the text of a module in this package contains."""
    imports: list[str] = []
    constants: set[object] = set()
    functions: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Constant():
                constants.add(node.value)
            case ast.Import() | ast.ImportFrom() | ast.Call():
                imports.extend(_imported(node, package))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                assert node.end_lineno is not None
                functions.append((node.name, node.end_lineno - node.lineno + 1))
    return PythonFile(tuple(imports), frozenset(constants), tuple(functions))


def _imported(node: ast.Import | ast.ImportFrom | ast.Call, package: list[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        # `from a import b` may import the module a.b.
        yield from (f"{module}.{alias.name}" for alias in node.names)
    elif getattr(node.func, "attr", getattr(node.func, "id", "")) in _BY_NAME:
        yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))
