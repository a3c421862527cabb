"""The server of a replica: at a configured address, found on this host, or a local process."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

Origin = Literal["address", "container", "running", "embedded"]
"""An address that was set; a server found at the skill's ports on this host that reports that it runs in a container,
or does not; a local process of the pool."""


class Backend(Protocol):
    """What stands behind a replica: an address, or a local process."""

    lost: bool
    """Whether the last call found no server there."""

    @property
    def log(self) -> Path | None:
        """File that the server logs to, if known here."""

    @property
    def pid(self) -> int | None:
        """Process id of the server, if known here."""

    @property
    def restarts(self) -> int:
        """Number of restarts because it had ended unexpectedly."""

    @property
    def origin(self) -> Origin:
        """Where the replica comes from."""

    @property
    def target(self) -> str:
        """Its address, which never changes."""

    def is_ready(self) -> bool:
        """Return whether `ready` would return at once. Takes microseconds."""

    def ready(self, timeout_s: float) -> None:
        """Wait until the replica can be called, and start its process if that is a local one that does not run.

        Args:
            timeout_s: How long the caller can wait, seconds.

        Raises:
            SkillStartError: It did not start.
            DeadlineError: It is still starting after that time.
            PoolClosedError: The pool is closed.
        """

    def begin_use(self) -> None:
        """Note that a call begins, before `ready`. Takes microseconds."""

    def end_use(self) -> None:
        """Note that a call has ended."""

    def close(self) -> None:
        """Stop what was started for it. Idempotent."""


class AddressReplica:
    """A server at an address, which is neither started nor stopped from here."""

    def __init__(self, target: str, origin: Origin) -> None:
        self.target = target
        self.origin: Origin = origin
        self.lost = False
        self.log: Path | None = None
        self.pid: int | None = None
        self.restarts = 0

    def is_ready(self) -> bool:
        """Return True: only a call shows whether it answers."""
        return True

    def ready(self, timeout_s: float) -> None:
        """Return at once."""

    def begin_use(self) -> None:
        """Do nothing."""

    def end_use(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing: the server is not a local process of the pool."""
