"""What every call of a client goes by, sync or async: its deadline, its attempts, and the names of its methods."""

from __future__ import annotations

import math
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from core.answer_so_far import AnswerSoFar
from core.errors import CallCancelledError, CallError, DeadlineError, PoolClosedError, SaraiError, SkillFailedError
from core.quiet_grpc import grpc
from core.replicas import Lease, Member, ReplicaSet
from core.replicas.affinity import conversation_keys
from core.rpc_status import call_error, initial_metadata

if TYPE_CHECKING:
    from core.backends import Origin
    from core.replicas.stats import CallStats
    from skills import skills_pb2

Metadata = Sequence[tuple[str, str | bytes]]

ANSWERS = "GenerateStream"
"""The method whose answer can be continued: its pieces carry token ids, its requests take them."""

FEW_PIECES = ("sarai-pieces", "few")
"""Metadata that asks a server to gather the pieces of an answer: only its whole is read (skills/runtime/pieces.py)."""
HARD_DEADLINES = ("sarai-deadline", "error")
"""Initial metadata of a server for which an answer that is late is an error (skills/skill_draft/last_moment.py)."""
LOOK_AGAIN_S = 1.0
"""Whoever waits for a replica looks as often whether its client was closed."""


class Call:
    """One call and its attempts.

    Args:
        method: the stub's method.
        request: its message.
        timeout_s: the deadline of the call, seconds from now.
        caller: who takes turns with other callers where calls have to wait.
        owner: the client that makes it.
        unseen: whether the caller sees nothing of the answer before it has come whole.
    """

    def __init__(
        self,
        method: str,
        request: Any,
        timeout_s: float,
        *,
        caller: str,
        owner: object = None,
        unseen: bool = False,
    ) -> None:
        self.method = method
        self.caller = caller
        self.owner = owner
        self._unseen = unseen
        self.given_up = False
        """Whether its caller has closed it."""
        self.wake: Callable[[], None] = _nobody
        """Wakes whoever waits for a replica for it, from any thread."""
        self.conversation = conversation_keys(request)
        self.answer = AnswerSoFar(request) if method == ANSWERS else None
        self.attempts = 0
        self.received = False
        """Whether a piece has come."""
        self.last_member: Member | None = None
        self.last_error: CallError | None = None
        self.tried: dict[str, str] = {}
        """What went wrong, by target."""
        self.breaks: list[tuple[Member, int]] = []
        """The replicas that broke while they worked on it, and how often each had been gone by then."""
        self.failing_since_s: float | None = None
        self.not_before_s = 0.0
        self.hard_deadline = bool(getattr(request, "hard_deadline", False))
        """Whether an answer that is not whole at the deadline is an error."""
        self.out_of_time = False
        """Whether it has failed because nothing more can be done before the deadline."""
        self._request = request
        now = time.monotonic()
        self.waiting_since_s = now
        self._deadline_s = now + timeout_s

    def remaining_s(self) -> float:
        """Seconds to the deadline, 0 if it is over."""
        return max(0.0, self._deadline_s - time.monotonic())

    @property
    def can_go_on(self) -> bool:
        """Whether another attempt gives the caller what is still missing. What cannot be continued is not repeated."""
        if self.answer is None:
            return not self.received
        return self._unseen or self.answer.can_be_continued

    @property
    def is_whole(self) -> bool:
        """Whether the whole answer has come, if not yet the end of its stream."""
        return self.answer is not None and self.answer.whole

    def give_up(self) -> None:
        """Its caller does not want it any more. A wait for a replica ends at once. From any thread."""
        self.given_up = True
        self.wake()

    def begin_attempt(self, member: Member) -> None:
        """It goes to a replica."""
        self.attempts += 1
        self.last_member = member

    def next_request(self) -> Any:
        """The message for that replica."""
        return self._request if self.answer is None else self.answer.next_request()

    def note_failure(self, member: Member, error: CallError) -> None:
        """An attempt failed."""
        now = time.monotonic()
        self.last_error = error
        self.tried[member.target] = error.details()
        self.waiting_since_s = now
        self.failing_since_s = now if self.failing_since_s is None else self.failing_since_s

    def is_progress(self, chunk: Any) -> bool:
        """Whether a message says only how far the call is. For whoever waits for the first piece it is nothing."""
        return self.answer is not None and chunk is not grpc.aio.EOF and chunk.HasField("progress")

    def ended_by(self, error: CallError) -> Any:
        """The last message of an answer that its deadline has ended, with what there is of it.

        Raises:
            CallError: the given error, where that is not what has happened, or there is nothing.
        """
        over = isinstance(error, DeadlineError) or self.out_of_time
        if not over or self.hard_deadline or self.answer is None or not self.answer.has_text:
            raise error
        return self.answer.as_it_is()

    def take(self, chunk: Any) -> int:
        """A piece has come. Returns how much it is: its tokens, 1 where it does not tell."""
        self.received = True
        if self.answer is None:
            return 1
        self.answer.take(chunk)
        return len(chunk.token_ids) or 1


