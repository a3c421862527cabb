from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

import pytest

from core.plugins import Plugins, get_plugins

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stub_plugin import PluginTree


def test_skill_of_this_tree_is_found() -> None:
    plugins = get_plugins()
    assert "draft" in plugins.skills
    assert plugins.errors == ()
    assert plugins is get_plugins()


def test_draft_skill_says_what_users_rely_on() -> None:
    draft = get_plugins().skills["draft"]
    assert (draft.port, draft.image, draft.container) == (50051, "sarai-skill-draft:v2.16", "skill_draft")
    assert (draft.resources.cpus, draft.resources.memory_bytes) == (2.0, 3 * 1024**3)
    assert draft.serve == ("-m", "skills.skill_draft.server")


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit('gone')\n", "SystemExit: gone"),
        ("def (\n", "SyntaxError"),
        ("from core.hookspecs import hookimpl\n@hookimpl\ndef sarai_skills():\n    return [1]\n", "not a SkillSpec"),
        ("from core.hookspecs import hookimpl\n@hookimpl\ndef sarai_skills():\n    1 / 0\n", "ZeroDivisionError"),
        ("from core.hookspecs import hookimpl\n@hookimpl\ndef sarai_skils():\n    return []\n", "sarai_skils"),
        ("from core.hookspecs import hookimpl\n@hookimpl\ndef sarai_skills(nonsense):\n    pass\n", "nonsense"),
    ],
)
def test_plugin_that_fails_is_reported_and_the_others_go_on_working(
    tree: PluginTree, caplog: pytest.LogCaptureFixture, source: str, what: str
) -> None:
    path = tree.write("broken", source)
    tree.write_stub("echo")
    with caplog.at_level(logging.WARNING):
        plugins = tree.load()
    assert list(plugins.skills) == ["echo"]
    (error,) = plugins.errors
    assert (error.name, error.path) == ("skill_broken", str(path))
    assert isinstance(error.exception, BaseException)
    assert what in str(error)
    assert [record.getMessage() for record in caplog.records] == [str(error)]


def test_second_skill_of_one_name_is_left_out_and_reported(tree: PluginTree) -> None:
    tree.write_stub("echo")
    same = (tree.folder / tree.package / "skill_echo" / "plugin.py").read_text()
    tree.write("fake", same)
    plugins = tree.load()
    assert list(plugins.skills) == ["echo"]
    (error,) = plugins.errors
    assert "is there already" in str(error)


def install(folder: Path, name: str, entry: str) -> None:
    """Write the metadata of an installed package with one entry point."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[test.{name}]\n{entry}\n")


def test_installed_package_brings_a_skill_by_its_entry_point(tree: PluginTree) -> None:
    tree.write_stub("echo")
    install(tree.folder, "brings", f"echo = {tree.package}.skill_echo.plugin")
    importlib.invalidate_caches()
    assert list(Plugins(package="tests", group="test.brings").skills) == ["echo"]


def test_plugin_of_the_tree_that_is_an_entry_point_too_counts_once(tree: PluginTree) -> None:
    tree.write_stub("echo")
    install(tree.folder, "twice", f"echo = {tree.package}.skill_echo.plugin")
    importlib.invalidate_caches()
    plugins = Plugins(package=tree.package, group="test.twice")
    assert list(plugins.skills) == ["echo"]
    assert plugins.errors == ()


def test_entry_point_that_fails_is_reported_with_what_it_names(tree: PluginTree) -> None:
    install(tree.folder, "fails", "bad = no_such_package.plugin")
    importlib.invalidate_caches()
    (error,) = Plugins(package=tree.package, group="test.fails").errors
    assert (error.name, error.path) == ("bad", "no_such_package.plugin")


def test_first_plugin_with_an_opinion_scores_an_answer(tree: PluginTree) -> None:
    source = "from core.hookspecs import hookimpl\n@hookimpl\ndef sarai_score(request, response):\n    return {}\n"
    tree.write("none", source.format(None))
    tree.write("some", source.format(0.25))
    assert tree.load().hook.sarai_score(request=None, response=None) == 0.25
    assert get_plugins().hook.sarai_score(request=None, response=None) is None


def test_reflection_prompt_can_be_replaced_by_language_and_round(tree: PluginTree) -> None:
    tree.write(
        "es",
        "from core.hookspecs import hookimpl\n@hookimpl\ndef sarai_reflection_prompt(language, round):\n"
        "    return f'Revisa {round}' if language == 'es' else None\n",
    )
    hook = tree.load().hook
    assert hook.sarai_reflection_prompt(language="es", round=2) == "Revisa 2"
    assert hook.sarai_reflection_prompt(language="en", round=2) is None
