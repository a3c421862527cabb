"""Speculative tokens for an answer with a grammar: those that the grammar forces, then those that lookup proposes.

Each is verified against the sampler's choice, so none changes an answer. Forced tokens are always right: most keys of a
JSON answer cost a row each instead of a step.
"""

from __future__ import annotations

from typing import Protocol

from .lookup import AnyLookup
from .sampling import Sampler

_MOST = 31


class Speculator(Protocol):
    """Proposes the next tokens of an answer."""

    num_forced: int
    """How many of the proposed tokens, at the beginning, are certain."""

    def propose(self, n: int) -> list[int]:
        """Return at most `n` proposed tokens."""

    def expected(self, n: int) -> float:
        """Return how many of `n` proposed tokens are expected to be accepted."""


class Guided:
    """The speculator of one answer with a grammar."""

    def __init__(self, tokens: list[int], sampler: Sampler, lookup: AnyLookup | None) -> None:
        """`tokens` is the sequence's own list: it grows, and the sampler's grammar advances with it."""
        self._tokens, self._sampler, self._lookup = tokens, sampler, lookup
        self._proposed: list[int] = []
        self._at = -1  # the length of `tokens` that the proposal is for
        self.num_forced = 0

    def propose(self, n: int) -> list[int]:
        """Return at most `n` proposed tokens."""
        self._look()
        return self._proposed[:n]

    def expected(self, n: int) -> float:
        """Return how many of `n` proposed tokens are expected to be accepted."""
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
