"""How images are built: llama.cpp is compiled once, by whichever builder comes first."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.testing import SkillContainers
from tests.docker.asking import MARKS
from tools import containers, llama_wheel, skill_image

pytestmark = MARKS


def test_what_one_builder_compiled_is_kept_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skill_container: SkillContainers
) -> None:
    skill_container.build("draft")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert not llama_wheel.export(tmp_path / "before")
    skill_image.keep_what_the_builder_compiled(containers.DRAFT_FOLDER)
    assert llama_wheel.export(tmp_path / "after")
