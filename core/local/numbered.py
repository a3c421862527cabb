"""The equal local servers of a skill, by their numbers: a program starts number 0, an autoscaler the others too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.local.lifeline import is_read
from core.local.process import server_environment
from core.local.rundir import RunDir, numbered, share_key
from core.rpc.health import check_serving

if TYPE_CHECKING:
    from core.config import PoolConfig
    from core.skill import SkillSpec

MOST = 32
"""Most equal servers; each look costs a microsecond for each of them."""


class NumberedServers:
    """Finds out which of them run.

    Args:
        spec: The skill.
        config: The settings.
    """

    def __init__(self, spec: SkillSpec, config: PoolConfig) -> None:
        self._spec, self._timeout_s = spec, config.probe_timeout_s
        first = RunDir(share_key(spec, server_environment()))
        self._first = first.socket
        self._dirs = [first.path.with_name(numbered(first.path.name, n)) for n in range(MOST)]
        self._served: set[int] = set()

    def running(self) -> list[int]:
        """Return the numbers of those that run, whether or not they serve yet. Takes microseconds."""
        return [n for n, path in enumerate(self._dirs) if is_read(path / "lifeline")]

    def targets(self) -> tuple[str, ...]:
        """Return the addresses that a program may call: number 0, which it starts itself, and others that serve."""
        running = [n for n in self.running() if n]
        self._served.intersection_update(running)
        for number in running:
            if number not in self._served and self._serves(number):
                self._served.add(number)
        return (f"unix:{self._first}", *(self.target(n) for n in running if n in self._served))

    def target(self, number: int) -> str:
        """Return the address of one of them."""
        return f"unix:{self._dirs[number] / self._first.name}"

    def _serves(self, number: int) -> bool:
        path = self._dirs[number] / self._first.name
        return path.exists() and check_serving(
            self.target(number), self._spec.health_service, timeout_s=self._timeout_s
        )
