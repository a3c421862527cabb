"""Blocks of a prompt, and the keys of their files.

A prefix is kept as a chain of blocks. The key of a block is a hash of all tokens up to its end, so prefixes that begin
with the same tokens have the same first blocks, which exist once. A block has 32 tokens, fewer before an image, or is
one image: half an image cannot be restored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from .images import PromptImages, Run
from .tokens import Ints

# The tokens after the last whole block are prefilled, so blocks are small; but each is a file that is opened.
BLOCK_TOKENS = 32
_VERSION = b"sarai prefix 1"


class Block(NamedTuple):
    """The tokens at [start, end) of a prompt."""

    start: int
    end: int
    key: bytes
    """SHA-256 of all that determines their cells: identity, tenant, and the tokens up to `end`."""


def first_key(identity: bytes, tenant: str) -> bytes:
    """Return what stands before the first block: `identity` is that of the model and all that computes with it."""
    return _hash(_VERSION, identity, tenant.encode())


def blocks_of(tokens: Ints, images: PromptImages | None, key: bytes) -> list[Block]:
    """Return the whole blocks of a prompt, or of its first tokens.

    Args:
        tokens: The tokens.
        images: The images of the whole prompt, if there are any. Their ids are this process's own, so the key has what
            they stand for.
        key: The `first_key`.
    """
    blocks: list[Block] = []
    start, data = 0, tokens.astype("<i4")
    for end, run in _ends(len(tokens), images.runs if images else ()):
        if run:
            grid = run.image.across.to_bytes(4) + run.image.down.to_bytes(4)
            key = _hash(key, b"image", run.image.key, grid)
        else:
            key = _hash(key, b"text", data[start:end].tobytes())
        blocks.append(Block(start, end, key))
        start = end
    return blocks


def _ends(n: int, runs: Sequence[Run]) -> list[tuple[int, Run | None]]:
    """Return the ends of the whole blocks of `n` tokens, with the image that each is, if it is one."""
    ends: list[tuple[int, Run | None]] = []
    start = 0
    for run in runs:
        if run.end > n:
            break
        ends += [(end, None) for end in range(start + BLOCK_TOKENS, run.start, BLOCK_TOKENS)]
        ends += [(run.start, None)] if run.start > start else []
        ends.append((run.end, run))
        start = run.end
    # An image that is not whole here ends the text all the same.
    text_end = min([n, *(run.start for run in runs if start <= run.start)])
    return ends + [(end, None) for end in range(start + BLOCK_TOKENS, text_end + 1, BLOCK_TOKENS)]


def _hash(*parts: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8) + part)
    return digest.digest()
