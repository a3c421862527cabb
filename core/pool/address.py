"""A replica that somebody else runs: its address was set, or it was found at the skill's port on this host."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from core.rpc.health import ask_health

if TYPE_CHECKING:
    from pathlib import Path

    from core.config import PoolConfig
    from core.pool.backend import Origin
    from core.skill import SkillSpec


MAX_REPLICAS_HERE = 8
"""As many ports as docker-compose.scale.yml publishes replicas at."""


class AddressReplica:
    """A server at an address. It is neither started nor stopped from here."""

    def __init__(self, target: str, origin: Origin) -> None:
        self.target = target
        self.origin: Origin = origin
        self.lost = False
        self.log: Path | None = None
        self.pid: int | None = None
        self.restarts = 0

    def is_ready(self) -> bool:
        """Always: whether it answers shows when it is called."""
        return True

    def ready(self, timeout_s: float) -> None:
        """Returns at once."""

    def begin_use(self) -> None:
        """Does nothing: nobody waits for its end."""

    def end_use(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing: it is not ours."""


def find_running(spec: SkillSpec, config: PoolConfig) -> list[AddressReplica]:
    """The skill's servers on this host that say SERVING: at its port, and replicas in containers at the next ones.

    Nobody there is known after microseconds, by a plain connection; gRPC alone would take milliseconds.
    """
    found = []
    for port in range(spec.port, min(spec.port + MAX_REPLICAS_HERE, 65_536)):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=config.connect_timeout_s).close()
        except OSError:
            continue
        target = f"127.0.0.1:{port}"
        answer = ask_health(target, spec.health_service, timeout_s=config.probe_timeout_s)
        # The next ports may be another skill's: there only who says that it is this one is taken for it.
        if answer.serving and (port == spec.port or answer.skill == spec.name):
            found.append(AddressReplica(target, "container" if answer.in_container else "running"))
    return found
