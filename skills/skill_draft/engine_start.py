"""Start an engine process, the first one before the server's imports (see `skills.runtime.child_start`)."""

from __future__ import annotations

from collections.abc import Sequence

from skills.runtime import child_start

ENGINE_MODULE = "skills.skill_draft.engine"


def start(module: str, numerics: str) -> child_start.Started:
    """Start `python -m module`, or return the one that was started early.

    `numerics` determines which libraries of llama.cpp it loads, before it receives its configuration.
    """
    return child_start.start(module, SKILL_DRAFT_NUMERICS=numerics)


def start_early(arguments: Sequence[str]) -> None:
    """Start the engine that a server with these arguments will use."""
    from skills.runtime.settings import SettingsError, load

    from .settings import NAME, Settings

    try:
        settings, _ = load(Settings, NAME, arguments)
    except SettingsError:
        return  # the server will report it
    child_start.start_early(ENGINE_MODULE, SKILL_DRAFT_NUMERICS=settings.numerics)
