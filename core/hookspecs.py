"""The whole plugin contract. A plugin is a module with some of these functions, marked `@sarai.hookimpl`.

It is found as `skills/skill_*/plugin.py` of this tree, or as an entry point of the group `sarai.skills` of any
installed package. A plugin is imported into its host's process, so it must be light: no model, no llama.cpp, no numpy.
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
    """Return the skills of this plugin. Called once per process."""


@hookspec
def sarai_commands(cli: click.Group) -> None:
    """Add commands to the `sarai` command line. Called before the command line is parsed."""


@hookspec(firstresult=True)
def sarai_score(request: skills_pb2.GenReq, response: skills_pb2.GenResp) -> float | None:
    """Return how far an answer can be trusted, 0 to 1; None leaves it to the next plugin, and finally to the loop."""


@hookspec(firstresult=True)
def sarai_reflection_prompt(language: str, round: int) -> str | None:  # noqa: A002  # plugins name it so
    """Return the prompt that asks the model to review its draft.

    Args:
        language: Language of the conversation, ISO 639-1 in lower case: `en`, `es`.
        round: Number of the reflection, counted from 1.

    Returns:
        The prompt, or None to leave it to the next plugin, and finally to the loop.
    """
