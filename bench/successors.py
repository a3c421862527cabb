"""The shape model's order of words: a table of successors, written into embeddings and one attention layer.

The tokens of whole words form a circle in random order. An embedding has the word's own random signs u in one part and
those of its predecessor in another; the first layer's attention attends to its own position and copies u into the
predecessor's part, seven times as large. So the next token's embedding, and no other, matches the output. The token
that begins the third answer of a conversation ("write it again, corrected") also enables a feature through which, at
every tenth word, a substitute beats the usual word; after it the usual order continues.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from bench import blocks

HEAD = 128
N_SIGNS = 7 * HEAD  # as wide as seven of the eight value heads
OWN, BEFORE, ALWAYS, CHANGED, CORRECTING = 0, 1024, 2048, 2112, 2176  # offsets of the parts of an embedding
N_CHANGED = 32
ONE = 16  # the integer that stands for 1
FACTOR = 1 / ONE
SCALES = np.ones(2560 // 16, np.int8)
SCALES[CORRECTING // 16] = 8
GAIN = 6.0  # of the copy; with the norm before it, the copy is 7 times u
CHANGE_GAIN = 8.5
SHARPNESS = 2.0  # of the attention: the norm weights of queries and keys
WEAKER = 11  # of 16: the share of its predecessor's signs in a substitute
N_CIRCLE, EVERY = 14_000, 10
TURNS = 16
# The word at which an answer begins, by the number of turns before it; the same for the draft and its correction.
STARTS = {1: 0, 3: 5000, 5: 0}
CORRECTION_TURN = 5


class Successors:
    """The order of words, as embeddings."""

    def __init__(self, tokens: list[str], n_vocab: int) -> None:
        """`tokens` are the vocabulary's texts in GPT-2's byte encoding; the tokens for turns follow them."""
        rng = np.random.default_rng(9)
        words = [i for i, text in enumerate(tokens) if re.fullmatch("Ġ[a-z]{3,}", text)]
        rng.shuffle(words)
        n_substitutes = N_CIRCLE // EVERY
        self.circle, self.substitutes = words[:N_CIRCLE], words[N_CIRCLE : N_CIRCLE + n_substitutes]
        self.turn_texts = [f"<|turn{i}|>" for i in range(TURNS)]
        self._first_turn = len(tokens)
        # A token outside the circle shares the signs of one in it, and so its successor.
        self._signs_of = np.array(self.circle)[rng.integers(0, N_CIRCLE, n_vocab)]
        for token in (*self.circle, *self.substitutes):
            self._signs_of[token] = token
        for turn in range(TURNS):
            self._signs_of[self._first_turn + turn] = self.circle[STARTS.get(turn, 700 * turn)]
        self._before: dict[int, list[tuple[int, int]]] = {}  # each word's predecessors, with weights
        for i, token in enumerate(self.circle):
            self._before[token] = [(self.circle[i - 1], ONE)]
        for i, token in enumerate(self.substitutes):
            at = EVERY * i + EVERY // 2
            self._before[token] = [(self.circle[at - 1], WEAKER)]
            self._before[self.circle[at + 1]].append((token, ONE))
        self._signs = rng.integers(0, 2, (n_vocab, N_SIGNS), np.int8) * np.int8(2) - np.int8(1)
        self._is_substitute = np.isin(np.arange(n_vocab), self.substitutes)

    def embeddings(self, tokens: range) -> npt.NDArray[np.int8]:
        """Return integers from -32 to 31 for the embeddings of these tokens, shape (tokens, 2560)."""
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
    """Return a matrix of the first layer's attention; None for parts that are as in other layers.

    Of the 8 key and value heads, 7 copy u, each by a random projection of u that matches only itself; the last one
    finds the token that begins a correction, if any, and copies its feature. Their query heads are the first of each
    group of 4; the outputs of the others are multiplied by 0.
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
    # Dimensions 62 and 63 of a head hardly rotate with the position.
    gains = {(62, ALWAYS): 1.0, (63, CORRECTING): 1.0} if of_keys else {(63, ALWAYS): 1.0}
    finder = blocks.single_iq4_nl(HEAD, columns, gains)
    heads = np.concatenate([projection, finder]).reshape(8, HEAD, -1)
    return np.repeat(heads, group, axis=0).reshape(rows, -1)
