"""Choose the next token from logits.

The k-th random number of an answer is a function of its seed and k, and penalties are a function of the tokens, so only
a grammar has state that a continued answer must replay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .binding import Vocab
from .constraint import ConstraintError
from .drawing import draw
from .ending import ending
from .matcher import Matcher
from .messages import ConstraintKind, Sampling, TokenLogprob
from .seeds import uniform

_JSON = (ConstraintKind.JSON_SCHEMA, ConstraintKind.JSON_OBJECT)
PENALTY_WINDOW = 64  # tokens, llama.cpp's default


class SamplingError(Exception):
    """No token can be chosen; `fault` is the request field to blame, empty if the request is not at fault."""

    def __init__(self, message: str, fault: str = "") -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A chosen token; log-probabilities are the model's own, before any sampling settings."""

    token: int
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


class Scratch:
    """Arrays of the vocabulary's length that all sequences share; a fixed address keeps the bits of sums the same."""

    def __init__(self, n_vocab: int) -> None:
        self.values = np.empty(n_vocab, np.float32)
        self.allowed = np.empty(n_vocab, np.float32)


class Sampler:
    """Chooses the tokens of one sequence."""

    def __init__(
        self,
        vocab: Vocab,
        scratch: Scratch,
        sampling: Sampling,
        *,
        matcher: Matcher | None = None,
        top_logprobs: int = 0,
    ) -> None:
        """`matcher` is the grammar's state after what the answer has already."""
        self._vocab, self._scratch, self._sampling, self._top = vocab, scratch, sampling, top_logprobs
        self._penalises = sampling.repeat_penalty != 1 or sampling.presence_penalty or sampling.frequency_penalty
        self.matcher = matcher
        self.planned: list[int] = []  # tokens to choose next regardless of the logits

    def choose(self, logits: npt.NDArray[np.float32], history: list[int], k: int) -> Choice:
        """Choose the k-th token of an answer and advance the grammar.

        Args:
            logits: Shape (n_vocab,); not changed.
            history: All tokens so far, including the prompt's; penalties use the text among the last 64.
            k: How many tokens the answer has already.

        Raises:
            SamplingError: The logits are not finite, or the grammar allows no token.
        """
        best = float(logits.max())
        if not math.isfinite(best):
            raise SamplingError(f"the model's largest logit is {best}")
        log_total = self._log_total(logits, best)
        token = self.planned[0] if self.planned else self._drawn(logits, log_total, history, k)
        if token not in self._vocab.eog:
            self.accept(token)
        # Rounded as on the wire, so that an answer continued from the wire is the same to the last bit.
        logprob = float(np.float32(float(logits[token]) - log_total))
        return Choice(token=token, logprob=logprob, top=self._most_probable(logits, log_total))

    def _drawn(self, logits: npt.NDArray[np.float32], log_total: float, history: list[int], k: int) -> int:
        values = self._penalised(logits, history[-PENALTY_WINDOW:]) if self._penalises else logits
        if self.matcher:
            values = self._masked(values, self.matcher)
        token = int(values.argmax())
        if not self._sampling.temperature:
            return token
        total = log_total if values is logits else self._log_total(values, float(values[token]))
        return draw(values, token, total, self._sampling, uniform(self._sampling.seed, k))

    def accept(self, token: int) -> None:
        """Advance by a token that was chosen here or is replayed; raise `SamplingError` if the grammar forbids it."""
        if self.planned:
            del self.planned[0]
        if self.matcher:
            try:
                self.matcher.accept(token)
            except ConstraintError as error:
                raise SamplingError(str(error), self.matcher.kind.value) from error

    @property
    def is_complete(self) -> bool:
        """Whether the answer satisfies its constraint and nothing can follow."""
        return self.matcher is not None and self.matcher.is_complete

    def plan_ending(self, so_far: bytes, max_tokens: int) -> bool:
        """Plan the tokens that complete the JSON; return false if it needs none, or more than `max_tokens`."""
        if self.matcher and self.matcher.kind in _JSON:
            self.planned = ending(self.matcher, so_far, max_tokens)
        return bool(self.planned)

    def _masked(self, values: npt.NDArray[np.float32], matcher: Matcher) -> npt.NDArray[np.float32]:
        """Return the values, with minus infinity for tokens that the grammar forbids."""
        masked = self._scratch.allowed
        masked.fill(-math.inf)
        try:
            np.copyto(masked, values, where=matcher.allowed())
        except ConstraintError as error:
            raise SamplingError(str(error), matcher.kind.value) from error
        if not math.isfinite(masked.max()):
            raise SamplingError("allows no token that this model has", matcher.kind.value)
        return masked

    def _log_total(self, logits: npt.NDArray[np.float32], best: float) -> float:
        """Return the logarithm of the sum of the logits' exponentials."""
        values = self._scratch.values
        np.subtract(logits, np.float32(best), out=values)
        np.exp(values, out=values)
        return best + math.log(float(values.sum()))

    def _penalised(self, logits: npt.NDArray[np.float32], window: list[int]) -> npt.NDArray[np.float32]:
        """Return a copy with penalties applied by llama.cpp's formulas (llama_sampler_penalties_apply)."""
        values = logits.copy()
        text = [token for token in window if token >= 0]  # ids of images have no logits
        tokens, counts = np.unique(np.asarray(text, np.int32), return_counts=True)
        s = self._sampling
        chosen = values[tokens]
        repeat = np.float32(s.repeat_penalty)
        chosen = np.where(chosen <= 0, chosen * repeat, chosen / repeat)
        values[tokens] = chosen - (counts * s.frequency_penalty + s.presence_penalty).astype(np.float32)
        return values

    def _most_probable(self, logits: npt.NDArray[np.float32], log_total: float) -> tuple[TokenLogprob, ...]:
        if not self._top:
            return ()
        least = np.partition(logits, -self._top)[-self._top]
        best = np.flatnonzero(logits >= least)  # also those equal to the least: fewer are then a part of more
        best = best[np.lexsort((best, -logits[best]))][: self._top]
        return tuple(
            TokenLogprob(token_id=int(t), text=self._vocab.piece(int(t)), logprob=float(logits[t]) - log_total)
            for t in best
        )
