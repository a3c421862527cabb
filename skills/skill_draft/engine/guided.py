"""Guesses for an answer with a grammar: what the grammar forces, and what the text so far suggests and it allows.

A guess is checked against what the sampler chooses, so none changes an answer. What is forced is always right: most of
the keys of a JSON answer cost a row, and not a step.
"""

from __future__ import annotations

from typing import Protocol

from .lookup import Lookup
from .sampling import Sampler

_MOST = 31


class Speculator(Protocol):
    """Says what may follow in an answer."""

    num_forced: int
    """How many of the guesses, at their beginning, are right in any case."""

    def propose(self, n: int) -> list[int]:
        """The next n tokens at most."""

    def expected(self, n: int) -> float:
        """How many of n guesses are expected to be right."""


class Guided:
    """The guesses of one answer."""

    def __init__(self, tokens: list[int], sampler: Sampler, lookup: Lookup | None) -> None:
        """`tokens` is the sequence's own list: it grows, and the sampler's grammar moves on with it."""
        self._tokens, self._sampler, self._lookup = tokens, sampler, lookup
        self._proposed: list[int] = []
        self._at = -1  # the length of `tokens` that the guesses are for
        self.num_forced = 0

    def propose(self, n: int) -> list[int]:
        """The next n tokens at most."""
        self._look()
        return self._proposed[:n]

    def expected(self, n: int) -> float:
        """How many of n guesses are expected to be right."""
        self._look()
        more = min(n, len(self._proposed)) - self.num_forced
        return min(n, self.num_forced) + (self._lookup.expected(more) if self._lookup and more > 0 else 0.0)

    def _look(self) -> None:
        if self._at == len(self._tokens):
            return
        self._at = len(self._tokens)
        matcher = self._sampler.matcher
        assert matcher is not None
        forced = (self._sampler.planned or matcher.forced())[:_MOST]
        found = self._lookup.propose(_MOST) if self._lookup and not self._sampler.planned else []
        found = found[: matcher.fitting(found)] if found else []
        self.num_forced = len(forced)
        self._proposed = found if found[: len(forced)] == forced else forced
