"""A request and its answer so far: all that another replica needs to continue the answer."""

from __future__ import annotations

import math
import secrets
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skills import skills_pb2


class AnswerSoFar:
    """An answer that may be written by several replicas, one after the other.

    A request without a seed is given one here, so that a replica that continues it draws the same random numbers as the
    first one would have.

    Args:
        request: The caller's request; not changed.
    """

    def __init__(self, request: skills_pb2.GenReq) -> None:
        self._request = _with_seed(request)
        self.has_random_seed = self._request is not request
        self._began_s = time.monotonic()
        self._first_piece_s: float | None = None
        self._begin()

    def _begin(self) -> None:
        from skills import skills_pb2

        request = self._request
        self._given = [skills_pb2.Continuation() for _ in range(max(1, request.num_candidates))]
        self._texts = [""] * len(self._given)
        for mine, callers in zip(self._given, request.continuations, strict=False):
            mine.CopyFrom(callers)
        self._written = 0
        self.can_be_continued = True
        """Whether all text so far came with its token ids. If not, the next request starts again."""

    def next_request(self) -> skills_pb2.GenReq:
        """Return the request to the replica that begins or continues the answer."""
        if not self.can_be_continued:
            self._begin()
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

    def is_resumable_after(self, chunk: skills_pb2.GenChunk) -> bool:
        """Return whether another replica can continue after this piece, which requires token ids for all text."""
        return self.can_be_continued and (bool(chunk.token_ids) or not chunk.text)

    def take(self, chunk: skills_pb2.GenChunk) -> None:
        """Add a piece. The last one is given what servers leave out of it: the text that the pieces have held."""
        self.can_be_continued = self.is_resumable_after(chunk)
        if chunk.text:
            self._texts[chunk.candidate] += chunk.text
        if chunk.token_ids:
            if self._first_piece_s is None:
                self._first_piece_s = time.monotonic()
            given = self._given[chunk.candidate]
            given.token_ids.extend(chunk.token_ids)
            given.token_logprobs.extend(chunk.token_logprobs)
            self._written += len(chunk.token_ids)
        if chunk.HasField("result"):
            self._complete(chunk.result)
            for number, candidate in enumerate(chunk.result.candidates[: len(self._given)]):
                self._complete(candidate, number)

    @property
    def has_text(self) -> bool:
        """Whether there is any text. Text that the caller continues is only known as tokens."""
        return any(self._texts) and not any(given.token_ids for given in self._request.continuations)

    def as_it_is(self) -> skills_pb2.GenChunk:
        """Return the last message of an answer that ends here because its time is over."""
        from skills import skills_pb2

        now = time.monotonic()
        first_s = now if self._first_piece_s is None else self._first_piece_s
        over = skills_pb2.FINISH_REASON_TIME_BUDGET
        candidates = [
            skills_pb2.Candidate(
                text=text,
                finish_reason=over,
                token_ids=given.token_ids,
                token_logprobs=given.token_logprobs,
                mean_logprob=_mean(given.token_logprobs),
            )
            for text, given in zip(self._texts, self._given, strict=True)
        ]
        result = skills_pb2.GenResp(
            text=candidates[0].text,
            tokens_generated=self._written,
            tokens_per_second=self._written / max(1e-6, now - first_s),
            latency_ms=(now - self._began_s) * 1000,
            time_to_first_token_ms=(first_s - self._began_s) * 1000,
            finish_reason=over,
            mean_logprob=candidates[0].mean_logprob,
            candidates=candidates if len(candidates) > 1 else (),
            token_ids=candidates[0].token_ids,
            token_logprobs=candidates[0].token_logprobs,
            seed=self._request.seed,
        )
        return skills_pb2.GenChunk(result=result)

    def _complete(self, answer: skills_pb2.GenResp | skills_pb2.Candidate, number: int = 0) -> None:
        given = self._given[number]
        answer.text = answer.text or self._texts[number]
        if not answer.token_ids:
            answer.token_ids.extend(given.token_ids)
        if not answer.token_logprobs:
            answer.token_logprobs.extend(given.token_logprobs)


def _mean(logprobs: Sequence[float]) -> float:
    known = [value for value in logprobs if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else 0.0


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
