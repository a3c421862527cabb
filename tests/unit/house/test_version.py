"""A release of a skill changes `VERSION` in its package; these tests compare the files that cannot read it."""

from __future__ import annotations

import re
from types import ModuleType

import pytest

from skills import skill_draft, skill_image
from tests.tracked import tracked_texts

HISTORY = {"CHANGELOG.md", "skills/skill_draft/context.tar"}


@pytest.mark.parametrize("skill", [skill_draft, skill_image], ids=["draft", "image"])
def test_every_file_names_the_image_of_this_version(skill: ModuleType) -> None:
    image = re.compile(rf"{skill.IMAGE.partition(':')[0]}:v[\w.]*\w")
    named = {name: set(image.findall(text)) for name, text in tracked_texts().items() if name not in HISTORY}
    assert {name: tags for name, tags in named.items() if tags - {skill.IMAGE}} == {}
    assert {"docker-compose.override.yml", "docker-compose.scale.yml"} <= {name for name, tags in named.items() if tags}


@pytest.mark.parametrize("skill", [skill_draft, skill_image], ids=["draft", "image"])
def test_the_image_is_labelled_with_this_version(skill: ModuleType) -> None:
    dockerfile = tracked_texts()[f"{skill.__name__.replace('.', '/')}/Dockerfile"]
    assert re.findall(r"^ARG VERSION=(.*)", dockerfile, re.MULTILINE) == [skill.VERSION]
