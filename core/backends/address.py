"""A replica that somebody else runs: its address was set, or it was found at the skill's port on this host."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from core.backends.health import ask_health

if TYPE_CHECKING:
    from core.backends import Origin
    from core.config import PoolConfig
    from core.skill import SkillSpec


class AddressReplica:
    """A server at an address. It is neither started nor stopped from here."""

    def __init__(self, target: str, origin: Origin) -> None:
        self.target = target
        self.origin: Origin = origin
        self.lost = False

    def is_ready(self) -> bool:
        """Always: whether it answers shows when it is called."""
        return True

    def ready(self, timeout_s: float) -> None:
        """Returns at once."""

    def close(self) -> None:
        """Does nothing: it is not ours."""


def find_running(spec: SkillSpec, config: PoolConfig) -> AddressReplica | None:
    """The skill's server at its port on this host, if it says SERVING.

    Nobody there is known after microseconds, by a plain connection; gRPC alone would take milliseconds.
    """
    try:
        socket.create_connection(("127.0.0.1", spec.port), timeout=config.connect_timeout_s).close()
    except OSError:
        return None
    target = f"127.0.0.1:{spec.port}"
    answer = ask_health(target, spec.health_service, timeout_s=config.probe_timeout_s)
    if not answer.serving:
        return None
    return AddressReplica(target, "container" if answer.in_container else "running")
