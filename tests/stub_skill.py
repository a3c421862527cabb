"""A small real skill for tests: a SkillsService over a real socket whose answers are scripted.

In the test's process:

    with StubSkill(["a draft", Failure(grpc.StatusCode.UNAVAILABLE), "a correction"]) as skill:
        channel = grpc.insecure_channel(skill.target)
        ...
        assert skill.requests[0].prompt == "..."

As a process of its own, also as the `serve` command of a test plugin:

    python -m tests.stub_skill --listen unix:/tmp/s --lifeline --reply "a draft"
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from skills import skills_pb2, skills_pb2_grpc
from skills.runtime.pieces import Pieces
from skills.wire import IMAGE_RESOURCE, Feature

SERVICE = "SkillsService"


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An answer that is an error."""

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    details: str = "scripted failure"
    retry_after_s: float | None = None
    """Sent as google.rpc.RetryInfo."""
    fields: tuple[tuple[str, str], ...] = ()
    """Pairs of a field's path and what is wrong with it, sent as google.rpc.BadRequest."""
    images: tuple[bytes, ...] = ()
    """Hashes of images, each sent as a google.rpc.ResourceInfo."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer and how it comes."""

    text: str
    pieces: tuple[str, ...] | None = None
    """The texts of the chunks; each is one token. Default: the words of the text."""
    logprob: float = -0.1
    """The log-probability of every token."""
    finish_reason: skills_pb2.FinishReason.ValueType = skills_pb2.FINISH_REASON_STOP
    prompt_tokens: int = 10
    cached_tokens: int = 0
    image_tokens: int = 0
    delay_s: float = 0.0
    """Before anything of the answer is sent."""
    progress: int = 0
    """So often in that time it is told how far the call is, where the request asks for it."""
    images_to_encode: int = 0
    """Told with it."""
    expected_s: float | None = None
    """The wait that is told; None for the time that it takes."""
    chunk_delay_s: float = 0.0
    """Before every chunk but the first."""
    break_after: int | None = None
    """The stream breaks with `failure` after so many chunks; an answer in one piece fails at once."""
    failure: Failure = field(default_factory=Failure)
    token_ids: bool = True
    """Whether the pieces carry them; those of a skill that knows no tokens do not."""
    end: Failure | None = None
    """What the stream ends with after the whole answer, if not well."""

    def words(self) -> tuple[str, ...]:
        """The pieces of the answer."""
        if self.pieces is not None:
            return self.pieces
        words = self.text.split(" ")
        return tuple(word if i == 0 else f" {word}" for i, word in enumerate(words)) if self.text else ()


class KeptImages:
    """The images that a stub was sent, by hash. Several stubs may share them; a test may take one away."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.uploads: list[bytes] = []
        """The hash of each image whose bytes have come, as often as they came."""

    def take(self, request: skills_pb2.GenReq) -> Failure | None:
        """Keeps the bytes in a request; what it fails with where it names an image that is not here."""
        images = images_of(request)
        for image in images:
            if image.HasField("data"):
                digest = hashlib.sha256(image.data).digest()
                self.data[digest] = image.data
                self.uploads.append(digest)
        missing = tuple(image.sha256 for image in images if image.sha256 and image.sha256 not in self.data)
        named = ", ".join(digest.hex()[:8] for digest in missing)
        details = f"the bytes of these images are not here: {named}"
        return Failure(code=grpc.StatusCode.NOT_FOUND, details=details, images=missing) if missing else None


def images_of(request: skills_pb2.GenReq) -> list[skills_pb2.Image]:
    """The images of a request, in their order."""
    return [part.image for turn in request.messages for part in turn.parts if part.HasField("image")]


Answer = str | Reply | Failure
Script = Answer | Sequence[Answer] | Callable[[skills_pb2.GenReq], Answer]


@dataclass(slots=True, eq=False)
class Call:
    """A call as it arrived, and how it went."""

    method: str
    request: Any
    metadata: dict[str, str | bytes]
    time_remaining_s: float | None
    """To the deadline, None without one."""
    arrived_s: float = field(default_factory=time.monotonic)
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when the call is over for whatever reason."""
    cancelled: bool = False
    """The client left, or the deadline passed, before the answer was done."""


