"""From logits to the next token.

The k-th random number of an answer is a function of its seed and k, and penalties are a function of the tokens, so
nothing but a grammar has a state that a continued answer would have to replay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .binding import Grammar, GrammarError, Vocab
from .drawing import draw
from .messages import Sampling, TokenLogprob

PENALTY_WINDOW = 64  # tokens, llama.cpp's default
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


class SamplingError(Exception):
    """No token can be chosen; `fault` is the field of the request that is to blame, if one is."""

    def __init__(self, message: str, fault: str = "") -> None:
        super().__init__(message)
        self.fault = fault


def uniform(seed: int, k: int) -> float:
    """The k-th random number of a seed, in [0, 1): SplitMix64 (Steele, Lea and Flood 2014) starts anywhere."""
    z = (seed * 0xD1342543DE82EF95 + (k + 1) * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def candidate_seed(seed: int, candidate: int) -> int:
    """The seed of a request's i-th candidate. The first has the request's own, so that it is the single answer."""
    return seed if candidate == 0 else (seed + candidate * _GOLDEN) & _MASK


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A chosen token; log-probabilities are the model's own, before any sampling setting."""

    token: int
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


class Scratch:
    """Arrays of a vocabulary's length that all sequences share; one address, so sums are always the same bits."""

    def __init__(self, n_vocab: int) -> None:
        self.values = np.empty(n_vocab, np.float32)


class Sampler:
    """Chooses the tokens of one sequence."""

    def __init__(
        self, vocab: Vocab, scratch: Scratch, sampling: Sampling, *, gbnf: str = "", top_logprobs: int = 0
    ) -> None:
        """Raises `SamplingError` if llama.cpp cannot parse the grammar."""
        self._vocab, self._scratch, self._sampling, self._top = vocab, scratch, sampling, top_logprobs
        self._penalises = sampling.repeat_penalty != 1 or sampling.presence_penalty or sampling.frequency_penalty
        self._grammar = _grammar(vocab, gbnf) if gbnf else None
        self._takes_likeliest = sampling.temperature == 0 and not gbnf

    def choose(self, logits: npt.NDArray[np.float32], history: list[int], k: int) -> Choice:
        """The k-th token of an answer.

        Args:
            logits: of shape (n_vocab,); not changed.
            history: all tokens so far, the prompt's too; penalties look at the last 64.
            k: how many tokens the answer has already.

        Raises:
            SamplingError: the logits are not numbers, or the grammar leaves no token.
        """
        token = int(logits.argmax())
        best = float(logits[token])
        if not math.isfinite(best):
            raise SamplingError(f"the model's largest logit is {best}")
        log_total = self._log_total(logits, best)
        if self._penalises:
            values = self._penalised(logits, history[-PENALTY_WINDOW:])
            token = int(values.argmax())
            if not self._takes_likeliest:
                token = self._draw(values, token, self._log_total(values, float(values[token])), k)
        elif not self._takes_likeliest:
            token = self._draw(logits, token, log_total, k)
        self.accept(token)
        # As the wire has them, so that an answer continued from the wire is the same to the last bit.
        logprob = float(np.float32(float(logits[token]) - log_total))
        return Choice(token=token, logprob=logprob, top=self._most_probable(logits, log_total))

    @staticmethod
    def allows(vocab: Vocab, gbnf: str, tokens: Sequence[int]) -> bool:
        """Whether a grammar lets these tokens come one after the other."""
        grammar = _grammar(vocab, gbnf)
        for token in tokens:
            if not grammar.allows(np.array([token], np.int32))[0]:
                return False
            grammar.accept(token)
        return True

    def accept(self, token: int) -> None:
        """Moves the grammar on over a token that this sampler chose, here or in an earlier life."""
        if self._grammar:
            self._grammar.accept(token)

    def _draw(self, values: npt.NDArray[np.float32], best: int, log_total: float, k: int) -> int:
        allows = self._grammar.allows if self._grammar else None
        token = draw(values, best, log_total, self._sampling, uniform(self._sampling.seed, k), allows=allows)
        if token is None:
            raise SamplingError("the grammar allows no token that this model has", "grammar")
        return token

    def _log_total(self, logits: npt.NDArray[np.float32], best: float) -> float:
        """The logarithm of the sum of the logits' exponentials."""
        values = self._scratch.values
        np.subtract(logits, np.float32(best), out=values)
        np.exp(values, out=values)
        return best + math.log(float(values.sum()))

    def _penalised(self, logits: npt.NDArray[np.float32], window: list[int]) -> npt.NDArray[np.float32]:
        """llama.cpp's formulas (llama_sampler_penalties_apply), on a copy."""
        values = logits.copy()
        tokens, counts = np.unique(np.asarray(window, np.int32), return_counts=True)
        s = self._sampling
        chosen = values[tokens]
        repeat = np.float32(s.repeat_penalty)
        chosen = np.where(chosen <= 0, chosen * repeat, chosen / repeat)
        values[tokens] = chosen - (counts * s.frequency_penalty + s.presence_penalty).astype(np.float32)
        return values

    def _most_probable(self, logits: npt.NDArray[np.float32], log_total: float) -> tuple[TokenLogprob, ...]:
        if not self._top:
            return ()
        best = np.argpartition(logits, -self._top)[-self._top :]
        best = best[np.lexsort((best, -logits[best]))]
        return tuple(
            TokenLogprob(token_id=int(t), text=self._vocab.piece(int(t)), logprob=float(logits[t]) - log_total)
            for t in best
        )


def _grammar(vocab: Vocab, gbnf: str) -> Grammar:
    try:
        return Grammar(vocab, gbnf)
    except GrammarError as error:
        raise SamplingError(str(error), "grammar") from error
