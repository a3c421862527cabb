"""How a plugin describes its skill: plain values, no behaviour, light to import."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")

StubFactory = Callable[[Any], Any]
"""Makes a stub for a gRPC channel (`grpc.Channel` or `grpc.aio.Channel`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Resource limits of one replica of a skill."""

    cpus: float
    """Number of CPUs, more than 0. 0.5 is half a CPU."""
    memory_bytes: int
    """Memory, bytes. At least 1."""

    def __post_init__(self) -> None:
        if not self.cpus > 0:
            raise ValueError(f"cpus must be more than 0, not {self.cpus!r}")
        if self.memory_bytes < 1:
            raise ValueError(f"memory_bytes must be at least 1, not {self.memory_bytes!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillSpec:
    """The description of a skill by its plugin: everything that the pool needs to provide a client.

    Raises:
        ValueError: A field is out of its range; the message names it.
    """

    name: str
    """Name for `pool.get_skill_client(name)`: lower-case letters, digits, `_` and `-`."""
    summary: str
    """One line for humans."""
    version: str
    """Version of the skill."""
    image: str
    """Container image, with its tag."""
    container: str
    """Name of the container."""
    port: int
    """Port that the container publishes on 127.0.0.1, 1 to 65535."""
    resources: Resources
    """Limits of one replica."""
    serve: tuple[str, ...]
    """Arguments of the Python executable that start a replica as a local process.

    The pool appends `--listen ADDRESS --lifeline`. The process serves `grpc.health.v1` and reports SERVING once it can
    answer; it ends when its standard input does.
    """
    stub: StubFactory
    """Makes the stub for a channel. It imports what it needs when called, not before."""
    health_service: str = ""
    """Service name for `grpc.health.v1`. Empty means the whole server."""
    catalog: str = ""
    """Catalogue of the model files that it can serve, as `PACKAGE/FILE`. Empty: it serves none that has a name."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name must be lower case letters, digits, '_' and '-', a letter first, at most 63: not {self.name!r}"
            )
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port of skill {self.name!r} must be 1 to 65535, not {self.port!r}")
        serve: object = self.serve  # plugins are not always type-checked, and a string would be taken letter by letter
        if not isinstance(serve, tuple) or not serve:
            raise ValueError(f"serve of skill {self.name!r} must be a tuple of arguments, not {self.serve!r}")

    @property
    def target_variable(self) -> str:
        """Environment variable for the address of this skill, for example `SARAI_DRAFT_TARGET`."""
        return self._variable("TARGET")

    @property
    def ports_variable(self) -> str:
        """Environment variable for the ports of its containers, `SARAI_DRAFT_PORTS` (docker-compose.scale.yml)."""
        return self._variable("PORTS")

    @property
    def scaler_variable(self) -> str:
        """Environment variable for the address of its autoscaler, `SARAI_DRAFT_SCALER`."""
        return self._variable("SCALER")

    @property
    def models_dir_variable(self) -> str:
        """Environment variable for the folder of its model files, `SKILL_DRAFT_MODELS_DIR`; its server reads it too."""
        return f"SKILL_{self.name.upper().replace('-', '_')}_MODELS_DIR"

    def _variable(self, what: str) -> str:
        return f"SARAI_{self.name.upper().replace('-', '_')}_{what}"