def token_id(piece: str) -> int:
    """The token id that the stub gives a piece of text: the same piece, the same id."""
    return zlib.crc32(piece.encode()) % 32_000


def text_of(turn: skills_pb2.Message) -> str:
    """The text of a turn, with the first digits of an image's hash in its place."""
    return turn.content or "".join(part.text or f"[{hash_of(part.image).hex()[:8]}]" for part in turn.parts)


def hash_of(image: skills_pb2.Image) -> bytes:
    """The hash of an image, whichever way it has come."""
    return image.sha256 or hashlib.sha256(image.data).digest()


def answer_of(reply: Reply, request: skills_pb2.GenReq, started_s: float) -> skills_pb2.GenResp:
    """The whole answer to a request, as GenResp says it."""
    pieces = reply.words()
    given = len(request.continuations[0].token_ids) if request.continuations else 0
    candidate = skills_pb2.Candidate(
        text="".join(pieces),
        finish_reason=reply.finish_reason,
        token_ids=[token_id(piece) for piece in pieces],
        token_logprobs=[reply.logprob] * len(pieces),
        mean_logprob=reply.logprob if pieces else 0.0,
    )
    elapsed_s = max(time.monotonic() - started_s, 1e-6)
    return skills_pb2.GenResp(
        text=candidate.text,
        tokens_generated=len(pieces),
        continued_tokens=given,
        tokens_per_second=(len(pieces) - given) / elapsed_s,
        latency_ms=elapsed_s * 1000,
        ram_mb=1.0,
        finish_reason=reply.finish_reason,
        prompt_tokens=reply.prompt_tokens,
        cached_tokens=reply.cached_tokens,
        image_tokens=reply.image_tokens,
        mean_logprob=candidate.mean_logprob,
        model="stub",
        candidates=[candidate] * request.num_candidates if request.num_candidates > 1 else (),
        token_ids=candidate.token_ids,
        token_logprobs=candidate.token_logprobs,
        seed=request.seed if request.HasField("seed") else 1,
        numerics="exact",
    )


