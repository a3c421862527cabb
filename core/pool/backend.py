"""What stands behind a replica: an address that was set, a server found on this host, or a local process."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

Origin = Literal["address", "container", "running", "embedded"]
"""An address that was set; a server found at the skill's port on this host, which says that it is in a container, or
does not; a local process of the pool's."""


class Backend(Protocol):
    """What stands behind a replica: an address, or a process of ours."""

    lost: bool
    """Whether the last call found nobody there."""

    @property
    def log(self) -> Path | None:
        """The file that the server's log goes to, where that is known here."""

    @property
    def pid(self) -> int | None:
        """The server's process, where that is known here."""

    @property
    def restarts(self) -> int:
        """How often it was started again because it had ended unasked."""

    @property
    def origin(self) -> Origin:
        """Where it comes from."""

    @property
    def target(self) -> str:
        """Its address, the same for as long as the replica is used."""

    def is_ready(self) -> bool:
        """Whether `ready` would return at once. Takes microseconds."""

    def ready(self, timeout_s: float) -> None:
        """Returns when the replica may be called: starts its process where that is ours and has ended.

        Args:
            timeout_s: how long the caller can wait, seconds.

        Raises:
            SkillStartError: it did not come up.
            DeadlineError: it is not up yet, and the caller can wait no longer.
            PoolClosedError: the pool was closed.
        """

    def begin_use(self) -> None:
        """A call goes there. Before `ready`; takes microseconds."""

    def end_use(self) -> None:
        """The call is over."""

    def close(self) -> None:
        """Stops what was started for it. Again does nothing."""


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
