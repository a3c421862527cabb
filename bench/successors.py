"""What follows what in the shape-exact model: a table of successors, written into embeddings and one attention layer.

The tokens of whole words stand in a circle in random order. An embedding has the word's own random signs u in one part
and those of its predecessor in another; the first layer's attention looks at the own position and copies u into the
predecessor's part, seven times as large. So the next token's embedding, and no other, agrees with what the output
compares it with. The token that begins the third answer of a conversation ("write it again, corrected") also turns
on a feature by which, at every tenth word, another word beats the usual one; after it the usual way goes on.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from bench import blocks

HEAD = 128
N_SIGNS = 7 * HEAD  # as wide as seven of the eight value heads
OWN, BEFORE, ALWAYS, CHANGED, CORRECTING = 0, 1024, 2048, 2112, 2176  # where the parts of an embedding begin
N_CHANGED = 32
ONE = 16  # the integer that stands for 1
FACTOR = 1 / ONE
SCALES = np.ones(2560 // 16, np.int8)
SCALES[CORRECTING // 16] = 8
GAIN = 6.0  # of the copy; with the norm before it, what is copied is 7 times u
CHANGE_GAIN = 8.5
SHARPNESS = 2.0  # of the attention: the norm weights of queries and keys
WEAKER = 11  # of 16: how much of its predecessor a word has that only stands in for the usual one
N_CIRCLE, EVERY = 14_000, 10
TURNS = 16
# Where an answer begins, by the number of turns before it. The draft and its correction begin at the same word.
STARTS = {1: 0, 3: 5000, 5: 0}
CORRECTION_TURN = 5


class Successors:
    """The order of words, as embeddings."""

    def __init__(self, tokens: list[str], n_vocab: int) -> None:
        """`tokens` are the vocabulary's texts in GPT-2's spelling of bytes; the tokens of turns come after them."""
        rng = np.random.default_rng(9)
        words = [i for i, text in enumerate(tokens) if re.fullmatch("Ġ[a-z]{3,}", text)]
        rng.shuffle(words)
        n_substitutes = N_CIRCLE // EVERY
        self.circle, self.substitutes = words[:N_CIRCLE], words[N_CIRCLE : N_CIRCLE + n_substitutes]
        self.turn_texts = [f"<|turn{i}|>" for i in range(TURNS)]
        self._first_turn = len(tokens)
        # A token outside the circle is followed as one in it is, whose signs it shares.
        self._signs_of = np.array(self.circle)[rng.integers(0, N_CIRCLE, n_vocab)]
        for token in (*self.circle, *self.substitutes):
            self._signs_of[token] = token
        for turn in range(TURNS):
            self._signs_of[self._first_turn + turn] = self.circle[STARTS.get(turn, 700 * turn)]
        self._before: dict[int, list[tuple[int, int]]] = {}  # a word's predecessors and how much of them it has
        for i, token in enumerate(self.circle):
            self._before[token] = [(self.circle[i - 1], ONE)]
        for i, token in enumerate(self.substitutes):
            at = EVERY * i + EVERY // 2
            self._before[token] = [(self.circle[at - 1], WEAKER)]
            self._before[self.circle[at + 1]].append((token, ONE))
        self._signs = rng.integers(0, 2, (n_vocab, N_SIGNS), np.int8) * np.int8(2) - np.int8(1)
        self._is_substitute = np.isin(np.arange(n_vocab), self.substitutes)

    def embeddings(self, tokens: range) -> npt.NDArray[np.int8]:
        """Integers of -32 to 31 for the embeddings of these tokens, of shape (tokens, 2560)."""
        rows = np.zeros((len(tokens), 2560), np.int16)
        ids = np.array(tokens)
        rows[:, OWN : OWN + N_SIGNS] = ONE * self._signs[self._signs_of[ids]].astype(np.int16)
        rows[:, ALWAYS] = ONE
        rows[self._is_substitute[ids], CHANGED : CHANGED + N_CHANGED] = ONE
        for row, token in enumerate(tokens):
            for before, much in self._before.get(token, ()):
                rows[row, BEFORE : BEFORE + N_SIGNS] += much * self._signs[before].astype(np.int16)
            if token == self._first_turn + CORRECTION_TURN:
                rows[row, CORRECTING] = ONE
        return rows.clip(-32, 31).astype(np.int8)


def attention(part: str, rows: int, columns: int) -> npt.NDArray[np.generic] | None:
    """The first layer's attention; None for what is not special there.

    Of the 8 key and value heads 7 copy u, each from a random projection of u that matches itself alone; the last one
    finds the token that begins a correction, if it is there, and brings its feature. Their query heads are the first
    of each group of 4; what the others bring is multiplied with 0.
    """
    match part:
        case "attn_q_norm" | "attn_k_norm":
            return np.full(columns, SHARPNESS, np.float32)
        case "attn_q" | "attn_k":
            return _queries(rows, columns, group=rows // (8 * HEAD), of_keys=part == "attn_k")
        case "attn_v":
            gains = {(i, OWN + i): 1.0 for i in range(N_SIGNS)}
            gains |= {(N_SIGNS + i, CORRECTING): 1.0 for i in range(N_CHANGED)}
            return blocks.single_q5_k(rows, columns, gains)
        case "attn_output":
            places = [(4 * (i // HEAD) * HEAD + i % HEAD, i) for i in range(N_SIGNS)]
            gains = {(BEFORE + i, column): GAIN for column, i in places}
            gains |= {(CHANGED + i, 28 * HEAD + i): CHANGE_GAIN for i in range(N_CHANGED)}
            return blocks.single_iq4_nl(rows, columns, gains)
    return None


def _queries(rows: int, columns: int, *, group: int, of_keys: bool) -> blocks.Bytes:
    projection = blocks.random_iq4_nl(np.random.default_rng(7), 7 * HEAD, columns, 0.001)
    projection[:, N_SIGNS // blocks.IQ4_NL_BLOCK * blocks.IQ4_NL_BYTES :] = 0
    # Dimensions 62 and 63 of a head hardly turn with the position.
    gains = {(62, ALWAYS): 1.0, (63, CORRECTING): 1.0} if of_keys else {(63, ALWAYS): 1.0}
    finder = blocks.single_iq4_nl(HEAD, columns, gains)
    heads = np.concatenate([projection, finder]).reshape(8, HEAD, -1)
    return np.repeat(heads, group, axis=0).reshape(rows, -1)