class _Servicer(skills_pb2_grpc.SkillsServiceServicer):
    def __init__(self, script: Script | None, initial_failures: int, failure: Failure, delay_s: float) -> None:
        self._script = script
        self._lock = threading.Lock()
        self._failures_left = initial_failures
        self._failure = failure
        self._delay_s = delay_s
        self._next = 0
        self.calls: list[Call] = []
        self.images = KeptImages()

    def restart(self, script: Script | None) -> None:
        """Answers from the beginning of another script."""
        with self._lock:
            self._script, self._next = script, 0

    def _answer(self, request: skills_pb2.GenReq) -> Answer:
        with self._lock:
            if self._failures_left > 0:
                self._failures_left -= 1
                return self._failure
            index, self._next = self._next, self._next + 1
        script = self._script
        if script is None:
            return f"echo: {request.prompt or text_of(request.messages[-1])}"
        if isinstance(script, (str, Reply, Failure)):
            return script
        if callable(script):
            return script(request)
        if index >= len(script):
            details = f"the script has {len(script)} answers, this is request {index + 1}"
            return Failure(code=grpc.StatusCode.INTERNAL, details=details)
        return script[index]

    def _arrive(self, method: str, request: Any, context: grpc.ServicerContext) -> Call:
        metadata = dict(context.invocation_metadata())
        call = Call(method, request, metadata, context.time_remaining())
        with self._lock:
            self.calls.append(call)
        return call

    def _chunks(self, request: skills_pb2.GenReq, context: grpc.ServicerContext) -> Iterator[skills_pb2.GenChunk]:
        """The pieces of the answer that the request does not have yet, the last with the result; fails as scripted."""
        started_s, gone = time.monotonic(), threading.Event()
        context.add_callback(gone.set)
        answer = self.images.take(request) or self._answer(request)
        if isinstance(answer, Failure):
            _fail(context, answer)
        reply = Reply(text=answer) if isinstance(answer, str) else answer
        yield from _wait(gone, reply, reply.delay_s + self._delay_s, reply.progress if request.progress else 0)
        given = len(request.continuations[0].token_ids) if request.continuations else 0
        pieces = reply.words()[given:]
        for sent, piece in enumerate(pieces):
            if sent:
                gone.wait(reply.chunk_delay_s)
            if sent == reply.break_after:
                _fail(context, reply.failure)
            for candidate in range(max(1, request.num_candidates)):
                chunk = skills_pb2.GenChunk(text=piece, candidate=candidate)
                if reply.token_ids:
                    chunk.token_ids.append(token_id(piece))
                    chunk.token_logprobs.append(reply.logprob)
                yield chunk
        if reply.break_after is not None and reply.break_after >= len(pieces):
            _fail(context, reply.failure)
        yield skills_pb2.GenChunk(result=answer_of(reply, request, started_s))
        if reply.end is not None:
            _fail(context, reply.end)

    def Generate(self, request: skills_pb2.GenReq, context: grpc.ServicerContext) -> skills_pb2.GenResp:  # noqa: N802
        call = self._arrive("Generate", request, context)
        with _Ended(call, context):
            *_, last = self._chunks(request, context)
            return last.result

    def GenerateStream(  # noqa: N802
        self, request: skills_pb2.GenReq, context: grpc.ServicerContext
    ) -> Iterator[skills_pb2.GenChunk]:
        call = self._arrive("GenerateStream", request, context)
        pieces = Pieces(context, request)
        with _Ended(call, context):
            for chunk in self._chunks(request, context):
                yield from pieces.put(chunk)

    def Health(self, request: skills_pb2.HealthReq, context: grpc.ServicerContext) -> skills_pb2.HealthResp:  # noqa: N802
        call = self._arrive("Health", request, context)
        with _Ended(call, context):
            total = sum(call.method != "Health" for call in self.calls)
            return skills_pb2.HealthResp(
                status="SERVING", ram_mb=1.0, total_requests=total, model="stub", version="0",
                features=[Feature.RESUME, Feature.IMAGES], engine=skills_pb2.EngineStats(numerics="exact"),
            )  # fmt: skip


def _wait(gone: threading.Event, reply: Reply, seconds: float, progress: int) -> Iterator[skills_pb2.GenChunk]:
    for told in range(progress):
        yield skills_pb2.GenChunk(
            progress=skills_pb2.Progress(
                prompt_tokens_read=told,
                prompt_tokens=progress,
                expected_wait_s=seconds if reply.expected_s is None else reply.expected_s,
                images_to_encode=reply.images_to_encode,
            )
        )
        gone.wait(seconds / progress)
    if not progress:
        gone.wait(seconds)


class _Ended:
    """Marks the call when it is over."""

    def __init__(self, call: Call, context: grpc.ServicerContext) -> None:
        self._call = call
        self._context = context

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._call.cancelled = kind is GeneratorExit or not self._context.is_active()
        self._call.ended.set()


def _fail(context: grpc.ServicerContext, failure: Failure) -> NoReturn:
    from google.protobuf.any_pb2 import Any as AnyMessage
    from google.rpc import error_details_pb2, status_pb2

    details: list[AnyMessage] = []
    if failure.retry_after_s is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromNanoseconds(int(failure.retry_after_s * 1e9))
        details.append(AnyMessage())
        details[-1].Pack(info)
    if failure.fields:
        bad = error_details_pb2.BadRequest()
        for path, description in failure.fields:
            bad.field_violations.add(field=path, description=description)
        details.append(AnyMessage())
        details[-1].Pack(bad)
    for digest in failure.images:
        details.append(AnyMessage())
        details[-1].Pack(error_details_pb2.ResourceInfo(resource_type=IMAGE_RESOURCE, resource_name=digest.hex()))
    if details:
        status = status_pb2.Status(code=failure.code.value[0], message=failure.details, details=details)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(failure.code, failure.details)


