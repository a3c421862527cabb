"""Which model file the skill serves.

A path, a name of `catalog.toml`, the file in the models folder, or the embedded small model, which comes with a Python
package.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = "smollm2-135m-instruct-q8_0"


class ModelNotFoundError(Exception):
    """The model is not here; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """A named model, as far as a server needs to know it."""

    name: str
    file: str
    package: str = ""
    """The installed Python package that contains the file."""
    made_from: str = ""
    """The model that set-up makes it from, which is served instead if that was not done."""
    images: str = ""
    """The file that reads images (mmproj); empty if the model reads text alone."""


def catalog() -> dict[str, CatalogEntry]:
    """Return the models of this package's `catalog.toml` by name."""
    text = files(__package__).joinpath("catalog.toml").read_text(encoding="utf-8")
    known = CatalogEntry.__slots__
    return {
        name: CatalogEntry(
            name=name,
            **{key: str(value["file"] if key == "images" else value) for key, value in entry.items() if key in known},
        )
        for name, entry in tomllib.loads(text).get("models", {}).items()
    }


def models_dir(setting: str = "") -> Path:
    """Return the folder of model files: the setting, the container's /models, the repository's, or the user's own.

    Raises:
        ModelNotFoundError: The setting is not a folder, or there is no permission to read it.
    """
    if setting:
        with _permission_told():
            if not Path(setting).is_dir():
                raise ModelNotFoundError(f"no such folder: {setting} (SKILL_DRAFT_MODELS_DIR)")
        return Path(setting)
    for folder in (Path("/models"), ROOT / "models"):
        if folder.is_dir():
            return folder
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share", "sarai", "models")


def find_model(setting: str, folder: Path) -> Path:
    """Return the file to serve, which is readable.

    A file or folder without permission is an error: any other model would be the wrong one.

    Raises:
        ModelNotFoundError: There is no such model, a choice of several, or no permission. It says what to do.
    """
    with _permission_told():
        path = _find(setting, folder)
        path.open("rb").close()
    return path


@contextlib.contextmanager
def _permission_told() -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise ModelNotFoundError(
            f"no permission: this server, user {os.geteuid()}, cannot read {error.filename}: make it readable "
            "(chmod -R a+rX; in a container, on the folder of the host that is mounted there)"
        ) from error


def _find(setting: str, folder: Path) -> Path:
    entries = catalog()
    if not setting:
        return _default(folder, entries)
    if setting in entries:
        return _of_entry(entries[setting], folder)
    path = Path(setting)
    if path.is_file():
        return path
    if os.sep in setting or setting.endswith(".gguf"):
        raise ModelNotFoundError(f"no such model file: {setting}")
    raise ModelNotFoundError(
        f"no model is called {setting!r}: give a GGUF file, or one of {', '.join(sorted(entries))}"
    )


def _default(folder: Path, entries: dict[str, CatalogEntry]) -> Path:
    # Not by glob, which finds nothing in a folder without permission.
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [p for p in files if p.suffix == ".gguf" and "mmproj" not in p.name]
    if len(found) == 1:
        return found[0]
    named = [p for p in found if p.name in {entry.file for entry in entries.values()}]
    if len(named) == 1:
        return named[0]
    if found:
        names = ", ".join(p.name for p in found)
        raise ModelNotFoundError(f"{folder} holds {len(found)} models: choose one with SKILL_DRAFT_MODEL ({names})")
    return _of_entry(entries[EMBEDDED], folder)


def _of_entry(entry: CatalogEntry, folder: Path) -> Path:
    if (path := folder / entry.file).is_file():
        return path
    if entry.package:
        # Found without importing it: the package's __init__ needs a library that is not installed.
        spec = importlib.util.find_spec(entry.package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            if (path := Path(place) / entry.file).is_file():
                return path
        if entry.made_from:
            return _of_entry(catalog()[entry.made_from], folder)
        raise ModelNotFoundError(f"{entry.name} comes with the Python package {entry.package}, which is not installed")
    raise ModelNotFoundError(
        f"{entry.name} is not here yet: `sarai models pull {entry.name}`, on the host, brings it to {path}"
    )
