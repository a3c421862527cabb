"""Images in a prompt: runs of negative token ids, and the positions of their tokens.

To the cache, an image token is a token like others: what is compared, shared and parked are ids. An image has the same
ids in each prompt, handed out when it is first seen.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .messages import Image
from .tokens import Ints

_FIRST, _LAST = -2, -(2**31)
_MAX_KEPT = 4096  # images; one that was forgotten gets other ids, so that its cells are filled again


class OutOfIdsError(Exception):
    """This process has no ids left for images; another process starts anew."""


class ImageIds:
    """Hands out the ids of images. None is used for a second image while the process lives."""

    def __init__(self, *, kept: int = _MAX_KEPT, last: int = _LAST) -> None:
        self._kept, self._next, self._last = kept, _FIRST, last
        self._firsts: OrderedDict[Image, int] = OrderedDict()

    def of(self, image: Image) -> range:
        """Return the ids of an image's tokens, descending; raise `OutOfIdsError` if there are none left."""
        first = self._firsts.pop(image, None)
        if first is None:
            first = self._next
            if first - image.n_tokens < self._last:
                raise OutOfIdsError(f"no ids are left for an image of {image.n_tokens} tokens: this process must end")
            self._next -= image.n_tokens + 1
        self._firsts[image] = first
        if len(self._firsts) > self._kept:
            self._firsts.popitem(last=False)
        return range(first, first - image.n_tokens, -1)


@dataclass(frozen=True, slots=True)
class Run:
    """An image at its place in a prompt."""

    image: Image
    start: int
    """Index of its first token."""
    position: int
    """Position of all its tokens."""

    @property
    def end(self) -> int:
        """Index after its last token."""
        return self.start + self.image.n_tokens


class PromptImages:
    """The images of a request's prompt, which all its candidates share.

    Positions are those of M-RoPE: an image at position p has its tokens at (p, p + row, p + column), and the text after
    it begins behind the longer side of its grid.
    """

    def __init__(self, tokens: Sequence[int], images: Sequence[Image]) -> None:
        """`images` are those of the runs in `tokens`, in their order."""
        ids = np.asarray(tokens, np.int32)
        self.runs: list[Run] = []
        self.offsets: dict[bytes, int] = {}
        """Where in the shared memory the rows of an image begin, for those that are there."""
        self.wanted: set[bytes] = set()
        """The keys of images whose rows have been asked for."""
        self._planes = np.empty((3, len(ids)), np.int32)
        end = position = 0
        for image in images:
            run = Run(image, end + int((ids[end:] < 0).argmax()), 0)
            position = self._place_text(end, run.start, position)
            self.runs.append(dataclasses.replace(run, position=position))
            rows, columns = np.divmod(np.arange(image.n_tokens), image.across)
            self._planes[:, run.start : run.end] = position + np.stack((np.zeros_like(rows), rows, columns))
            end, position = run.end, position + image.n_positions
        self._place_text(end, len(ids), position)
        self._shift = end - position

    def _place_text(self, start: int, end: int, position: int) -> int:
        """Give text tokens their positions, the first one `position`; return the position after them."""
        after = position + end - start
        self._planes[:, start:end] = np.arange(position, after)
        return after

    def positions(self, start: int, n: int) -> Ints:
        """Return the positions of `n` tokens from an index on, answer included; shape (3, n): time, row, column."""
        inside = self._planes[:, start : start + n]
        if inside.shape[1] == n:
            return inside
        after = np.arange(start + inside.shape[1], start + n, dtype=np.int32) - np.int32(self._shift)
        return np.concatenate((inside, np.broadcast_to(after, (3, len(after)))), axis=1)

    def readable(self, start: int, end: int) -> int:
        """Return how many of the tokens at [start, end) a step can compute: up to the first image without rows.

        Text before an image is computed without it: only a step that begins with an image has any.
        """
        begun = False
        for run in self.after(start):
            if not (begun or run.start <= start) or run.image.key not in self.offsets:
                return max(0, run.start - start)
            begun = True
        return end - start

    def after(self, start: int) -> Iterator[Run]:
        """Yield the images of which tokens at or after index `start` are part."""
        return (run for run in self.runs if run.end > start)

    def at(self, index: int) -> Run | None:
        """Return the image that the token at an index is part of, if any."""
        run = next(self.after(index), None)
        return run if run and run.start <= index else None
