"""`sarai`, the public interface: everything that it promises exists."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import sys
from pathlib import Path

import pytest

import sarai
from core.hookspecs import hookimpl

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", sarai.__all__)
def test_each_name_is_that_of_its_home(name: str) -> None:
    value = getattr(sarai, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__name__ == name
    assert name in dir(sarai)


def test_what_is_no_class_is_right_too() -> None:
    assert sarai.hookimpl is hookimpl
    assert sarai.errors is sys.modules["core.errors"]
    assert sarai.__version__ == importlib.metadata.version("sarai-skills")


def test_type_checkers_know_the_names_that_there_are() -> None:
    source = (ROOT / "sarai" / "__init__.py").read_text()
    for_types = source[source.index("if TYPE_CHECKING") : source.index("else:")]
    imported = re.findall(r"\w+", " ".join(re.findall(r"import (.*)", for_types)))
    assert sorted([*imported, "errors", "__version__"]) == sorted(sarai.__all__)


def test_another_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="get_pool"):
        _ = sarai.get_pool  # type: ignore[attr-defined]
