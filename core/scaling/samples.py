"""What the policy knows, is allowed and decides. Plain data: no clock, no I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLoad:
    """What a replica says about its load: `sarai.v1.Load` and the figures of `HealthResp` that belong to it."""

    name: str
    """What identifies it as long as it lives."""
    serving: bool = True
    """Whether it takes calls: False while it starts, recovers or drains."""
    requests_running: int = 0
    requests_waiting: int = 0
    """Requests without a slot."""
    prompts_waiting: int = 0
    """Requests, with a slot or without, whose prompts are still to be read; the one that is being read counts."""
    prefill_tokens_waiting: int = 0
    """Tokens of these prompts that are still to be read."""
    work_ahead_s: float = 0.0
    """Work of all requests that it has."""
    expected_wait_s: float = 0.0
    """How long a new request would wait before its prompt is read."""
    work_arrived_s: float = 0.0
    work_done_s: float = 0.0
    total_requests: int = 0
    """Counters since its start."""
    start_s: float = 0.0
    """Seconds that its start took; 0 while unknown."""
    uptime_s: float = math.inf
    """Seconds since its start."""
    prompt_token_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The replicas of a skill at one time."""

    at_s: float
    """Seconds on any clock that never goes back."""
    replicas: tuple[ReplicaLoad, ...] = ()
    """Those that have answered. Replicas that drain are left out: they are no longer ours."""
    silent: int = 0
    """Replicas that are there, as far as is known, but did not answer this time."""
    starting: int = 0
    """Replicas that were asked for, have not failed, and do not serve yet; in `replicas` or not."""
    failed_starts: int = 0
    """Counter of starts that have failed, since any time."""
    waiting_calls: int = 0
    """Calls in the pools' own lines, which no replica has seen."""
    waiting_work_s: float = 0.0
    """Their work as far as the pools can tell; 0 if they cannot."""

    @property
    def serving(self) -> int:
        """Number of replicas that have answered and take calls."""
        return sum(each.serving for each in self.replicas)

    @property
    def there(self) -> int:
        """Number of replicas that there are, those that start included."""
        return self.serving + self.silent + self.starting


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the policy is to keep to."""

    low: int = 0
    """Fewest replicas."""
    high: int = 1000
    """Most replicas."""
    target_wait_s: float = 2.0
    """How long a request may wait before its prompt is read."""
    cores: float | None = None
    """Cores for all replicas; None for as many as it takes."""
    threads: int = 1
    """Threads of a replica, which need a core each."""
    memory_bytes: int | None = None
    """Memory for all replicas; None for as much as it takes."""
    replica_bytes: int = 0
    """Memory of a replica."""

    @property
    def cap(self) -> tuple[int, str]:
        """The most replicas that there may be, and what limits them."""
        caps = [(self.high, f"at most {self.high} are allowed")]
        if self.cores is not None:
            fit = int(self.cores / max(1, self.threads))
            caps.append((fit, f"{self.cores:g} cores are enough for {fit}"))
        if self.memory_bytes is not None and self.replica_bytes > 0:
            fit = self.memory_bytes // self.replica_bytes
            caps.append((fit, f"memory is enough for {fit}"))
        return min(caps)


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas there should be."""

    wanted: int
    why: str
    """The reason, a sentence for people."""
    load: float = 0.0
    """Offered load: replicas that would be busy all the time with what arrives."""
    full: bool = False
    """Whether more replicas would bring nothing here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a sample says about all replicas together."""

    at_s: float
    there: int
    """Replicas, those that start included."""
    answered: int
    silent: int
    starting: int
    serving: int
    reading: int
    """Replicas that read a prompt; of those without figures, that do anything."""
    late: int
    """Requests whose wait is over the target; each is worth one more replica at most."""
    backlog_s: float
    start_s: float
    """Seconds that a start takes; 0 while unknown."""
    figures: bool
    """Whether any replica says what its work costs."""

    @property
    def saturated(self) -> bool:
        """Whether all replicas read, and requests wait."""
        return 0 < self.serving == self.reading and self.late > 0


def look(sample: Sample, limits: Limits) -> Seen:
    """Sum up a sample."""
    serving = reading = 0
    late, backlog_s, figures = sample.waiting_calls, sample.waiting_work_s, False
    for each in sample.replicas:
        prompts, waiting = each.prompts_waiting, each.requests_waiting
        if each.prompt_token_ms:
            figures, reads = True, prompts + waiting > 0
        else:
            reads = each.requests_running + waiting > 0
        serving += each.serving
        reading += each.serving and reads
        backlog_s += each.work_ahead_s
        if prompts > 1:
            wait_s = each.prefill_tokens_waiting * each.prompt_token_ms / 1000 * (1 - 1 / prompts)
            late += (prompts - 1) * (wait_s > limits.target_wait_s)
        elif each.expected_wait_s > limits.target_wait_s:
            late += waiting
    starts_s = [each.start_s for each in sample.replicas if each.start_s > 0]
    return Seen(
        at_s=sample.at_s, there=serving + sample.silent + sample.starting, answered=len(sample.replicas),
        silent=sample.silent, starting=sample.starting, serving=serving, reading=reading, late=late,
        backlog_s=backlog_s, start_s=median(starts_s) if starts_s else 0.0, figures=figures,
    )  # fmt: skip