def _nobody() -> None: ...


class CallPath(ABC):
    """The way of calls to the replicas: what the sync and the async one have in common.

    Args:
        replicas: where the calls go.
        caller: who takes turns with other callers where calls have to wait.
    """

    def __init__(self, replicas: ReplicaSet, *, caller: str) -> None:
        self.replicas = replicas
        self.owns_replicas = False
        """Whether they end with the client."""
        self.closed = False
        self._caller = caller
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._channels: defaultdict[Any, dict[Member, tuple[int, Any, Any]]] = defaultdict(dict)
        """By where they belong."""

    def begin(self, method: str, request: Any, timeout_s: float | None, *, unseen: bool = False) -> Call:
        """A call begins; see `Call`.

        Raises:
            ValueError: the timeout is not a number of seconds.
            PoolClosedError: the client is closed, or belongs to another process.
        """
        skill, config = self.replicas.spec.name, self.replicas.config
        self.check_open()
        if os.getpid() != self._pid:
            # gRPC's threads do not live on after a fork: the call would hang.
            raise PoolClosedError(
                f"the client of skill {skill!r} belongs to process {self._pid}; "
                f"this is process {os.getpid()}: ask get_model_pool() for a new one"
            )
        if timeout_s is None:
            timeout_s = config.health_timeout_s if method == "Health" else config.call_timeout_s
        if not (math.isfinite(timeout_s) and timeout_s >= 0):
            raise ValueError(f"timeout must be a finite number of seconds from 0 on, not {timeout_s!r}")
        return Call(method, request, timeout_s, caller=self._caller, owner=self, unseen=unseen)

    def for_the_whole(self, metadata: Metadata | None) -> Metadata:
        """The metadata of an answer whose pieces nobody looks at, unless its first one is to come soon for a hedge."""
        return (*(metadata or ()), *(() if self.replicas.config.hedge_s else (FEW_PIECES,)))

    def check_open(self) -> None:
        """Raises `PoolClosedError` where the client is closed."""
        if self.closed:
            skill = self.replicas.spec.name
            raise PoolClosedError(f"the client of skill {skill!r} is closed; get another one from the pool")

    def stub_of(self, member: Member) -> Any:
        """The skill's stub over a channel to a replica."""
        return self._connection(member)[1]

    def channel_to(self, member: Member) -> Any:
        """That channel."""
        return self._connection(member)[0]

    def _connection(self, member: Member) -> tuple[Any, Any]:
        with self._lock:
            channels = self._channels[self._home()]
            generation, channel, stub = channels.get(member, (-1, None, None))
            if generation != member.generation:
                self.check_open()
                channel = self._open(member.target)
                stub = self.replicas.spec.stub(channel)
                channels[member] = (member.generation, channel, stub)
            return channel, stub

    def take_idle_channels(self, *, every: bool = False) -> list[Any]:
        """Forgets the channels to replicas that are gone, or every channel of here; gives them, for closing."""
        with self._lock:
            channels = self._channels[self._home()]
            idle = [member for member in channels if every or (member.leaving and not member.leases)]
            return [channels.pop(member)[1] for member in idle]

    def _home(self) -> Any:
        """Where the channels of this caller belong."""
        return None

    def attempt_failed(self, lease: Lease, error: grpc.RpcError) -> None:
        """Returns where the call is to be tried again; raises what the caller gets where it is not."""
        if isinstance(error, SaraiError):  # ours already: the replica's own process did not come up, for example
            raise error
        if HARD_DEADLINES in initial_metadata(error):
            lease.call.hard_deadline = True
        ours = call_error(error, skill=self.replicas.spec.name, target=lease.member.target)
        # It may be raised later, when nobody has come to go on with the call. Until then its traceback would hold the
        # stream, which could not be forgotten.
        ours.__cause__ = error.with_traceback(None)
        if self.closed and isinstance(ours, CallCancelledError):
            raise ours
        self.replicas.failed(lease, ours)

    def rival_failed(self, rival: Lease, error: grpc.RpcError) -> None:
        """Another replica that was asked as well has failed."""
        if not isinstance(error, SaraiError):
            ours = call_error(error, skill=self.replicas.spec.name, target=rival.member.target)
            self.replicas.rival_failed(rival, ours)

    def conclude(self, lease: Lease) -> None:
        """A stream has ended. Raises where that was without the whole answer: a silent cut is a failure."""
        answer = lease.call.answer
        if answer is not None and not answer.whole:
            raise SkillFailedError(
                code=grpc.StatusCode.DATA_LOSS,
                details="the stream ended without the whole answer in its last message",
                skill=self.replicas.spec.name,
                target=lease.member.target,
            )
        self.replicas.succeeded(lease)

    @abstractmethod
    def _open(self, target: str) -> Any: ...


