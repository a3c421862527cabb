"""The program of a skill's server: settings, log, serving, exit code."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from .serving import configure_logging, serve
from .settings import ServerSettings, SettingsError, load
from .skill import BaseSkill, StartError

_Settings = TypeVar("_Settings", bound=ServerSettings)


def run_server(
    make: Callable[[_Settings], BaseSkill],
    kind: type[_Settings],
    *,
    name: str,
    port: int,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run the server of a skill until it is told to stop.

    Args:
        make: makes the skill from its settings, inside the running event loop.
        kind: the class of its settings.
        name: the skill's name.
        port: where it listens on 127.0.0.1 by default.
        arguments: those of the command line by default.

    Returns:
        0 after a drain, 1 if it could not start, 2 if a setting is wrong; the reason is on standard error.
    """

    async def run(settings: _Settings, *, lifeline: bool) -> int:
        return await serve(
            make(settings),
            listen=settings.listen or f"127.0.0.1:{port}",
            grace_s=settings.grace_s,
            max_message_bytes=int(settings.max_message_mb * (1 << 20)),
            lifeline=lifeline,
            stay=settings.on_start_failure == "stay",
        )

    try:
        settings, lifeline = load(kind, name, sys.argv[1:] if arguments is None else arguments)
        configure_logging(settings.log_level)
        return asyncio.run(run(settings, lifeline=lifeline))
    except (SettingsError, StartError) as error:
        sys.stderr.write(f"skill_{name}: {error}\n")
        return 2 if isinstance(error, SettingsError) else 1
