"""Read the load of replicas that a DNS name lists."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core.pool.targets import look_up, names_many
from core.rpc import grpc, open_channel
from core.scaling.samples import ReplicaLoad
from skills.wire import Reason

if TYPE_CHECKING:
    from core.skill import SkillSpec

_ANSWER_S = 1.0
SERVES = ("SERVING", "RECOVERING")
"""What a replica that takes calls says; one that gets a new engine keeps them."""
DRAINS = Reason.DRAINING
"""What one that goes away says: the word by which it refuses calls too."""
# Another name server may know better, or this one a moment later: the name is not said to be unknown.
_NO_ANSWER = (socket.EAI_AGAIN, socket.EAI_FAIL)


class NoDataError(Exception):
    """It cannot be told which replicas there are; that is not to say that there are none."""


def replica_load(name: str, health: Any) -> ReplicaLoad:
    """Return what a `HealthResp` says about a replica's load."""
    load = health.load
    return ReplicaLoad(
        name=name,
        serving=health.status in SERVES,
        requests_running=health.active_requests,
        requests_waiting=health.queued_requests,
        prompts_waiting=load.prompts_waiting,
        prefill_tokens_waiting=load.prefill_tokens_waiting,
        work_ahead_s=load.work_ahead_s,
        expected_wait_s=load.expected_wait_s,
        work_arrived_s=load.work_arrived_s,
        work_done_s=load.work_done_s,
        total_requests=health.total_requests,
        idle_s=load.idle_s,
        start_s=load.start_s,
        uptime_s=health.uptime_s,
        prompt_token_ms=load.prompt_token_ms,
        output_token_ms=load.output_token_ms,
    )


@dataclass(frozen=True, slots=True)
class Readings:
    """What replicas have answered at one time."""

    replicas: tuple[ReplicaLoad, ...] = ()
    silent: int = 0
    """Replicas that did not answer."""


@dataclass(slots=True)
class _Asked:
    channel: grpc.Channel
    stub: Any = field(repr=False)


class LoadReader:
    """Finds a skill's replicas and asks all of them for their health. For one thread.

    Args:
        spec: The skill.
        targets: Where its replicas are: `dns:///name:port`, or addresses.
    """

    def __init__(self, spec: SkillSpec, targets: Sequence[str]) -> None:
        self._spec, self._targets = spec, tuple(targets)
        self._asked: dict[str, _Asked] = {}

    def read(self) -> Readings:
        """Return the load of all replicas; it takes a second at most.

        Raises:
            NoDataError: A name cannot be looked up.
        """
        from skills.skills_pb2 import HealthReq

        addresses = self._look()
        for gone in self._asked.keys() - addresses.keys():
            self._asked.pop(gone).channel.close()
        until_s = time.monotonic() + _ANSWER_S
        calls = {address: self._at(address).stub.Health.future(HealthReq(), timeout=_ANSWER_S) for address in addresses}
        found, silent = [], 0
        for address, call in calls.items():
            try:
                health = call.result(timeout=max(0.0, until_s - time.monotonic()))
            except (grpc.RpcError, grpc.FutureTimeoutError):
                call.cancel()
                # One at an address that is written down may not have been started; one that a name lists is there.
                silent += addresses[address]
                continue
            if health.status != DRAINS:
                found.append(replica_load(address, health))
        return Readings(tuple(found), silent)

    def close(self) -> None:
        """Close the connections."""
        for asked in self._asked.values():
            asked.channel.close()
        self._asked.clear()

    def _look(self) -> dict[str, bool]:
        """Return the addresses of all replicas, and whether a name lists them."""
        found: dict[str, bool] = {}
        for target in self._targets:
            try:
                found |= dict.fromkeys(look_up(target), names_many(target))
            except OSError as error:
                if error.errno in _NO_ANSWER:
                    raise NoDataError(f"no name server answers for {target}: {error}") from error
        return found

    def _at(self, address: str) -> _Asked:
        if address not in self._asked:
            channel = open_channel(address)
            self._asked[address] = _Asked(channel, self._spec.stub(channel))
        return self._asked[address]
