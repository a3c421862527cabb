"""A request and what it has been given so far: all that another replica needs to go on with the answer."""

from __future__ import annotations

import math
import secrets
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skills import skills_pb2


class AnswerSoFar:
    """An answer that may be written by several replicas, one after the other.

    A request that leaves its random numbers to the replica is given a seed here, so that whoever goes on with it draws
    the very numbers that the first one would have drawn.

    Args:
        request: what the caller asks for; it is not changed.
    """

    def __init__(self, request: skills_pb2.GenReq) -> None:
        self._request = _with_seed(request)
        self._began_s = time.monotonic()
        self._first_piece_s: float | None = None
        self._sent_along = 0
        self.whole = False
        """Whether the last message, with the whole answer, has come."""
        self._begin()

    def _begin(self) -> None:
        from skills import skills_pb2

        request = self._request
        self._given = [skills_pb2.Continuation() for _ in range(max(1, request.num_candidates))]
        for mine, callers in zip(self._given, request.continuations, strict=False):
            mine.CopyFrom(callers)
        self._written = 0
        self.can_be_continued = True
        """Whether all text that has come did so with its token ids. If not, the next request begins anew."""

    def next_request(self) -> skills_pb2.GenReq:
        """The request for whoever is to begin the answer, or to go on with it."""
        if not self.can_be_continued:
            self._begin()
        self._sent_along = self._written
        if not self._written and not self._request.time_budget_ms:
            return self._request
        request = _copy(self._request)
        if self._written:
            del request.continuations[:]
            request.continuations.extend(self._given)
        if request.time_budget_ms:
            spent_ms = math.ceil((time.monotonic() - self._began_s) * 1000)
            request.time_budget_ms = max(1, request.time_budget_ms - spent_ms)
        return request

    def take(self, chunk: skills_pb2.GenChunk) -> None:
        """A piece has come."""
        if chunk.HasField("result"):
            self.whole = True
            self._conclude(chunk.result)
        if not chunk.token_ids:
            self.can_be_continued = self.can_be_continued and not chunk.text
            return
        if self._first_piece_s is None:
            self._first_piece_s = time.monotonic()
        given = self._given[chunk.candidate]
        given.token_ids.extend(chunk.token_ids)
        given.token_logprobs.extend(chunk.token_logprobs)
        self._written += len(chunk.token_ids)

    def _conclude(self, result: skills_pb2.GenResp) -> None:
        """Makes the last replica's figures those of the whole call."""
        if not self._sent_along:
            return
        now = time.monotonic()
        first_s = now if self._first_piece_s is None else self._first_piece_s
        result.tokens_generated += self._sent_along
        result.latency_ms = (now - self._began_s) * 1000
        result.time_to_first_token_ms = (first_s - self._began_s) * 1000
        result.tokens_per_second = result.tokens_generated / max(1e-6, now - first_s)


def _with_seed(request: skills_pb2.GenReq) -> skills_pb2.GenReq:
    greedy = request.HasField("temperature") and request.temperature == 0
    if request.HasField("seed") or greedy:
        return request
    seeded = _copy(request)
    seeded.seed = secrets.randbits(32)
    return seeded


def _copy(request: skills_pb2.GenReq) -> skills_pb2.GenReq:
    copy = type(request)()
    copy.CopyFrom(request)
    return copy
