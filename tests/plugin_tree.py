"""A folder for plugins of a test's own."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.stub_plugin import PluginTree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[PluginTree]:
    """A package of plugins that is empty at first."""
    before = list(sys.path)
    made = PluginTree(tmp_path)
    (tmp_path / made.package).mkdir()
    yield made
    sys.path[:] = before
