"""A release of a skill changes `VERSION` in its package; these tests compare the files that cannot read it."""

from __future__ import annotations

import re
from types import ModuleType

import pytest

from skills import skill_draft, skill_image
from tests.tracked import tracked_texts

HISTORY = {"CHANGELOG.md", "skills/skill_draft/context.tar"}


COMPOSED = {"docker-compose.override.yml", "docker-compose.scale.yml"}
# The scaler's image goes with that of the skill whose contract it speaks.
SCALER = f"sarai-scaler:{skill_draft.IMAGE.partition(':')[2]}"


@pytest.mark.parametrize(
    ("image", "where"),
    [
        (skill_draft.IMAGE, {*COMPOSED, "deploy/swarm/stack.yml", "deploy/kubernetes/base/deployment.yaml"}),
        (skill_image.IMAGE, COMPOSED),
        (SCALER, {"deploy/scaler/Dockerfile", "deploy/kubernetes/scaler/scaler.yaml"}),
    ],
    ids=["draft", "image", "scaler"],
)
def test_every_file_names_the_image_of_this_version(image: str, where: set[str]) -> None:
    pattern = re.compile(rf"{image.partition(':')[0]}:v[\w.]*\w")
    named = {name: set(pattern.findall(text)) for name, text in tracked_texts().items() if name not in HISTORY}
    assert {name: tags for name, tags in named.items() if tags - {image}} == {}
    assert where <= {name for name, tags in named.items() if tags}


@pytest.mark.parametrize("skill", [skill_draft, skill_image], ids=["draft", "image"])
def test_the_image_is_labelled_with_this_version(skill: ModuleType) -> None:
    dockerfile = tracked_texts()[f"{skill.__name__.replace('.', '/')}/Dockerfile"]
    assert re.findall(r"^ARG VERSION=(.*)", dockerfile, re.MULTILINE) == [skill.VERSION]
