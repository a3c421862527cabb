"""What a plugin says about its skill: plain values, no behaviour, light to import."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")

StubFactory = Callable[[Any], Any]
"""Takes a gRPC channel (`grpc.Channel` or `grpc.aio.Channel`), gives the stub that speaks over it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one replica of a skill may use."""

    cpus: float
    """CPUs, more than 0. 0.5 is half of one."""
    memory_bytes: int
    """Bytes of memory, at least 1."""

    def __post_init__(self) -> None:
        if not self.cpus > 0:
            raise ValueError(f"cpus must be more than 0, not {self.cpus!r}")
        if self.memory_bytes < 1:
            raise ValueError(f"memory_bytes must be at least 1, not {self.memory_bytes!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillSpec:
    """A skill as its plugin describes it. Everything that the pool needs to give a client for it.

    Raises:
        ValueError: a field is out of its range; the message names it.
    """

    name: str
    """What callers ask for, `pool.get_skill_client(name)`: lower case letters, digits, `_` and `-`."""
    summary: str
    """One line for people."""
    version: str
    """The skill's own version."""
    image: str
    """The container image, with its tag."""
    container: str
    """The container's name."""
    port: int
    """The port that the container publishes on 127.0.0.1, 1 to 65535."""
    resources: Resources
    """What one replica may use."""
    serve: tuple[str, ...]
    """The arguments after the Python executable that start a replica here without a container.

    The pool appends `--listen ADDRESS --lifeline`. The process serves `grpc.health.v1` and says SERVING when it
    can answer; it ends as soon as its standard input does.
    """
    stub: StubFactory
    """Gives the stub for a channel. Imports what it needs when it is called, not before."""
    health_service: str = ""
    """The service that is asked for by name in `grpc.health.v1`. Empty means the server as a whole."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name must be lower case letters, digits, '_' and '-', a letter first, at most 63: not {self.name!r}"
            )
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port of skill {self.name!r} must be 1 to 65535, not {self.port!r}")
        serve: object = self.serve  # plugins are not always type-checked, and a string would fall into letters
        if not isinstance(serve, tuple) or not serve:
            raise ValueError(f"serve of skill {self.name!r} must be a tuple of arguments, not {self.serve!r}")

    @property
    def target_variable(self) -> str:
        """The environment variable that names the address of this skill, for example `SARAI_DRAFT_TARGET`."""
        return self._variable("TARGET")

    @property
    def ports_variable(self) -> str:
        """The one that names the ports of its containers, `SARAI_DRAFT_PORTS` (docker-compose.scale.yml)."""
        return self._variable("PORTS")

    def _variable(self, what: str) -> str:
        return f"SARAI_{self.name.upper().replace('-', '_')}_{what}"
