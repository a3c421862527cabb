"""The state of one answer (one candidate of a request)."""

from __future__ import annotations

import math
from collections.abc import Callable

from .cells import Slot
from .guided import Guided, Speculator
from .lookup import AcceptanceRates, Lookup
from .messages import Ending, FinishReason, Piece, Priority, Request, TokenLogprob, Tokens
from .sampling import Choice, Sampler
from .text import TextAssembler

# A batch request waits as if it had come this much later: it rises with age, and is never starved.
BATCH_DELAY_S = 10.0


class Sequence:
    """One growing list of tokens: the prompt, then what was chosen.

    `tokens` beyond the cells of its slot are pending: many of them are prefill, one is decode. So a new request, a
    continued answer and a preempted one are the same thing.
    """

    def __init__(
        self,
        request: Request,
        candidate: int,
        prompt: list[int],
        *,
        sampler: Sampler,
        piece: Callable[[int], bytes],
        end_tokens: frozenset[int],
        n_ctx: int,
        acceptance: AcceptanceRates,
    ) -> None:
        self.request, self.candidate = request, candidate
        self.tokens = list(prompt)
        self.n_prompt = len(prompt)
        self.sampler = sampler
        self.slot: Slot | None = None
        self.leader: tuple[Sequence, int] | None = None  # whom to wait for, until it has that many tokens
        self.ending: Ending | None = None
        self._limit: FinishReason | None = None  # that was reached before the answer had a valid end
        self.queue_key = self.key_of(request, candidate)
        self._text = TextAssembler(piece, request.stop)
        self._end_tokens, self._n_ctx = end_tokens, n_ctx
        self._logprobs: list[float] = []
        self._top: list[tuple[TokenLogprob, ...]] = []
        self._released = 0
        self.replayed = ""
        """The text of the answer so far that it began with."""
        self._replay(request.so_far[candidate] if request.so_far else Tokens())
        self.lookup = Lookup(self.tokens, acceptance) if request.lookup else None
        self.speculator: Speculator | None = self.lookup
        if sampler.matcher:
            self.speculator = Guided(self.tokens, sampler, self.lookup)

    @staticmethod
    def key_of(request: Request, candidate: int) -> tuple[float, int, int]:
        """The place in the queue: first come, first served, within a priority and with age across them."""
        delay_s = BATCH_DELAY_S if request.priority == Priority.BATCH else 0.0
        return request.arrived + delay_s, request.id, candidate

    def _replay(self, so_far: Tokens) -> None:
        """Takes over an answer so far. What could be released of it was shown before."""
        n = len(so_far.token_ids)
        self._logprobs = list(so_far.logprobs) or [math.nan] * n
        if self.request.top_logprobs:
            self._top = list(so_far.top) or [()] * n
        for token in so_far.token_ids:
            self.sampler.accept(token)
            self.tokens.append(token)
            if reason := self._after_token(token):
                self._end(reason)
                return
        self.replayed, released = self._text.release()
        self._released += released

    @property
    def n_answered(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - self.n_prompt

    @property
    def pending(self) -> int:
        """Tokens that have no cells yet."""
        return len(self.tokens) - (self.slot.length if self.slot else 0)

    @property
    def decodes(self) -> bool:
        """Whether the next step gives the next token of an answer that has begun."""
        return self.pending == 1 and self.n_answered > 0

    def take(self, choice: Choice) -> Piece | None:
        """Adds a chosen token; sets `ending` if the answer ends with it. Returns what can be shown now."""
        if choice.token in self._end_tokens:
            return self._end(FinishReason.STOP)
        self.tokens.append(choice.token)
        self._logprobs.append(choice.logprob)
        if choice.top:
            self._top.append(choice.top)
        if self.lookup:
            self.lookup.push()
        if reason := self._after_token(choice.token):
            return self._end(reason)
        return self._piece(*self._text.release())

    def end_early(self) -> Piece | None:
        """Ends the answer with what is written so far, as its time budget is over, or lets it come to a valid end."""
        if self.closes or (self.decodes and not self._out_of(FinishReason.TIME_BUDGET)):
            return None
        return self._end(FinishReason.TIME_BUDGET)

    @property
    def closes(self) -> bool:
        """Whether a limit is reached, and only what brings the answer to a valid end is still written."""
        return bool(self.sampler.planned)

    @property
    def room(self) -> int:
        """How many tokens can follow at most."""
        return len(self.sampler.planned) or self.request.max_tokens - self.n_answered

    def _after_token(self, token: int) -> FinishReason | None:
        if self._text.push(token):
            return FinishReason.STOP_STRING
        if self._limit:
            return None if self.closes else self._limit
        if self.sampler.is_complete:
            return FinishReason.STOP
        if self.n_answered >= self.request.max_tokens:
            return self._out_of(FinishReason.LENGTH)
        return FinishReason.CONTEXT_FULL if len(self.tokens) >= self._n_ctx else None

    def _out_of(self, limit: FinishReason) -> FinishReason | None:
        """The limit, or None where a valid end is still to be written."""
        most = min(self.request.close_json, self._n_ctx - len(self.tokens))
        if most > 0 and self.sampler.plan_ending(self._text.raw, most):
            self._limit = limit
            return None
        return limit

    def _end(self, reason: FinishReason) -> Piece | None:
        last = self._piece(*self._text.release(final=True))
        self.ending = Ending(text=self._text.text, reason=reason, tokens=self._answer(0, self.n_answered))
        return last

    def _piece(self, text: str, count: int) -> Piece | None:
        if not count:
            return None
        start, self._released = self._released, self._released + count
        return Piece(
            id=self.request.id, candidate=self.candidate, text=text,
            tokens=self._answer(start, self._released), first=not start,
        )  # fmt: skip

    def _answer(self, start: int, end: int) -> Tokens:
        return Tokens(
            token_ids=tuple(self.tokens[self.n_prompt + start : self.n_prompt + end]),
            logprobs=tuple(self._logprobs[start:end]),
            top=tuple(self._top[start:end]),
        )
