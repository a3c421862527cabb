"""Lookup: n-gram speculation from the text so far, and from a hint, which is the answer to a near-equal prompt.

A correction repeats most of its draft, and code, quotes and lists repeat themselves. If the last tokens occurred
before, what followed them then is likely to follow now, and several such tokens are verified in one step. Tokens of
images, which have negative ids, are neither compared nor proposed.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence

NGRAM = 3
# Initial acceptance rates by the length of the match before the speculative token. The first rate is for a token right
# after a wrong one, in case a single word was replaced and the rest is unchanged.
_SAME = (0, NGRAM, NGRAM + 4, NGRAM + 8, NGRAM + 16)
_PRIORS = (0.2, 0.35, 0.6, 0.8, 0.93)


class AcceptanceRates:
    """Acceptance rates by length of match; proposals that were never verified in a step count too."""

    def __init__(self, rates: Sequence[float] = _PRIORS, *, weight: float = 40.0, decay: float = 0.998) -> None:
        """Start with `rates` as if each had been observed `weight` times; `decay` is the share kept per observation."""
        self._right, self._tried = [rate * weight for rate in rates], [weight] * len(rates)
        self._decay = decay

    @property
    def rates(self) -> list[float]:
        """The acceptance rate of each length of match."""
        return [right / tried for right, tried in zip(self._right, self._tried, strict=True)]

    def note(self, same: int, right: bool) -> None:
        """Record whether the proposed token after a match of `same` tokens was right."""
        at = _bucket(same)
        self._right[at] = self._right[at] * self._decay + right
        self._tried[at] = self._tried[at] * self._decay + 1

    def expected(self, same: int, n: int) -> float:
        """Return how many of `n` tokens proposed after a match of `same` tokens are expected to be accepted."""
        rates, total, chance = self.rates, 0.0, 1.0
        for i in range(n):
            chance *= rates[_bucket(same + i)]
            total += chance
        return total


class Lookup:
    """The n-gram index of one sequence, updated with each token, and its acceptance rates."""

    num_forced = 0  # any proposed token may be wrong
    from_hint = False  # whether what it proposes comes from a hint
    exchanged = NGRAM + 4  # after a match of this length, a token that differs is taken for a replaced word

    def __init__(self, tokens: list[int], shared: AcceptanceRates) -> None:
        """Index `tokens`, the sequence's own list; call `push` after each token appended to it.

        `shared` holds the rates of all sequences: each starts from them and contributes to them.
        """
        self._tokens = tokens
        self._text: Sequence[int] = tokens  # from which it proposes
        self._shared, self._own = shared, AcceptanceRates(shared.rates, weight=4.0, decay=0.97)
        self._after: dict[tuple[int, ...], int] = {}
        self._source: int | None = None  # position of the token proposed next
        self._same = 0  # length of the match before it
        self._start()

    def _start(self) -> None:
        for end in range(NGRAM, len(self._tokens) + 1):
            self._index(end)

    def _index(self, end: int) -> int | None:
        """Index the n-gram that ends before `end`; return the end of its previous occurrence."""
        key = tuple(self._tokens[end - NGRAM : end])
        if min(key) < 0:
            return None
        before = self._after.get(key)
        self._after[key] = end
        return before

    def push(self) -> None:
        """Index the token that was appended to the sequence's list, and score what was proposed for it."""
        end = len(self._tokens)
        seen = self._index(end) if end >= NGRAM else None
        source, same = self._source, self._same
        if source is not None:
            right = self._text[source] == self._tokens[-1]
            self._own.note(same, right)
            self._shared.note(same, right)
            if right:
                self._go_on(source + 1, same + 1)
                return
        if seen is not None:
            self._go_on(seen, self._same_before(seen))
        elif source is not None and same >= self.exchanged:
            self._go_on(source + 1, 0)
        else:
            self._source = None

    def _go_on(self, source: int, same: int) -> None:
        """Propose what follows at `source`, unless that is an image or the end."""
        self._source = source if source < len(self._text) and self._text[source] >= 0 else None
        self._same = same

    def _same_before(self, source: int) -> int:
        """Return the length of the match that ends before `source`, up to the longest that makes a difference."""
        tokens, n = self._tokens, NGRAM
        most = min(_SAME[-1], source, len(tokens))
        while n < most and self._text[source - n - 1] == tokens[-n - 1] >= 0:
            n += 1
        return n

    def propose(self, n: int) -> list[int]:
        """Return the `n` tokens that followed last time, fewer before an image; empty without a match."""
        if self._source is None or n <= 0:
            return []
        period = len(self._tokens) - self._source
        followed = (self._tokens[self._source + i % period] for i in range(n))
        return list(itertools.takewhile(lambda token: token >= 0, followed))

    def expected(self, n: int) -> float:
        """Return how many of `n` proposed tokens are expected to be accepted."""
        return self._own.expected(self._same, n) if self._source is not None else 0.0


