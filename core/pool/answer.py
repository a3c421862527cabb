"""One call through its attempts to its end; shared by both clients."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from core.errors import CallError, DeadlineError, PoolClosedError, SaraiError, SkillFailedError
from core.pool.answer_so_far import AnswerSoFar
from core.pool.balance import conversation_keys
from core.pool.events import Asked, Failed, Heard, Left, Succeeded
from core.pool.images import RequestImages
from core.pool.records import Attempt, Call
from core.pool.rpc_status import call_error, initial_metadata
from core.pool.wire import END, Caller, Metadata, Wire
from core.rpc import grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skills import skills_pb2

ANSWERS = "GenerateStream"
"""The method whose answer can be continued: its pieces carry token ids, its requests take them."""


class Answer:
    """One call: gets a replica, sends, reads, and continues at another replica if the pool decides so.

    Read by one thread or task; `release` may be called from any.

    Args:
        wire: The client's channels.
        method: The stub's method.
        request: Its message.
        timeout_s: The deadline of the call, in seconds from now; None for the default.
        metadata: Sent with every attempt.
        single: Whether the answer is one message.
        whole_only: Whether the caller only sees the complete answer.

    Raises:
        ValueError, PoolClosedError: see `Wire.timeout_s`.
    """

    def __init__(
        self,
        wire: Wire,
        method: str,
        request: Any,
        timeout_s: float | None,
        metadata: Metadata | None,
        *,
        single: bool = False,
        whole_only: bool = False,
    ) -> None:
        deadline_s = time.monotonic() + wire.timeout_s(method, timeout_s)
        self.pool = wire.pool
        self._images = RequestImages(request, wire.pool.images) if method == ANSWERS else None
        if self._images is not None:
            request = self._images.request
        self._wire, self._request = wire, request
        self._single, self._whole_only = single, whole_only
        self._so_far = AnswerSoFar(request) if method == ANSWERS else None
        self._metadata = (*(metadata or ()), *self._own_metadata())
        self._hard_deadline = bool(getattr(request, "hard_deadline", False))
        """Whether an answer that is incomplete at the deadline is an error."""
        keys = conversation_keys(request)
        has_images = self._images is not None and self._images.any
        self._call = Call(method, deadline_s, caller=wire.caller, owner=wire, conversation=keys, has_images=has_images)
        if self._so_far is not None:
            self._call.race = self._begin_race
        self._caller: Caller | None = None
        self._whole = False
        self.closed = False

    def _own_metadata(self) -> Iterator[tuple[str, str]]:
        from skills.wire import FEW_PIECES, RANDOM_SEED

        if self._whole_only and not self._wire.pool.config.hedge_s:  # hedging needs the first piece early
            yield FEW_PIECES
        if self._so_far is not None and self._so_far.has_random_seed:
            yield RANDOM_SEED

    async def open(self) -> None:
        """Send the request to a replica, and to others as long as it may be retried.

        Raises:
            CallError: The call failed.
        """
        try:
            while (attempt := await self._turn()) is not None and attempt.rpc is None:
                await self._try_to_send(attempt)
        except BaseException:
            self.release()
            raise

    async def next(self) -> Any:
        """Return the next message, `END` after the last one.

        Raises:
            CallError: The call has failed, and not just because its deadline cut off the text.
        """
        if self.closed:
            return END
        try:
            while (attempt := await self._turn()) is not None:
                if attempt.rpc is None:
                    await self._try_to_send(attempt)
                elif (message := await self._read(attempt)) is END:
                    break
                elif message is not None:
                    return message
        except CallError as error:
            self.release()
            return self._last_message(error)
        except BaseException:
            self.release()
            raise
        self.release()
        return END

    async def only(self) -> Any:
        """Return the message of a call that has only one."""
        message = await self.next()
        self.release()
        return message

    async def result(self) -> skills_pb2.GenResp:
        """Return the complete answer."""
        result: skills_pb2.GenResp | None = None
        while (chunk := await self.next()) is not END:
            if chunk.HasField("result"):
                result = chunk.result
                if not self._wire.reads_to_the_end:
                    break
        self.release()
        assert result is not None, "a stream without a result ends with an error"
        return result

    def release(self) -> None:
        """End the call if it is not over. Idempotent."""
        self.closed = True
        self.pool.tell(Left(self._call))
        self._leave_to_end()

    def forget(self) -> None:
        """End the call soon; for the garbage collector (see `ReplicaSet.tell_later`)."""
        self.pool.tell_later(Left(self._call))
        self._leave_to_end()

    def _leave_to_end(self) -> None:
        call = self._call
        if self._whole and call.attempt is not None:
            self._wire.leave_to_end(call.attempt.rpc)
            call.attempt = None

    # --- one attempt ---

    async def _turn(self) -> Attempt | None:
        """Wait for the attempt that provides the answer and return it; None if the call is over."""
        call = self._call
        if self._caller is None:
            self._caller = self._wire.caller_here()
            call.wake = self._caller.wake
            self.pool.tell(Asked(call))
        while call.attempt is None:
            if call.error is not None:
                raise call.error
            if self._whole:
                return None
            await self._caller.wait()
        return call.attempt

    async def _try_to_send(self, attempt: Attempt) -> None:
        request = self._request if self._so_far is None else self._so_far.next_request()
        try:
            await self._send(attempt, request)
        except grpc.RpcError as error:
            self._failed(attempt, error)

    async def _send(self, attempt: Attempt, request: Any) -> None:
        attempt.request = request
        if self._images is not None:
            attempt.wanted = self._images.never_sent()
        await self._wire.ready(self.pool.backend(attempt.replica), self._call.remaining_s(time.monotonic()))
        self._begin(attempt)

    def _begin(self, attempt: Attempt) -> None:
        request = attempt.request
        if self._images is not None:
            batch = self._images.batch(attempt.wanted, attempt.travelled)
            attempt.travelled |= batch
            request = self._images.with_bytes(request, batch)
        attempt.rpc = self._wire.begin(attempt, request, self._call.remaining_s(time.monotonic()), self._metadata)
        if attempt.over:  # ended before there was anything to cancel
            attempt.cancel()

    async def _receive(self, attempt: Attempt) -> Any:
        """Return the next message of an attempt, having sent its replica the images that it lacks.

        Each request brings bytes that it was not sent before. To the pool, all that is one attempt.
        """
        while True:
            try:
                return await self._wire.read(attempt.rpc, single=self._single)
            except grpc.RpcError as error:
                lacking = set() if self._images is None else self._images.lacking(error) - attempt.travelled
                if attempt.over or not lacking:
                    raise
            attempt.wanted |= lacking
            self._begin(attempt)

    async def _read(self, attempt: Attempt) -> Any:
        """Return the next message that counts; None if the attempt has failed or another one has won the call."""
        message, attempt.first = attempt.first, None
        try:
            if message is None:
                message = await self._receive(attempt)
        except grpc.RpcError as error:
            if self._whole:
                return END  # only the stream's status is lost
            self._failed(attempt, error)
            return None
        if self._whole and message is END:
            return END
        return message if self._counts(attempt, message) else None

    def _counts(self, attempt: Attempt, message: Any) -> bool:
        """Report and record a message; return False if another attempt has won the call."""
        answer, before = self._so_far, attempt.tokens
        if message is END and answer is not None:
            self.pool.tell(Failed(attempt, self._silent_cut(attempt)))
            return False
        if self._is_progress(message):
            return not attempt.over
        tokens, resumable = 1, self._whole_only
        whole = self._single or message is END
        if answer is not None:
            whole = message.HasField("result")
            tokens = len(message.token_ids) or 1
            resumable = resumable or answer.is_resumable_after(message)
        self.pool.tell(Succeeded(attempt, tokens) if whole else Heard(attempt, tokens, resumable))
        if attempt.tokens == before:
            return False
        self._whole = self._whole or whole
        if answer is not None:
            answer.take(message)
        return True

    def _is_progress(self, message: Any) -> bool:
        """Return whether a message only reports progress, and so does not count as the first piece."""
        return self._so_far is not None and message is not END and bool(message.HasField("progress"))

    def _failed(self, attempt: Attempt, error: grpc.RpcError) -> None:
        """Report that an attempt has failed; raise errors that are not the replica's."""
        if isinstance(error, SaraiError):
            raise error  # the local process did not come up, for example
        from skills.wire import HARD_DEADLINES

        if HARD_DEADLINES in initial_metadata(error):
            self._hard_deadline = True
        if attempt.over:
            return  # the pool itself has ended it and decided what comes next
        ours = call_error(
            error, skill=self.pool.spec.name, target=attempt.replica.target, has_images=self._call.has_images
        )
        # It may be raised later, if the call cannot be continued. Until then its traceback would reference the stream,
        # which could not be garbage collected.
        ours.__cause__ = error.with_traceback(None)
        self.pool.tell(Failed(attempt, ours))

    def _last_message(self, error: CallError) -> Any:
        """Return the last message of an answer that its deadline has cut off, with the text so far.

        Raises:
            CallError: The given error, if something else has happened or there is no text.
        """
        late = isinstance(error, DeadlineError) or self._call.out_of_time
        if not late or self._hard_deadline or self._so_far is None or not self._so_far.has_text:
            raise error
        return self._so_far.as_it_is()

    # --- hedging ---

    def _begin_race(self, attempt: Attempt) -> None:
        # The pool's lock is held, so no piece is recorded meanwhile and the request stays the same.
        assert self._so_far is not None
        assert self._caller is not None
        self._caller.aside(self._race(attempt, self._so_far.next_request()))

    async def _race(self, attempt: Attempt, request: Any) -> None:
        """Read the first piece of the second replica's answer; the caller reads the rest."""
        try:
            await self._send(attempt, request)
            while self._is_progress(piece := await self._receive(attempt)):
                pass
            if piece is not END:
                attempt.first = piece
                self.pool.tell(Heard(attempt, 0, self._call.resumable))
        except grpc.RpcError as error:
            self._failed(attempt, error)
        except PoolClosedError:
            pass
        finally:
            if self._call.attempt is not attempt:
                self.pool.tell(Failed(attempt, self._silent_cut(attempt)))  # if that has not been reported yet

    def _silent_cut(self, attempt: Attempt) -> CallError:
        return SkillFailedError(
            code=grpc.StatusCode.DATA_LOSS,
            details="the stream ended without the whole answer in its last message",
            skill=self.pool.spec.name,
            target=attempt.replica.target,
        )
