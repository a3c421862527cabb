"""`sarai new-skill`: what it writes, what it refuses, and that it touches nothing else."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from core.cli.app import cli
from core.cli.new_skill_files import add_service
from tests.servers import ROOT

COMPOSE = ("docker-compose.override.yml", "docker-compose.scale.yml")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create the files that mark a source tree, and unmodified compose files."""
    (tmp_path / "skills").mkdir()
    for name in ("skills/skills.proto", "skills/types.proto", "docker-compose.yml", *COMPOSE):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.chdir(tmp_path / "skills")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["new-skill", *arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_skill_is_written_with_all_its_files_which_are_told(tree: Path) -> None:
    result = run("shout")
    assert result.exit_code == 0, result.output
    folder = tree / "skills" / "skill_shout"
    assert set(contents(folder)) == {
        "__init__.py", "plugin.py", "server.py", "test_shout.py", "Dockerfile", "requirements.txt", "README.md",
    }  # fmt: skip
    told = {Path(line) for line in result.stdout.splitlines()}
    assert told == set(folder.iterdir()) | {tree / name for name in COMPOSE}
    for path, content in contents(folder).items():
        assert "§" not in content.decode(), path
        compile(content, path, "exec") if path.endswith(".py") else None


def test_dry_run_writes_nothing_and_tells_the_same(tree: Path) -> None:
    before = contents(tree)
    dry = run("shout", "--dry-run")
    assert (dry.exit_code, contents(tree)) == (0, before)
    assert run("shout").stdout == dry.stdout
    assert contents(tree) != before


def test_json_tells_each_file_with_its_content(tree: Path) -> None:
    dry = [json.loads(line) for line in run("shout", "--dry-run", "--json").stdout.splitlines()]
    wet = [json.loads(line) for line in run("shout", "--json").stdout.splitlines()]
    assert {line["event"] for line in dry} == {"would write"}
    assert {line["event"] for line in wet} == {"wrote"}
    for line in wet:
        assert Path(line["path"]).read_text() == line["content"]
    assert tree / "skills/skill_shout/server.py" in {Path(line["path"]) for line in dry}


@pytest.mark.parametrize("name", ["", "Shout", "1shout", "my-skill", "a b", "é", "a" * 64, "../up", "a.b", "_a"])
@pytest.mark.usefixtures("tree")
def test_bad_name_is_refused(name: str) -> None:
    result = run("--", name)
    assert result.exit_code == 2
    assert "a letter first" in result.stderr


def test_folder_that_is_there_is_refused_and_left_alone(tree: Path) -> None:
    (tree / "skills" / "skill_shout").mkdir()
    before = contents(tree)
    result = run("shout")
    assert (result.exit_code, contents(tree)) == (2, before)
    assert "is there already" in result.stderr


@pytest.mark.usefixtures("tree")
def test_skill_that_is_there_is_refused() -> None:
    result = run("draft")
    assert result.exit_code == 2
    assert "there is a skill 'draft' already" in result.stderr


@pytest.mark.parametrize("port", ["50051", "50058", "50044", "50061"])
@pytest.mark.usefixtures("tree")
def test_port_of_another_skill_is_refused_and_its_owner_told(port: str) -> None:
    result = run("shout", "--port", port)
    assert result.exit_code == 2
    assert "too near to skill" in result.stderr


@pytest.mark.parametrize(("arguments", "port"), [([], 50071), (["--port", "6000"], 6000)])
def test_port_is_the_next_free_one_or_the_one_that_is_asked_for(tree: Path, arguments: list[str], port: int) -> None:
    assert run("shout", *arguments).exit_code == 0
    for name in ("plugin.py", "server.py", "Dockerfile"):
        assert str(port) in (tree / "skills" / "skill_shout" / name).read_text()


def test_services_are_added_and_all_else_stays_letter_by_letter(tree: Path) -> None:
    before = {name: (tree / name).read_text() for name in COMPOSE}
    run("shout")
    for name in COMPOSE:
        text = (tree / name).read_text()
        assert text.startswith(before[name])
        services = yaml.safe_load(text)["services"]
        new, old = services["skill_shout"], services["skill_image"]
        assert new.keys() == old.keys()
        assert new["image"] == "sarai-skill-shout:v0.1"
        assert new["cap_drop"] == ["ALL"]
        for key in ("restart", "read_only", "tmpfs", "security_opt", "stop_grace_period", "logging"):
            assert new[key] == old[key]
    override, scale = (yaml.safe_load((tree / name).read_text())["services"]["skill_shout"] for name in COMPOSE)
    assert override.pop("container_name") == "skill_shout"
    assert override.pop("ports") == ["${SARAI_SHOUT_BIND:-127.0.0.1}:${SARAI_SHOUT_PORT:-50071}:50071"]
    assert scale.pop("ports") == ["${SARAI_SHOUT_BIND:-127.0.0.1}:${SARAI_SHOUT_PORTS:-50071-50078}:50071"]
    assert override == scale


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x: &skill\nservices:\n  a: 1\n", "x: &skill\nservices:\n  a: 1\n\n  new: 2\n"),
        ("x: &skill\nservices:\n  a: 1", "x: &skill\nservices:\n  a: 1\n\n  new: 2\n"),
        (
            "services: # all\n  a: &skill 1\n  # its comment\n\n# of networks\nnetworks:\n  new: 3\n",
            "services: # all\n  a: &skill 1\n  # its comment\n\n  new: 2\n\n# of networks\nnetworks:\n  new: 3\n",
        ),
        ("x: &skill\nservices:\n  new: 1\n", "x: &skill\nservices:\n  new: 1\n"),
    ],
)
def test_service_goes_to_the_end_of_the_services_once(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "compose.yml"
    file.write_text(text)
    assert add_service(file, "new", "\n  new: 2\n") == expected
    file.write_text(expected)
    assert add_service(file, "new", "\n  new: 2\n") == expected


def test_compose_files_of_another_kind_are_refused_before_anything_is_written(tree: Path) -> None:
    (tree / COMPOSE[1]).write_text("services: {}\n")
    before = contents(tree)
    result = run("shout")
    assert (result.exit_code, contents(tree)) == (2, before)
    assert COMPOSE[1] in result.stderr


def test_package_has_an_entry_point_and_leaves_the_tree_alone(tree: Path, tmp_path: Path) -> None:
    before = contents(tree)
    folder = tmp_path / "pkg" / "deep"
    result = run("shout", "--package", str(folder))
    assert result.exit_code == 0, result.output
    assert {name for name in contents(tree) if not name.startswith("pkg")} == set(before)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["sarai.skills"] == {"shout": "sarai_skill_shout.plugin"}
    assert {"sarai_skill_shout/server.py", "tests/test_shout.py", "README.md"} <= set(contents(folder))
    again = run("shout", "--package", str(folder))
    assert again.exit_code == 2


def test_own_messages_come_with_their_stubs(tree: Path) -> None:
    result = run("loud_voice", "--proto")
    assert result.exit_code == 0, result.output
    folder = tree / "skills" / "skill_loud_voice"
    assert {"loud_voice.proto", "loud_voice_pb2.py", "loud_voice_pb2.pyi", "loud_voice_pb2_grpc.py",
            "loud_voice_pb2_grpc.pyi"} <= set(contents(folder))  # fmt: skip
    assert re.search(r"^package skills\.skill_loud_voice;$", (folder / "loud_voice.proto").read_text(), re.MULTILINE)
    assert "skills.skill_loud_voice.LoudVoiceService" in (folder / "plugin.py").read_text()