class HintLookup(Lookup):
    """Lookup in a hint instead of the sequence's own text. A hint may be any tokens: all are verified."""

    from_hint = True
    exchanged = 1  # a match is no coincidence here: the prompts were near-equal

    def __init__(self, tokens: list[int], shared: AcceptanceRates, hint: Sequence[int]) -> None:
        """Look for `tokens` in `hint`, which begins with the end of the prompt, so that an answer's start is found."""
        self._hint = array("i", hint)
        self._bytes = self._hint.tobytes()  # searched as bytes, which takes no index
        self._last = 0  # the place in it that was proposed last
        super().__init__(tokens, shared)

    def _start(self) -> None:
        self._text = self._hint
        if len(self._tokens) >= NGRAM and (seen := self._index(len(self._tokens))) is not None:
            self._go_on(seen, self._same_before(seen))

    def _index(self, end: int) -> int | None:
        """Return the end of the n-gram's next occurrence from what was proposed last on, else of its first one."""
        self._last = self._last if self._source is None else self._source
        key = array("i", self._tokens[end - NGRAM : end])
        return None if min(key) < 0 else self._found(key.tobytes(), self._last) or self._found(key.tobytes(), 0)

    def _found(self, key: bytes, start: int) -> int | None:
        """Return the end of an occurrence that begins at `start` or behind it."""
        size, at = self._hint.itemsize, start * self._hint.itemsize - 1
        while (at := self._bytes.find(key, at + 1)) >= 0:
            if at % size == 0:
                return at // size + NGRAM
        return None

    def propose(self, n: int) -> list[int]:
        """Return at most `n` tokens that follow in the hint."""
        return self._hint[self._source : self._source + max(0, n)].tolist() if self._source is not None else []

    def expected(self, n: int) -> float:
        """Return how many of `n` proposed tokens are expected to be accepted."""
        return super().expected(min(n, len(self._hint) - (self._source or 0)))


class BothLookups:
    """Lookup in a sequence's own text and in its hint, always in the one that promises more."""

    num_forced = 0

    def __init__(self, own: Lookup, hint: HintLookup) -> None:
        self._own, self._hint = own, hint
        self._choose()

    def _choose(self) -> None:
        self._better = max(self._own, self._hint, key=lambda lookup: lookup.expected(NGRAM))

    @property
    def from_hint(self) -> bool:
        """Whether what it proposes comes from the hint."""
        return self._better.from_hint

    def push(self) -> None:
        """Take the token that was appended to the sequence's list, and score what was proposed for it."""
        self._own.push()
        self._hint.push()
        self._choose()

    def propose(self, n: int) -> list[int]:
        """Return at most `n` proposed tokens."""
        return self._better.propose(n)

    def expected(self, n: int) -> float:
        """Return how many of `n` proposed tokens are expected to be accepted."""
        return self._better.expected(n)


AnyLookup = Lookup | BothLookups


def _bucket(same: int) -> int:
    return max(0, sum(same >= s for s in _SAME) - 1)
