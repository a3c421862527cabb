"""A folder for a test's own plugins."""

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
    """Create an empty package of plugins."""
    before = list(sys.path)
    made = PluginTree(tmp_path)
    (tmp_path / made.package).mkdir()
    yield made
    sys.path[:] = before