class StubSkill:
    """A skill server with scripted answers; a context manager. It may be stopped and started again on its address.

    Args:
        script: one answer for every request; or a sequence, one answer a request, after which every request fails with
            INTERNAL; or a function of the request, which runs in a thread of the server and may block. None: an echo.
        initial_failures: so many Generate and GenerateStream requests fail with `failure` first.
        failure: what they fail with.
        delay_s: before every answer.
        listen: `host:port`, port 0 for any, or `unix:/path`.
        serving: what `grpc.health.v1` says at the start.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        initial_failures: int = 0,
        failure: Failure | None = None,
        delay_s: float = 0.0,
        listen: str = "127.0.0.1:0",
        serving: bool = True,
    ) -> None:
        self._servicer = _Servicer(script, initial_failures, failure or Failure(), delay_s)
        self._serving = serving
        self._server: grpc.Server | None = None
        self._health: health.HealthServicer | None = None
        self.target = listen

    @property
    def calls(self) -> list[Call]:
        """All calls in the order of their arrival, Health included."""
        return list(self._servicer.calls)

    @property
    def requests(self) -> list[skills_pb2.GenReq]:
        """The requests of Generate and GenerateStream in the order of their arrival."""
        return [call.request for call in self._servicer.calls if call.method != "Health"]

    @property
    def images(self) -> KeptImages:
        """The images that it was sent."""
        return self._servicer.images

    def script(self, script: Script | None) -> None:
        """Answers from now on by another script."""
        self._servicer.restart(script)

    def start(self) -> Self:
        """Listens at `target`; port 0 becomes the port that was found."""
        server = grpc.server(ThreadPoolExecutor(max_workers=32), options=(("grpc.so_reuseport", 0),))
        # The non-blocking mode deadlocks when one watch begins while another ends.
        self._health = health.HealthServicer(experimental_non_blocking=False)
        skills_pb2_grpc.add_SkillsServiceServicer_to_server(self._servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        self.set_serving(self._serving)
        port = server.add_insecure_port(self.target)
        if self.target.endswith(":0") and not self.target.startswith("unix:"):
            self.target = f"{self.target.rpartition(':')[0]}:{port}"
        server.start()
        self._server = server
        return self

    def stop(self, grace_s: float | None = None) -> None:
        """Stops listening; running calls get `grace_s` seconds, none by default."""
        if self._server is not None:
            self._server.stop(grace_s).wait()
            self._server = None

    def set_serving(self, serving: bool) -> None:
        """What `grpc.health.v1` says from now on, for "" and for the skill's service."""
        self._serving = serving
        status = health_pb2.HealthCheckResponse
        for service in ("", SERVICE):
            assert self._health is not None, "start it first"
            self._health.set(service, status.SERVING if serving else status.NOT_SERVING)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM, SIGINT or, with --lifeline, the end of standard input."""
    parser = argparse.ArgumentParser(prog="python -m tests.stub_skill")
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--lifeline", action="store_true")
    parser.add_argument("--reply", action="append", default=None, help="one answer; several: one after the other")
    parser.add_argument("--delay-s", type=float, default=0.0)
    parser.add_argument("--initial-failures", type=int, default=0)
    parser.add_argument("--load-s", type=float, default=0.0, help="NOT_SERVING for so long at first")
    parser.add_argument("--fail", default=None, help="print this line and exit with 1")
    parser.add_argument("--pid-file", default=None, help="append the process id to this file")
    options = parser.parse_args(argv)
    if options.pid_file:
        with Path(options.pid_file).open("a") as file:
            file.write(f"{os.getpid()}\n")
    if options.fail is not None:
        print(options.fail, file=sys.stderr)
        return 1
    script = options.reply[0] if options.reply and len(options.reply) == 1 else options.reply
    skill = StubSkill(
        script,
        initial_failures=options.initial_failures,
        delay_s=options.delay_s,
        listen=options.listen,
        serving=False,
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if options.lifeline:
        threading.Thread(target=_follow_parent, daemon=True).start()
    with skill:
        print(f"serving at {skill.target}", file=sys.stderr, flush=True)
        if not stop.wait(options.load_s):
            skill.set_serving(True)
        stop.wait()
    return 0


def _follow_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
