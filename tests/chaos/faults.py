"""Faults of a replica: each one is a context manager that breaks the replica and then restores it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from tests.chaos.replicas import Replica

Fault = Callable[[Replica], AbstractContextManager[None]]


@contextmanager
def crash(replica: Replica) -> Iterator[None]:
    """Kill the server with SIGKILL, and start it again afterwards."""
    replica.kill()
    yield
    replica.start()


@contextmanager
def crash_and_start(replica: Replica) -> Iterator[None]:
    """Kill the server with SIGKILL, and start it again at once."""
    replica.kill()
    replica.start()
    yield


@contextmanager
def engine_crash(replica: Replica) -> Iterator[None]:
    """Kill the engine alone: the server keeps running and starts another one."""
    replica.kill_engine()
    yield


@contextmanager
def pause(replica: Replica) -> Iterator[None]:
    """Stop the processes, and let them continue afterwards: connections stay open, without any answer."""
    replica.pause()
    yield
    replica.resume()


@contextmanager
def restart(replica: Replica) -> Iterator[None]:
    """Terminate the server, so that it drains, and start it again."""
    replica.terminate()
    replica.start()
    yield


@contextmanager
def cut_off(replica: Replica) -> Iterator[None]:
    """Disconnect the replica from the network, and connect it again afterwards."""
    replica.cut_off()
    yield
    replica.connect()


@contextmanager
def stall(replica: Replica) -> Iterator[None]:
    """Hold all traffic back, and let all of it through afterwards."""
    replica.proxy.stall()
    yield
    replica.proxy.heal()


@contextmanager
def reset(replica: Replica) -> Iterator[None]:
    """Reset all connections; new ones work."""
    replica.proxy.reset()
    yield


@contextmanager
def refuse(replica: Replica) -> Iterator[None]:
    """Reset all connections, and refuse new ones."""
    replica.proxy.refuse()
    yield
    replica.proxy.heal()


@contextmanager
def one_byte_slices(replica: Replica) -> Iterator[None]:
    """Deliver all traffic byte by byte."""
    replica.proxy.slice()
    yield
    replica.proxy.heal()


@contextmanager
def delay_100_ms(replica: Replica) -> Iterator[None]:
    """Delay traffic in each direction by 100 ms."""
    replica.proxy.delay(0.1)
    yield
    replica.proxy.heal()


@contextmanager
def delay_1000_ms(replica: Replica) -> Iterator[None]:
    """Delay traffic in each direction by 1000 ms."""
    replica.proxy.delay(1.0)
    yield
    replica.proxy.heal()


FAULTS: tuple[Fault, ...] = (
    crash, crash_and_start, engine_crash, pause, restart, cut_off, stall, reset, refuse, one_byte_slices, delay_100_ms,
    delay_1000_ms,
)  # fmt: skip
"""All faults. At most one is active at a time, so two of the three replicas always serve."""
