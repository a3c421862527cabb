"""A small real skill for tests: a SkillsService over a real socket whose answers are scripted.

In the test's process:

    with StubSkill(["a draft", Failure(grpc.StatusCode.UNAVAILABLE), "a correction"]) as skill:
        channel = grpc.insecure_channel(skill.target)
        ...
        assert skill.requests[0].prompt == "..."

As a separate process, also as the `serve` command of a test plugin:

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

from skills import skills_pb2, skills_pb2_grpc, types_pb2
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
    """An answer and how it is sent."""

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
    """The time before anything of the answer is sent."""
    progress: int = 0
    """How often progress is sent during `delay_s`, if the request asks for it."""
    images_to_encode: int = 0
    """The number of images to encode that progress reports."""
    expected_s: float | None = None
    """The wait that progress reports; None for `delay_s`."""
    chunk_delay_s: float = 0.0
    """The time before every chunk except the first."""
    break_after: int | None = None
    """The stream fails with `failure` after this many chunks; an answer in one piece fails at once."""
    failure: Failure = field(default_factory=Failure)
    token_ids: bool = True
    """Whether pieces have token ids; those of a skill without tokens do not."""
    end: Failure | None = None
    """The error with which the stream ends after the whole answer, if any."""

    def words(self) -> tuple[str, ...]:
        """Return the pieces of the answer."""
        if self.pieces is not None:
            return self.pieces
        words = self.text.split(" ")
        return tuple(word if i == 0 else f" {word}" for i, word in enumerate(words)) if self.text else ()


class KeptImages:
    """The images that a stub was sent, by hash. A test may remove one."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.uploads: list[bytes] = []
        """The hash of each image whose bytes were received, once for each time."""

    def take(self, request: skills_pb2.GenReq) -> Failure | None:
        """Keep the bytes in a request; return the failure if it names an image whose bytes are not here."""
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
    """Return the images of a request, in order."""
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
    """The time to the deadline on arrival, None without one."""
    arrived_s: float = field(default_factory=time.monotonic)
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when the call is over, for any reason."""
    cancelled: bool = False
    """Whether the client left, or the deadline passed, before the answer was complete."""


def token_id(piece: str) -> int:
    """Return the stub's token id for a piece of text; equal pieces have equal ids."""
    return zlib.crc32(piece.encode()) % 32_000


def text_of(turn: skills_pb2.Message) -> str:
    """Return the text of a turn, with the first digits of its hash in place of an image."""
    return turn.content or "".join(part.text or f"[{hash_of(part.image).hex()[:8]}]" for part in turn.parts)


def hash_of(image: skills_pb2.Image) -> bytes:
    """Return the hash of an image, whether it was sent as data or as a hash."""
    return image.sha256 or hashlib.sha256(image.data).digest()


def answer_of(reply: Reply, request: skills_pb2.GenReq, started_s: float) -> skills_pb2.GenResp:
    """Return the whole answer to a request."""
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
        self.kept: types_pb2.CacheStats | None = None
        self.health: dict[str, Any] = {}

    def restart(self, script: Script | None) -> None:
        """Answer from the beginning of another script."""
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
        """Yield the pieces that the request does not have yet, then the result; fail as scripted."""
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
            fields: dict[str, Any] = {
                "status": "SERVING", "ram_mb": 1.0, "total_requests": total, "model": "stub", "version": "0",
                "features": [Feature.RESUME, Feature.IMAGES], "engine": skills_pb2.EngineStats(numerics="exact"),
                "cache": self.kept,
            }  # fmt: skip
            return skills_pb2.HealthResp(**(fields | self.health))

    def ClearCache(  # noqa: N802
        self, request: types_pb2.ClearCacheReq, context: grpc.ServicerContext
    ) -> types_pb2.ClearCacheResp:
        with _Ended(self._arrive("ClearCache", request, context), context):
            if self.kept is None:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, "it keeps no answers")
            forgotten = types_pb2.ClearCacheResp(entries=self.kept.entries, bytes=self.kept.bytes)
            self.kept.entries = self.kept.bytes = 0
            return forgotten


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
    """A skill server with scripted answers; a context manager. It can be stopped and started again at its address.

    Args:
        script: one answer for all requests; or a sequence, one answer per request, after which every request fails with
            INTERNAL; or a function of the request, which runs in a thread of the server and may block. None: an echo.
        initial_failures: how many Generate and GenerateStream requests fail with `failure` first.
        failure: the error of those.
        delay_s: the time before every answer.
        listen: `host:port`, port 0 for any, or `unix:/path`.
        serving: whether `grpc.health.v1` reports SERVING at the start.
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
        """Return all calls in order of arrival, including Health."""
        return list(self._servicer.calls)

    @property
    def requests(self) -> list[skills_pb2.GenReq]:
        """Return the requests of Generate and GenerateStream in order of arrival."""
        return [call.request for call in self._servicer.calls if call.method != "Health"]

    @property
    def images(self) -> KeptImages:
        """Return the images that it was sent."""
        return self._servicer.images

    def keep(self, figures: types_pb2.CacheStats) -> None:
        """Tell these figures of kept answers from now on."""
        self._servicer.kept = figures

    def tell(self, **fields: Any) -> None:
        """Answer Health with these fields from now on."""
        self._servicer.health = fields

    def script(self, script: Script | None) -> None:
        """Use another script from now on."""
        self._servicer.restart(script)

    def start(self) -> Self:
        """Listen at `target`; port 0 is replaced by a free port."""
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
        """Stop listening; running calls get `grace_s` seconds, none by default."""
        if self._server is not None:
            self._server.stop(grace_s).wait()
            self._server = None

    def set_serving(self, serving: bool) -> None:
        """Set what `grpc.health.v1` reports from now on, for "" and for the skill's service."""
        self._serving = serving
        status = health_pb2.HealthCheckResponse
        for service in ("", SERVICE):
            assert self._health is not None, "the server is not started"
            self._health.set(service, status.SERVING if serving else status.NOT_SERVING)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM, SIGINT or, with --lifeline, the end of standard input."""
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
