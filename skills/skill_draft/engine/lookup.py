"""Lookup: guesses the next tokens from the text so far.

A correction repeats most of its draft, and code, quotes and lists repeat themselves. Where the last tokens stood
before, what followed them then is likely to follow now, and several such tokens are checked in one step.
"""

from __future__ import annotations

from collections.abc import Sequence

NGRAM = 3
# How often a guess is right, at first: by how many tokens in a row were the same before it. The first is for a guess
# just after a wrong one, in case that a word was exchanged and the rest is as it was.
_SAME = (0, NGRAM, NGRAM + 4, NGRAM + 8, NGRAM + 16)
_PRIORS = (0.2, 0.35, 0.6, 0.8, 0.93)
# Behind so many tokens that were the same, one that is not is taken for an exchanged one.
_EXCHANGED = NGRAM + 4


class AcceptanceRates:
    """How often guesses were right, by how many tokens before them were the same. Also of those that were not made."""

    def __init__(self, rates: Sequence[float] = _PRIORS, *, weight: float = 40.0, decay: float = 0.998) -> None:
        """Begins with `rates`, as if they had been seen `weight` times; forgets by the factor `decay`."""
        self._right, self._tried = [rate * weight for rate in rates], [weight] * len(rates)
        self._decay = decay

    @property
    def rates(self) -> list[float]:
        """The shares of right ones."""
        return [right / tried for right, tried in zip(self._right, self._tried, strict=True)]

    def note(self, same: int, right: bool) -> None:
        """Behind so many tokens that were the same, the next one was too, or not."""
        at = _bucket(same)
        self._right[at] = self._right[at] * self._decay + right
        self._tried[at] = self._tried[at] * self._decay + 1

    def expected(self, same: int, n: int) -> float:
        """How many of n guesses are expected to be right."""
        rates, total, chance = self.rates, 0.0, 1.0
        for i in range(n):
            chance *= rates[_bucket(same + i)]
            total += chance
        return total


class Lookup:
    """The n-gram index of one sequence, updated as tokens come, and the record of its guesses."""

    num_forced = 0  # each guess may be wrong

    def __init__(self, tokens: list[int], shared: AcceptanceRates) -> None:
        """Indexes `tokens`, which is the sequence's own list: it grows, and `push` is told.

        `shared` is the record of all sequences: each begins with it, and adds to it.
        """
        self._tokens = tokens
        self._shared, self._own = shared, AcceptanceRates(shared.rates, weight=4.0, decay=0.97)
        self._after: dict[tuple[int, ...], int] = {}
        self._source: int | None = None  # where the guess for the next token stands
        self._same = 0  # how many tokens before it are the last ones of the list too
        for end in range(NGRAM, len(tokens) + 1):
            self._index(end)

    def _index(self, end: int) -> int | None:
        """Notes that the n-gram before `end` is followed from `end` on; returns where it was before."""
        key = tuple(self._tokens[end - NGRAM : end])
        before = self._after.get(key)
        self._after[key] = end
        return before

    def push(self) -> None:
        """One more token stands at the end of the sequence's list."""
        end = len(self._tokens)
        seen = self._index(end) if end >= NGRAM else None
        source, same = self._source, self._same
        if source is not None:
            right = self._tokens[source] == self._tokens[-1]
            self._own.note(same, right)
            self._shared.note(same, right)
            if right:
                self._source, self._same = source + 1, same + 1
                return
        if seen is not None:
            self._source, self._same = seen, self._same_before(seen)
        elif source is not None and same >= _EXCHANGED:
            self._source, self._same = source + 1, 0
        else:
            self._source = None

    def _same_before(self, source: int) -> int:
        """How many tokens before `source` are the last ones of the list too, as far as it matters."""
        tokens, n = self._tokens, NGRAM
        while n < _SAME[-1] and n < source and tokens[source - n - 1] == tokens[-n - 1]:
            n += 1
        return n

    def propose(self, n: int) -> list[int]:
        """The next n tokens as they followed last time; empty where nothing matches."""
        if self._source is None or n <= 0:
            return []
        period = len(self._tokens) - self._source
        return [self._tokens[self._source + i % period] for i in range(n)]

    def expected(self, n: int) -> float:
        """How many of n guesses are expected to be right."""
        return self._own.expected(self._same, n) if self._source is not None else 0.0


def _bucket(same: int) -> int:
    return max(0, sum(same >= s for s in _SAME) - 1)
