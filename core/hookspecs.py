"""The whole plugin contract. A plugin is a module with some of these functions, marked `@hookimpl` (of `sarai`).

It is found as `skills/skill_*/plugin.py` of this tree, or as an entry point of the group `sarai.skills` of any
installed package. A plugin is imported into its host's process: it must be light, so no model, no llama.cpp, no numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from core.skill import SkillSpec
    from skills import skills_pb2

PROJECT = "sarai"
ENTRY_POINT_GROUP = "sarai.skills"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def sarai_skills() -> list[SkillSpec]:  # type: ignore[empty-body]
    """The skills that this plugin brings. Called once in a process."""


@hookspec
def sarai_commands(cli: click.Group) -> None:
    """Adds commands to the `sarai` command line. Called before the command line is read."""


@hookspec(firstresult=True)
def sarai_score(request: skills_pb2.GenReq, response: skills_pb2.GenResp) -> float | None:
    """How much an answer can be trusted, 0 to 1. None leaves it to the next plugin, at last to the loop's own score."""


@hookspec(firstresult=True)
def sarai_reflection_prompt(language: str, round: int) -> str | None:  # noqa: A002  # plugins name it so
    """The text that asks the model to look at its draft again.

    Args:
        language: the language of the conversation, ISO 639-1 in lower case: `en`, `es`.
        round: which reflection it is, from 1 on.

    Returns:
        The text, or None to leave it to the next plugin, at last to the loop's own text.
    """
