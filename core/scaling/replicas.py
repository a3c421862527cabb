"""Replicas as an autoscaler makes them come and go, whatever they are: processes, containers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from core.local.machine import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A replica that runs, or starts."""

    id: str
    """Identifies it as long as it lives."""
    name: str
    """For people."""
    target: str
    """Its address; empty while it has none."""
    last: bool = False
    """Whether it goes only when no other one is left."""


class Actuator(Protocol):
    """Makes replicas come and go. One thread calls it; nothing here waits for a replica."""

    @property
    def failed_starts(self) -> int:
        """Starts that have failed so far."""

    @property
    def starting(self) -> int:
        """Replicas that were asked for and are not among `replicas` yet."""

    @property
    def draining(self) -> int:
        """Replicas that drain and are not gone yet."""

    def replicas(self) -> list[Running]:
        """Return the replicas that are there, also those of other programs, except those that drain."""

    def start(self, count: int) -> None:
        """Begin to start this many more."""

    def drain(self, id_: str) -> None:
        """Tell a replica to finish its calls and end."""

    def close(self) -> None:
        """Release everything; the replicas stay."""


def usable_cores() -> list[int]:
    """Return the cores that replicas may have: this process's, or fewer where a quota allows no more at once."""
    machine = Machine.here()
    return sorted(os.sched_getaffinity(0))[: max(1, int(machine.quota + 0.01))]


def share_out(cores: Sequence[int], replicas: int) -> list[tuple[int, ...]]:
    """Divide cores among replicas: neighbours to each, as many as possible, and the same number to all.

    Two engines whose threads compete for a core are slower than one alone: llama.cpp's threads wait for one another.

    Args:
        cores: The cores.
        replicas: How many replicas there are. If there are more than cores, some share a core.
    """
    each = max(1, len(cores) // max(1, replicas))
    begins = (n * each % len(cores) for n in range(replicas))
    return [tuple(cores[begin : begin + each]) for begin in begins]


def words(cores: Iterable[int]) -> str:
    """Return cores as Docker takes them: `0,1`."""
    return ",".join(map(str, cores))
