"""What is said in two places is the same in both."""

from __future__ import annotations

import dataclasses
import re

from skills.runtime.settings import variable
from skills.skill_image import VERSION
from skills.skill_image.plugin import sarai_skills
from skills.skill_image.server import PORT, SERVICE
from skills.skill_image.settings import ImageSettings
from tests.servers import ROOT
from tools import locked


def test_plugin_and_server_agree() -> None:
    (spec,) = sarai_skills()
    assert (spec.version, spec.port, spec.health_service) == (VERSION, PORT, SERVICE)


def test_server_has_the_versions_that_are_tested() -> None:
    tested = set(locked.entries(ROOT / "requirements.lock"))
    served = set(locked.entries(ROOT / "skills/skill_image/requirements.txt"))
    assert {"pillow", "cachetools", "grpcio"} <= {name for name, _ in served}
    assert served <= tested


def test_readme_has_every_setting_with_its_default() -> None:
    text = (ROOT / "skills/skill_image/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(SKILL_IMAGE_\w+)` \| *(.*?) *\|", text, re.MULTILINE)
    documented = {name: default.strip("`") for name, default in rows}
    fields = dataclasses.fields(ImageSettings)
    assert documented == {variable("image", item.name): str(item.default) for item in fields}
