"""The state of a request in the engine: a call, with a sequence for each candidate answer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from .guided import Guided, Speculator
from .images import PromptImages, Run
from .keeping import Stored
from .lookup import NGRAM, AcceptanceRates, AnyLookup, BothLookups, HintLookup, Lookup
from .messages import Ending, FinishReason, Piece, Priority, Request, TokenLogprob, Tokens
from .sampling import Choice, Sampler
from .slots import Owner, Slot
from .text import TextAssembler
from .tokens import Ints

# A batch request queues as if it had arrived this much later: it rises with age and never starves.
BATCH_DELAY_S = 10.0


class Sequence:
    """One growing list of tokens: the prompt, then the chosen tokens.

    Tokens beyond the cells of its slot are pending: many of them are prefill, one is decode. So a new request, a
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
        hint_acceptance: AcceptanceRates,
        images: PromptImages | None = None,
    ) -> None:
        self.request, self.candidate = request, candidate
        self.tokens = list(prompt)
        self.n_prompt = len(prompt)
        self.images = images
        self.sampler = sampler
        self.owner = Owner(request.tenant, request.id, request.keep)
        self.to_read = len(prompt)  # pending tokens that a prefix is not expected to save (see `LoadMeter`)
        self.slot: Slot | None = None
        self.stored: Stored | None = None  # blocks of its prompt that files have, until it starts
        self.leader: tuple[Sequence, int] | None = None  # a sequence to wait for until it has this many cells
        self.ending: Ending | None = None
        self._limit: FinishReason | None = None  # the limit after which only planned tokens are written
        self.queue_key = self.key_of(request, candidate)
        self._text, self._piece_of = TextAssembler(request.stop), piece
        self._end_tokens, self._n_ctx = end_tokens, n_ctx
        self._logprobs: list[float] = []
        self._top: list[tuple[TokenLogprob, ...]] = []
        self._spelling: list[bytes] = []
        self._released = 0
        self.replayed = ""
        """The text of the answer that was continued; empty for a new one."""
        self._replay(request.so_far[candidate] if request.so_far else Tokens())
        self.lookup: AnyLookup | None = Lookup(self.tokens, acceptance) if request.lookup else None
        if self.lookup and request.hint:
            hint = HintLookup(self.tokens, hint_acceptance, [*prompt[-NGRAM:], *request.hint])
            self.lookup = BothLookups(self.lookup, hint)
        self.speculator: Speculator | None = self.lookup
        if sampler.matcher:
            self.speculator = Guided(self.tokens, sampler, self.lookup)

    @staticmethod
    def key_of(request: Request, candidate: int) -> tuple[float, int, int]:
        """Return the sort key in the queue: by arrival, with batch requests `BATCH_DELAY_S` later."""
        delay_s = BATCH_DELAY_S if request.priority == Priority.BATCH else 0.0
        return request.arrived + delay_s, request.id, candidate

    def _replay(self, so_far: Tokens) -> None:
        """Continue an answer. The text of it that can be released counts as shown already."""
        n = len(so_far.token_ids)
        self._logprobs = list(so_far.logprobs) or [math.nan] * n
        if self.request.top_logprobs:
            self._top = list(so_far.top) or [()] * n
        for token in so_far.token_ids:
            self.sampler.accept(token)
            self.tokens.append(token)
            if reason := self._after_token(token):
                self._end(reason, complete=self.sampler.is_complete)
                return
        self.replayed, released = self._text.release()
        self._released += released

    @property
    def n_answered(self) -> int:
        """Number of tokens that the answer has."""
        return len(self.tokens) - self.n_prompt

    @property
    def pending(self) -> int:
        """Number of tokens that have no cells yet."""
        return len(self.tokens) - (self.slot.length if self.slot else 0)

    @property
    def readable(self) -> int:
        """Number of pending tokens that a step can compute: not those of an image without rows, nor what follows."""
        if self.images is None:
            return self.pending
        return self.images.readable(self.slot.length if self.slot else 0, len(self.tokens))

    @property
    def image(self) -> Run | None:
        """The image that the next pending token is part of, if any."""
        return self.images.at(self.slot.length if self.slot else 0) if self.images else None

    def positions(self, start: int, n: int) -> Ints | range:
        """Return the positions of `n` tokens from index `start` on; of an image, those in time."""
        return self.images.positions(start, n)[0] if self.images else range(start, start + n)

    @property
    def decodes(self) -> bool:
        """Whether the next step yields the next token of an answer that has begun."""
        return self.pending == 1 and self.n_answered > 0

    def hurry(self) -> None:
        """Make it interactive. The caller restores the order of the list that it is in."""
        self.request = dataclasses.replace(self.request, priority=Priority.INTERACTIVE)
        self.queue_key = self.key_of(self.request, self.candidate)

    def take(self, choice: Choice) -> Piece | None:
        """Add a chosen token, setting `ending` if the answer ends with it; return what can be shown now."""
        if choice.token in self._end_tokens:
            return self._end(FinishReason.STOP)
        self.tokens.append(choice.token)
        self._logprobs.append(choice.logprob)
        if choice.top:
            self._top.append(choice.top)
        if self.lookup:
            self.lookup.push()
        if reason := self._after_token(choice.token):
            return self._end(reason, complete=self.sampler.is_complete)
        return self._piece(*self._text.release())

    def end_early(self) -> Piece | None:
        """End the answer, as its time budget is over, unless JSON remains to be completed; return the last piece."""
        if self.closes or (self.decodes and not self._out_of(FinishReason.TIME_BUDGET)):
            return None
        return self._end(FinishReason.TIME_BUDGET)

    @property
    def closes(self) -> bool:
        """Whether a limit is reached and only the planned ending is still to be written."""
        return bool(self.sampler.planned)

    @property
    def room(self) -> int:
        """The most tokens that can follow."""
        return len(self.sampler.planned) or self.request.max_tokens - self.n_answered

    def _after_token(self, token: int) -> FinishReason | None:
        self._spelling.append(piece := self._piece_of(token))
        if self._text.push(piece):
            return FinishReason.STOP_STRING
        if self._limit:
            return None if self.closes else self._limit
        if self.sampler.is_complete:
            return FinishReason.STOP
        if self.n_answered >= self.request.max_tokens:
            return self._out_of(FinishReason.LENGTH)
        return FinishReason.CONTEXT_FULL if len(self.tokens) >= self._n_ctx else None

    def _out_of(self, limit: FinishReason) -> FinishReason | None:
        """Return the limit, or None if an ending was planned that is still to be written."""
        most = min(self.request.close_json, self._n_ctx - len(self.tokens))
        if most > 0 and self.sampler.plan_ending(self._text.raw, most):
            self._limit = limit
            return None
        return limit

    def _end(self, reason: FinishReason, *, complete: bool = False) -> Piece | None:
        last = self._piece(*self._text.release(final=True))
        tokens = self._answer(0, self.n_answered)
        self.ending = Ending(text=self._text.text, reason=reason, tokens=tokens, complete=complete)
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
            spelling=tuple(self._spelling[start:end]),
        )


@dataclass(slots=True)
class Call:
    """A request and its candidates."""

    request: Request
    sequences: list[Sequence]
    images: PromptImages | None = None
    endings: dict[int, Ending] = field(default_factory=dict)
    admitted_at: float | None = None
    begun: bool = False
    """Whether this engine has written any of its tokens."""
    lookup_tokens: int = 0
    lookup_accepted: int = 0
    hint_tokens: int = 0
    hint_accepted: int = 0
