"""What can happen to a replica: each fault breaks it, lasts as long as its `with`, and mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from tests.chaos.replicas import Replica

Fault = Callable[[Replica], AbstractContextManager[None]]


@contextmanager
def crash(replica: Replica) -> Iterator[None]:
    """kill -9, away for a while, started again."""
    replica.kill()
    yield
    replica.start()


@contextmanager
def crash_and_start(replica: Replica) -> Iterator[None]:
    """kill -9, and started again at once."""
    replica.kill()
    replica.start()
    yield


@contextmanager
def engine_crash(replica: Replica) -> Iterator[None]:
    """The server goes on and gets itself another engine."""
    replica.kill_engine()
    yield


@contextmanager
def pause(replica: Replica) -> Iterator[None]:
    """SIGSTOP, later SIGCONT: connections stay, and nobody answers on them."""
    replica.pause()
    yield
    replica.resume()


@contextmanager
def restart(replica: Replica) -> Iterator[None]:
    """SIGTERM, so that it drains, and then started again."""
    replica.terminate()
    replica.start()
    yield


@contextmanager
def cut_off(replica: Replica) -> Iterator[None]:
    """Off the network, and back."""
    replica.cut_off()
    yield
    replica.connect()


@contextmanager
def stall(replica: Replica) -> Iterator[None]:
    """The network holds everything back, and then lets all of it through."""
    replica.proxy.stall()
    yield
    replica.proxy.heal()


@contextmanager
def reset(replica: Replica) -> Iterator[None]:
    """All connections are reset; new ones are fine."""
    replica.proxy.reset()
    yield


@contextmanager
def refuse(replica: Replica) -> Iterator[None]:
    """All connections are reset, and new ones refused."""
    replica.proxy.refuse()
    yield
    replica.proxy.heal()


@contextmanager
def one_byte_slices(replica: Replica) -> Iterator[None]:
    """All that goes through the network comes byte by byte."""
    replica.proxy.slice()
    yield
    replica.proxy.heal()


@contextmanager
def delay_100_ms(replica: Replica) -> Iterator[None]:
    """Each way."""
    replica.proxy.delay(0.1)
    yield
    replica.proxy.heal()


@contextmanager
def delay_1000_ms(replica: Replica) -> Iterator[None]:
    """Each way."""
    replica.proxy.delay(1.0)
    yield
    replica.proxy.heal()


FAULTS: tuple[Fault, ...] = (
    crash, crash_and_start, engine_crash, pause, restart, cut_off, stall, reset, refuse, one_byte_slices, delay_100_ms,
    delay_1000_ms,
)  # fmt: skip
"""All of them. One or none at a time: two of the three replicas always serve."""