class ClientFace(ABC):
    """What the sync and the async client have in common: who they are, and the methods of the stub by name."""

    _path: CallPath

    @property
    def skill(self) -> str:
        """The skill's name."""
        return self._path.replicas.spec.name

    @property
    def target(self) -> str:
        """The address that is called; where there are several replicas, all of them with commas between."""
        return self._path.replicas.target

    @property
    def origin(self) -> Origin:
        """Where the address comes from: `address` (it was set), `running`, `container` (found) or `embedded`."""
        return self._path.replicas.origin

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._path.closed

    def stats(self) -> CallStats:
        """What was done for the calls to this skill, by all clients of the pool."""
        return self._path.replicas.stats

    def calls(self, replicas: ReplicaSet) -> bool:
        """Whether these are the replicas that the client calls."""
        return self._path.replicas is replicas

    def __getattr__(self, method: str) -> Callable[..., Any]:
        """Any other method of the skill's stub that takes one request."""
        if not method.startswith("_"):
            stub_method = getattr(self._path.stub_of(self._path.replicas.members[0]), method, None)
            if isinstance(stub_method, (grpc.UnaryUnaryMultiCallable, grpc.aio.UnaryUnaryMultiCallable)):
                return partial(_with_positions, self._unary, method)
            if isinstance(stub_method, (grpc.UnaryStreamMultiCallable, grpc.aio.UnaryStreamMultiCallable)):
                return partial(_with_positions, self._stream, method)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {method!r}")

    @abstractmethod
    def _unary(self, method: str, request: Any, timeout: float | None, metadata: Metadata | None) -> Any: ...

    @abstractmethod
    def _stream(self, method: str, request: Any, timeout: float | None, metadata: Metadata | None) -> Any: ...

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.skill} at {self.target} ({self.origin})>"


def result_of(chunk: skills_pb2.GenChunk) -> skills_pb2.GenResp | None:
    """The whole answer, if this is the last chunk."""
    return chunk.result if chunk.HasField("result") else None


def _with_positions(
    call: Callable[..., Any], method: str, request: Any, timeout: float | None = None, metadata: Metadata | None = None
) -> Any:
    """Takes the arguments of a stub's method, by position or by name."""
    return call(method, request, timeout, metadata)
