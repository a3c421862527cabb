"""Ask replicas for their load, all at once, and look up those that a DNS name lists."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from core.pool.targets import look_up, names_many
from core.rpc import grpc, open_channel
from core.scaling.samples import ReplicaLoad, Sample
from skills.wire import Reason

if TYPE_CHECKING:
    from core.skill import SkillSpec
    from skills import skills_pb2

_log = logging.getLogger(__name__)

_ANSWER_S = 1.0
SERVES = ("SERVING", "RECOVERING")
"""What a replica that takes calls says; one that gets a new engine keeps them."""
DRAINS = Reason.DRAINING
"""What one that goes away says: the word by which it refuses calls too."""
# Another name server may know better, or this one a moment later: the name is not said to be unknown.
_NO_ANSWER = (socket.EAI_AGAIN, socket.EAI_FAIL)
_MOST = 1e12
"""No true figure is above that. One false figure would be in the policy's sums for good: NaN plus anything is NaN."""


class NoDataError(Exception):
    """It cannot be told which replicas there are; that is not to say that there are none."""


def replica_load(name: str, health: skills_pb2.HealthResp) -> ReplicaLoad:
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
        start_s=load.start_s,
        uptime_s=health.uptime_s,
        prompt_token_ms=load.prompt_token_ms,
    )


def _can_be_true(health: skills_pb2.HealthResp) -> bool:
    figures = (
        health.ram_mb, health.uptime_s, health.total_requests, health.active_requests, health.queued_requests,
        *(value for _, value in health.load.ListFields()),
    )  # fmt: skip
    return all(0 <= figure <= _MOST for figure in figures)


class HealthReader:
    """Asks replicas for their health. For one thread.

    Args:
        spec: Their skill.
    """

    def __init__(self, spec: SkillSpec) -> None:
        self._spec = spec
        self._asked: dict[str, tuple[grpc.Channel, Any]] = {}
        self._doubted = set[str]()

    def ask(self, addresses: Collection[str]) -> dict[str, skills_pb2.HealthResp | None]:
        """Return what each replica answers within a second; None: nothing, or figures that cannot be true."""
        from skills.skills_pb2 import HealthReq

        for gone in self._asked.keys() - set(addresses):
            self._asked.pop(gone)[0].close()
            self._doubted.discard(gone)
        calls = {address: self._stub(address).Health.future(HealthReq(), timeout=_ANSWER_S) for address in addresses}
        return {address: self._answer(address, call) for address, call in calls.items()}

    def _stub(self, address: str) -> Any:
        if address not in self._asked:
            channel = open_channel(address)
            self._asked[address] = channel, self._spec.stub(channel)
        return self._asked[address][1]

    def _answer(self, address: str, call: grpc.Future[skills_pb2.HealthResp]) -> skills_pb2.HealthResp | None:
        try:
            health = call.result()
        except grpc.RpcError as error:
            _log.debug("%s does not answer: %s", address, error)
            return None
        if _can_be_true(health):
            return health
        if address not in self._doubted:
            self._doubted.add(address)
            _log.warning("%s reports figures that cannot be true, and counts as silent", address)
        return None

    def close(self) -> None:
        """Close the connections."""
        for channel, _ in self._asked.values():
            channel.close()
        self._asked.clear()


class LoadReader:
    """Finds a skill's replicas and asks all of them for their load. For one thread.

    Args:
        spec: The skill.
        targets: Where its replicas are: `dns:///name:port`, or addresses.
    """

    def __init__(self, spec: SkillSpec, targets: Sequence[str]) -> None:
        self._targets, self._health = tuple(targets), HealthReader(spec)
        self.close = self._health.close

    def read(self) -> Sample:
        """Return the load of all replicas.

        Raises:
            NoDataError: A name cannot be looked up.
        """
        addresses = self._look()
        answers = self._health.ask(addresses)
        return Sample(
            at_s=time.monotonic(),
            replicas=tuple(
                replica_load(address, health) for address, health in answers.items()
                if health is not None and health.status != DRAINS
            ),
            # One at an address that is written down may not have been started; one that a name lists is there.
            silent=sum(addresses[address] for address, health in answers.items() if health is None),
        )  # fmt: skip

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
