"""A new skill works at once: its tests, the linter and mypy pass, and it is served; so is an installed one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT
from tests.source_tree import blocks, copy_tree, make_environment, sections, typed

GUIDE = ROOT / "docs" / "first_skill.md"
ASK = """
from core.model_pool import get_model_pool
from skills import skills_pb2
shout = get_model_pool().get_skill_client("shout")
print(shout.Generate(skills_pb2.GenReq(prompt="hello"), timeout=60).text, shout.Health().status, shout.origin)
"""
ASK_PROTO = """
from core.model_pool import get_model_pool
from {package} import shout_pb2
shout = get_model_pool().get_skill_client("shout")
print(shout.Run(shout_pb2.RunRequest(text="hello"), timeout=60).text, shout.Health().status, shout.origin)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Create a copy of the tree with its own `.venv/bin/sarai`."""
    tree = copy_tree(tmp_path / "tree")
    make_environment(tree)
    return tree


@pytest.mark.parametrize("options", ["", "--proto"])
def test_new_skill_passes_its_tests_and_the_houses_checks_at_once(tree: Path, options: str) -> None:
    typed(f".venv/bin/sarai new-skill shout {options}", tree)
    tests = typed(".venv/bin/python -m pytest -q skills/skill_shout", tree)
    assert " passed" in tests
    checks = f"{ROOT}/.venv/bin/ruff check skills/skill_shout; {ROOT}/.venv/bin/ruff format --check skills/skill_shout"
    typed(checks, tree)
    typed(f"{ROOT}/.venv/bin/hadolint skills/skill_shout/Dockerfile", tree)
    typed(f"{ROOT}/.venv/bin/buf lint --config {ROOT}/buf.yaml .", tree)
    ask = ASK_PROTO.format(package="skills.skill_shout") if options else ASK
    (tree / "ask.py").write_text(ask)
    assert typed(".venv/bin/python ask.py", tree).split()[-3:] == ["HELLO", "SERVING", "embedded"]


def test_new_skills_are_typed_strictly(tree: Path) -> None:
    """A skill of one function and one with its own messages, in one run: what both import takes most of its time."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # the folder that contains mypy-protobuf
    for command in ("new-skill shout", "new-skill whisper --proto"):
        typed(f".venv/bin/sarai {command}", tree, PATH=path)
    skills = "skills/skill_shout skills/skill_whisper"
    typed(f"{ROOT}/.venv/bin/mypy --python-executable {sys.executable} {skills}", tree)


@pytest.mark.parametrize("options", [[], ["--proto"]])
def test_installed_package_serves_its_skill_through_the_pool(tmp_path: Path, options: list[str]) -> None:
    """The package is found only by its entry point: it is in no source tree, and no setting names it."""
    package, site = tmp_path / "sarai-skill-shout", tmp_path / "site"
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}

    def python(*arguments: str, cwd: Path = tmp_path) -> str:
        done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True,
                              timeout=110, check=False)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python("-m", "sarai", "new-skill", "shout", "--package", str(package), *options)
    python("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps",
           "--no-build-isolation", "--target", str(site), str(package))  # fmt: skip
    assert (site / "sarai_skill_shout" / "server.py").is_file()
    ask = ASK_PROTO.format(package="sarai_skill_shout") if options else ASK
    assert python("-c", ask).split()[-3:] == ["HELLO", "SERVING", "embedded"]
    assert " passed" in python("-m", "pytest", "-q", ".", cwd=package)


@pytest.mark.timeout(300)
def test_every_command_of_the_guide_does_what_the_guide_says(tree: Path) -> None:
    """Except those with containers, which tests/docker runs."""
    parts = sections(GUIDE)
    typed("git init -q && git add -A && git -c user.name=x -c user.email=x@x commit -q -m x", tree)
    write, *rest = blocks(parts["Write it"], "sh")
    typed(write, tree)
    first = "\n".join(typed(block, tree) for block in rest)
    assert "HELLO WORLD" in first
    assert " passed" in first
    (server,) = blocks(parts["Make it yours"], "python")
    (tree / "skills/skill_shout/server.py").write_text(server)
    (again,) = blocks(parts["Make it yours"], "sh")
    assert "HELLO! WORLD!" in typed(again, tree)
    (ask,) = blocks(parts["Call it"], "python")
    (tree / "ask_shout.py").write_text(ask)
    asked, served = blocks(parts["Call it"], "sh")
    assert typed(asked, tree).split() == ["WHO!", "IS!", "THERE!", "SERVING"]
    looked = typed(served, tree)
    assert "SERVING" in looked
    assert "HELLO!" in looked
    (package,) = blocks(parts["As a separate package"], "sh")
    packaged = typed(package, tree)
    assert "HELLO" in packaged
    assert " passed" in packaged
    (away,) = blocks(parts["Remove it"], "sh")
    typed(away, tree)
    assert "shout" not in typed(".venv/bin/sarai skills", tree)
    assert "shout" not in (tree / "docker-compose.override.yml").read_text()
