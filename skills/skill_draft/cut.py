"""Read a call's answer from tokens that were computed for a call with other limits.

In exact numerics `max_tokens`, `stop` and the context only cut an answer. So the answer of a call is read here, by the
rules of `engine.sequence`, from a trajectory that is kept or still growing: the same text, tokens and ending.
"""

from __future__ import annotations

import math

from .engine.messages import Ending, FinishReason, Piece, Request, Tokens
from .engine.text import TextAssembler
from .trajectory import End, Trajectory


class Cut:
    """One candidate of a call.

    Args:
        request: The call's request.
        candidate: Which of its candidates.
        n_ctx: The context length, tokens.
        limited: Whether the tokens depend on the request's limits, so that they end where these say.
    """

    def __init__(self, request: Request, candidate: int, *, n_ctx: int, limited: bool) -> None:
        self._request, self._candidate, self._n_ctx, self._limited = request, candidate, n_ctx, limited
        self._had = request.so_far[candidate] if request.so_far else Tokens()
        self._text = TextAssembler(request.stop)
        self._shown = 0
        self.source = self._tokens = Tokens()
        """The tokens that were read, as they were computed, with the alternatives that the call wants.

        `_tokens` are the same for the call: it gets back the log-probabilities that it has given.
        """
        self.replayed = ""
        """The text of the tokens that the call goes on from, as far as it was shown."""
        self.ending: Ending | None = None

    @property
    def n_had(self) -> int:
        """Number of tokens that the call goes on from."""
        return len(self._had.token_ids)

    def fits(self, kept: Trajectory) -> bool:
        """Return whether the answer can begin with a trajectory: it has what the call has, and all that it asks for."""
        begins = kept.tokens.token_ids[: self.n_had] == self._had.token_ids
        return begins and kept.top_logprobs >= self._request.top_logprobs and kept.prompt_tokens < self._n_ctx

    def read(self, tokens: Tokens, end: End | None, *, prompt_tokens: int) -> Piece | None:
        """Read the tokens that are new, set `ending` if the answer ends with them, and return what can be shown.

        Args:
            tokens: All tokens that there are, also those that were read before.
            end: What follows them; None if that is not known yet.
            prompt_tokens: Tokens of the prompt.
        """
        if self.ending:
            return None
        room = math.inf if self._limited else min(self._request.max_tokens, self._n_ctx - prompt_tokens)
        start = len(self.source.token_ids)
        self._take(tokens.part(start, None if room == math.inf else max(start, int(room))))
        all_read = len(self.source.token_ids) >= len(tokens.token_ids)
        if reason := self._why_ended(end if all_read else End.OPEN, room):
            complete = all_read and end is End.COMPLETE
            return self.finish(reason, complete=complete, computed=reason is FinishReason.STOP and not complete)
        return self._piece(*self._text.release()) if len(self.source.token_ids) >= self.n_had else None

    def _why_ended(self, end: End | None, room: float) -> FinishReason | None:
        """Return why the answer ends with the last token that was read, if it does; `end` is what follows that."""
        n = len(self.source.token_ids)
        if self._text.stopped:
            return FinishReason.STOP_STRING
        if end is End.COMPLETE:
            return FinishReason.STOP
        # Of the newest token it is not known yet whether it completes a constraint.
        if n >= room and (end is not None or self._request.constraint is None):
            return FinishReason.LENGTH if n >= self._request.max_tokens else FinishReason.CONTEXT_FULL
        return {End.LIMIT: FinishReason.LENGTH, End.ENDED: FinishReason.STOP}.get(end) if end else None

    def finish(self, reason: FinishReason, *, complete: bool = False, computed: bool = False) -> Piece | None:
        """End the answer; return what is left to show.

        Args:
            reason: Why it ends.
            complete: Whether the last token completed the constraint.
            computed: Whether a step after the last token has found out that it ends. If the call came with a whole
                answer, none has, and there is nothing to show.
        """
        silent = 0 < self.n_had >= len(self.source.token_ids) and not computed
        last = self._piece(*self._text.release(final=True))
        self.ending = Ending(text=self._text.text, reason=reason, tokens=self._tokens, complete=complete)
        return None if silent else last

    def _take(self, new: Tokens) -> None:
        start = len(self.source.token_ids)
        if (left := self.n_had - start) > 0:
            self._add(new.part(0, left))
            if len(self.source.token_ids) < self.n_had or self._text.stopped:
                return
            self.replayed, self._shown = self._text.release()
            new = new.part(left)
        if new.token_ids:
            self._add(new)

    def _add(self, new: Tokens) -> None:
        start, n_top = len(self.source.token_ids), self._request.top_logprobs
        new = new.part(0, self._text.extend(new.spelling))
        if new.top:
            top = tuple(place[:n_top] for place in new.top) if n_top else ()
            new = Tokens(token_ids=new.token_ids, logprobs=new.logprobs, top=top, spelling=new.spelling)
        self.source += new
        if start < self.n_had:
            n = len(new.token_ids)
            logprobs = self._had.logprobs[start : start + n] or (math.nan,) * n
            new = Tokens(
                token_ids=new.token_ids, logprobs=logprobs, top=((),) * n if n_top else (), spelling=new.spelling
            )
        self._tokens += new

    def _piece(self, text: str, count: int) -> Piece | None:
        if not count:
            return None
        start, self._shown = self._shown, self._shown + count
        tokens = self._tokens.part(start, self._shown)
        return Piece(id=self._request.id, candidate=self._candidate, text=text, tokens=tokens, first=not start)
