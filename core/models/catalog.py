"""The named models, as the catalogues of skills describe them."""

from __future__ import annotations

import difflib
import importlib.resources
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from core.errors import ConfigError, UnknownModelError
from core.skill import SkillSpec

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.gguf")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"([0-9a-f]{64})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A file of a model.

    Raises:
        ValueError: A field is malformed; the message names it.
    """

    file: str
    """Its name in the models folder."""
    package: str = ""
    """Installed Python package that contains it; such a file is never downloaded."""
    repository: str = ""
    """Repository on the hub, OWNER/NAME."""
    commit: str = ""
    """Commit of the repository, 40 hexadecimal digits."""
    source: str = ""
    """Its name in the repository."""
    size_bytes: int = 0
    """0 if it is not known."""
    about_bytes: int = 0
    """Approximate size where `size_bytes` is not known."""
    sha256: str = ""
    """In hexadecimal digits; empty if it is not pinned."""

    def __post_init__(self) -> None:
        if not _FILE_NAME.fullmatch(self.file):
            raise ValueError(f"file must be a plain name that ends with .gguf, not {self.file!r}")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 of {self.file} must be 64 hexadecimal digits, not {self.sha256!r}")
        if not self.package and not (self.repository and self.source and _COMMIT.fullmatch(self.commit)):
            raise ValueError(f"{self.file} needs repository, source and a whole commit, or a package")

    @property
    def nominal_bytes(self) -> int:
        """The best known size; 0 if there is none."""
        return self.size_bytes or self.about_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A named model. The comment at the top of the catalogue describes the fields."""

    name: str
    skill: SkillSpec
    """The skill that serves it."""
    text: ModelFile
    images: ModelFile | None = None
    """The file that reads images (mmproj)."""
    summary: str = ""
    license: str = ""
    context: int = 0
    """Tokens of prompt and answer that it was trained for."""
    cell_bytes: int = 0
    """Memory of one cell of the KV cache; 0 if it is not known."""
    template: str = ""
    sampling: Mapping[str, float] = field(default_factory=dict)
    numerics: str = ""
    made_from: str = ""

    @property
    def files(self) -> tuple[ModelFile, ...]:
        """All of its files."""
        return (self.text, self.images) if self.images else (self.text,)


def read_catalogs(skills: Iterable[SkillSpec]) -> dict[str, Model]:
    """Return all models by name, in the order of the catalogues.

    Raises:
        ConfigError: A catalogue cannot be read, or an entry is malformed.
    """
    models: dict[str, Model] = {}
    for skill in skills:
        if not skill.catalog:
            continue
        package, _, name = skill.catalog.partition("/")
        try:
            document = tomllib.loads(importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8"))
            for model, entry in document["models"].items():
                models.setdefault(model, _model(model, skill, entry))
        except (ImportError, OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"the catalogue {skill.catalog} of skill {skill.name} is wrong: {error}") from error
    return models


def find_model(name: str, models: Mapping[str, Model]) -> Model:
    """Return a model by its name.

    Raises:
        UnknownModelError: There is none.
    """
    if name in models:
        return models[name]
    near = difflib.get_close_matches(name, models, n=1)
    hint = f"did you mean {near[0]}?" if near else "`sarai models list` shows them"
    raise UnknownModelError(f"no model is called {name!r}: {hint}")


def _model(name: str, skill: SkillSpec, entry: dict[str, Any]) -> Model:
    images = entry.pop("images", None)
    text = {key: entry.pop(key) for key in ModelFile.__slots__ if key in entry}
    return Model(
        name=name, skill=skill, text=ModelFile(**text), images=ModelFile(**images) if images else None, **entry
    )
