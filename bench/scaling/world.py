"""A skill in virtual time: calls arrive, the pool sends them to replicas, and a scaler starts and drains those."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any, Protocol

import numpy as np
import simpy

from bench.scaling.loads import Load
from bench.scaling.outcome import Faults, Outcome
from bench.scaling.pool import Pool
from bench.scaling.replicas import OUTPUT_TOKEN_S, PROMPT_TOKEN_S, Replica, Request
from core.pool.state import TICK_S
from core.scaling.samples import ReplicaLoad, Sample

POOL_SEES_S = 0.25
"""The pool looks for new replicas twice a second."""
GRACE_S = 10.0
"""How long a replica that drains finishes what it has, before the rest goes on elsewhere."""


class Scaler(Protocol):
    """Decides how many replicas there should be."""

    tick_s: float

    def wanted(self, world: World) -> int:
        """Return how many replicas, including those that start."""
        ...


class World:
    """A run; `outcome` runs it to the end."""

    def __init__(
        self,
        load: Load,
        scaler: Scaler,
        *,
        start_s: float = 2.0,
        faults: Faults | None = None,
        initial: int = 1,
        most: int = 10_000,
        seed: int = 1,
    ) -> None:
        self.env = simpy.Environment()
        self.load, self.scaler, self.start_s, self.most = load, scaler, start_s, most
        self.faults = faults or Faults()
        self.random = np.random.default_rng(seed)
        self.pool = Pool()
        self.moved: set[int] = set()
        self.serving: list[Replica] = []
        self.starting: list[Replica] = []
        self.draining: list[Replica] = []
        self.by_place: dict[int, Replica] = {}
        self.line: list[Request] = []
        self.failed_starts = 0
        self.cost_s = 0.0
        self.starts = 0
        self.lives_s: list[float] = []
        self.ticks: list[tuple[float, float, float, float]] = []
        self.seen_load = math.nan
        self.left = len(load.at_s)
        self.mean_answer = float(load.answer.mean())
        self.mean_prompt = float(load.prompt.mean())
        self.requests = [
            Request(float(at), int(prompt), int(answer), number)
            for number, (at, prompt, answer) in enumerate(zip(load.at_s, load.prompt, load.answer, strict=True))
        ]
        self._old: list[tuple[float, tuple[ReplicaLoad, ...]]] = []
        for _ in range(initial):
            self._serve(self._new(), at_once=True)

    @property
    def now(self) -> float:
        """The time, seconds."""
        return float(self.env.now)

    def _after(self, seconds: float, act: Callable[[Any], None], what: Any) -> None:
        event = self.env.timeout(seconds, what)
        assert event.callbacks is not None
        event.callbacks.append(lambda _: act(what))

    # --- calls ---

    def outcome(self, tail_s: float = 0.0) -> Outcome:
        """Run until the last request has its answer, and `tail_s` longer."""
        self.env.process(self._arrivals())
        self.env.process(self._scaling())
        self.env.process(self._moving())
        for every_s, fault in ((self.faults.death_every_s, self._die), (self.faults.reset_every_s, self._reset)):
            if every_s < math.inf:
                self.env.process(self._now_and_then(every_s, fault))
        self.done = self.env.event()
        end = self.env.any_of([self.done, self.env.timeout(self.load.span_s + 3600)])
        self.env.run(until=end)
        if tail_s:
            self.env.run(until=max(self.now, self.load.span_s) + tail_s)
        for each in (*self.serving, *self.starting, *self.draining):
            self.cost_s += self.now - each.asked_s
        return Outcome(
            self.load, self.requests, self.cost_s, self.starts, self.lives_s, np.array(self.ticks),
            getattr(self.scaler, "whys", []),
        )  # fmt: skip

    def _arrivals(self) -> Generator[Any, Any, None]:
        for request in self.requests:
            if request.at_s > self.now:
                yield self.env.timeout(request.at_s - self.now)
            self._send(request)

    def _send(self, request: Request) -> None:
        now = self.now
        place = self.pool.choose(now)
        if place < 0:
            self.line.append(request)
            return
        self._send_to(self.by_place[place], request)

    def _send_to(self, replica: Replica, request: Request) -> None:
        now = self.now
        self.pool.begin(replica.index, request.number, now)
        replica.advance(now)
        tokens = request.prompt + (request.answer - request.left if request.moves else 0.0)
        left = request.left if request.moves and request.left else self.mean_answer
        replica.arrived_s += (PROMPT_TOKEN_S * tokens + OUTPUT_TOKEN_S * left) / replica.speed
        replica.add(request)
        self._schedule(replica)

    def _schedule(self, replica: Replica) -> None:
        replica.version += 1
        seconds = replica.next_s()
        if seconds < math.inf:
            self._after(seconds, self._on_replica, (replica, replica.version))

    def _on_replica(self, due: tuple[Replica, int]) -> None:
        replica, version = due
        if version != replica.version:
            return
        now = self.now
        replica.advance(now)
        read, over = replica.finish(now)
        for request in read:
            self.pool.hear(replica.index, request.number)
        for request in over:
            wait_s = (request.first_s if not request.moves else now) - request.at_s
            self.pool.end(
                replica.index, request.number, now, seconds=now - request.at_s, tokens=request.answer, wait_s=wait_s
            )  # fmt: skip
            self.left -= 1
        if not self.left and not self.done.triggered:
            self.done.succeed()
        if replica.draining and not replica.load:
            self._gone(replica)
            return
        self._schedule(replica)

    # --- replicas ---

    def _scaling(self) -> Generator[Any, Any, None]:
        while True:
            wanted = min(self.most, self.scaler.wanted(self))
            there = len(self.serving) + len(self.starting)
            for _ in range(wanted - there):
                self._start()
            for _ in range(there - wanted):
                self._drain()
            self.ticks.append((self.now, max(wanted, 0), len(self.serving), self.seen_load))
            yield self.env.timeout(self.scaler.tick_s)

    def _new(self) -> Replica:
        self.starts += 1
        speed = 0.5 if self.faults.slow and self.starts % 2 == 0 else 1.0
        return Replica(f"r{self.starts}", self.now, speed, at_s=self.now)

    def _start(self) -> None:
        replica = self._new()
        self.starting.append(replica)
        self._after(self.start_s, self._on_started, replica)

    def _on_started(self, replica: Replica) -> None:
        if replica not in self.starting:
            return
        self.starting.remove(replica)
        if self.random.random() < self.faults.failed_starts:
            self.failed_starts += 1
            self._charge(replica)
        else:
            self._serve(replica)

    def _serve(self, replica: Replica, *, at_once: bool = False) -> None:
        replica.idle_since_s = replica.at_s = self.now
        self.serving.append(replica)
        if at_once:
            self._join(replica)
        else:
            self._after(POOL_SEES_S, self._join, replica)

    def _join(self, replica: Replica) -> None:
        if replica not in self.serving:
            return
        replica.index = self.pool.join()
        self.by_place[replica.index] = replica
        line, self.line = self.line, []
        for request in line:
            self._send(request)

    def _moving(self) -> Generator[Any, Any, None]:
        """Send prompts that wait behind others to replicas that read none, as the pool does."""
        while True:
            yield self.env.timeout(TICK_S)
            while (found := self.pool.misplaced(self.now, self.moved)) is not None:
                key, at, better = found
                self.moved.add(key)
                old = self.by_place[at]
                old.advance(self.now)
                request = old.give(key)
                self.pool.lose(at, key)
                self._schedule(old)
                self._send_to(self.by_place[better], request)

    def _drain(self) -> None:
        """Take away a replica: one that still starts, else the idlest."""
        if self.starting:
            self._charge(self.starting.pop())
            return
        if not self.serving:
            return
        now = self.now
        replica = min(self.serving, key=lambda each: (each.load, -(now - each.idle_since_s) if not each.load else 0.0))
        self.serving.remove(replica)
        self.lives_s.append(now - replica.asked_s)
        replica.draining = True
        if replica.index >= 0:
            self.pool.close(replica.index)
        self.draining.append(replica)
        if not replica.load:
            self._gone(replica)
            return
        self._after(GRACE_S, self._on_grace_over, replica)

    def _on_grace_over(self, replica: Replica) -> None:
        if replica in self.draining:
            self._move_all(replica)
            self._gone(replica)

    def _move_all(self, replica: Replica) -> None:
        replica.advance(self.now)
        replica.version += 1
        for request in replica.take_all():
            self.pool.lose(replica.index, request.number)
            self._send(request)

    def _gone(self, replica: Replica) -> None:
        if replica in self.draining:
            self.draining.remove(replica)
        self._charge(replica)
        replica.gone_s = self.now
        if replica.index >= 0:
            del self.by_place[replica.index]
            self.pool.leave(replica.index)

    def _charge(self, replica: Replica) -> None:
        self.cost_s += self.now - replica.asked_s

    # --- faults ---

    def _now_and_then(self, every_s: float, fault: Any) -> Generator[Any, Any, None]:
        while True:
            yield self.env.timeout(self.random.exponential(every_s))
            if self.serving:
                fault(self.serving[self.random.integers(len(self.serving))])

    def _die(self, replica: Replica) -> None:
        self.serving.remove(replica)
        if replica.index >= 0:
            self.pool.close(replica.index)
            self._move_all(replica)
        self._gone(replica)

    def _reset(self, replica: Replica) -> None:
        replica.arrived_s = replica.done_s = 0.0
        replica.requests = 0
        replica.report = None

    # --- what a scaler sees ---

    def sample(self) -> Sample:
        """Return what our scaler sees now."""
        now = self.now
        replicas = tuple(self._report(each) for each in self.serving)
        silent = 0
        if self.faults.stale_s:
            self._old.append((now, replicas))
            while len(self._old) > 1 and self._old[1][0] <= now - self.faults.stale_s:
                del self._old[0]
            there = {each.name for each in self.serving}
            replicas = tuple(each for each in self._old[0][1] if each.name in there)
            silent = len(there) - len(replicas)
        work_s = PROMPT_TOKEN_S * sum(each.prompt for each in self.line) + (
            OUTPUT_TOKEN_S * self.mean_answer * len(self.line)
        )
        return Sample(
            at_s=now, replicas=replicas, silent=silent, starting=len(self.starting), failed_starts=self.failed_starts,
            waiting_calls=len(self.line), waiting_work_s=work_s,
        )  # fmt: skip

    def _report(self, replica: Replica) -> ReplicaLoad:
        if replica.report is not None and replica.reported == replica.version and not replica.load:
            return replica.report  # nothing but its idle time has changed
        now = self.now
        replica.advance(now)
        to_read, load, speed = 0.0, replica.load, replica.speed
        for each in replica.prompts:
            to_read += each.to_read
        for each in replica.queue:
            to_read += each.prompt
        replica.reported = replica.version
        replica.report = ReplicaLoad(
            name=replica.name,
            requests_running=len(replica.prompts) + len(replica.streams),
            requests_waiting=len(replica.queue),
            prompts_waiting=len(replica.prompts) + len(replica.queue),
            prefill_tokens_waiting=int(to_read),
            work_ahead_s=(PROMPT_TOKEN_S * to_read + OUTPUT_TOKEN_S * self.mean_answer * load) / speed,
            expected_wait_s=replica.expected_wait_s(self.mean_prompt) if replica.queue else 0.0,  # else of no use
            work_arrived_s=replica.arrived_s,
            work_done_s=replica.done_s / speed,
            total_requests=replica.requests,
            start_s=self.start_s,
            uptime_s=now - replica.asked_s,
            prompt_token_ms=PROMPT_TOKEN_S * 1000 / speed,
        )
        return replica.report


def run(load: Load, scaler: Scaler, **options: Any) -> Outcome:
    """Run a load with a scaler."""
    return World(load, scaler, **options).outcome()
