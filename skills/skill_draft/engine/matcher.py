"""An answer's position in its grammar, and which tokens may come next: the only file that drives llguidance.

A mask takes 20 to 30 µs for a JSON schema, compared with 10 to 70 ms for a step, so it is computed when it is needed:
computed during llama.cpp's step, it would only take a core away from it.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from skills.runtime.resources import anonymous_bytes

from .binding import Vocab
from .constraint import MAX_MESSAGE, ConstraintError, to_grammar
from .messages import Constraint, ConstraintKind
from .schema import check_characters, explained
from .trial import LIMITS, Trial

_MAX_KEPT = 32  # compiled grammars
_MAX_KEPT_BYTES = 32 << 20  # of all of them; a usual one takes 60 kB, a malicious one up to 40 MB
_WORD = 32  # tokens in a word of the mask
_PLACE = re.compile(r"^(at )?\d+\(\d+\): ")


class Matcher:
    """The grammar's state in one answer."""

    def __init__(self, state: LLMatcher, vocab: Vocab, kind: ConstraintKind, failed: list[str] | None = None) -> None:
        self._state, self._vocab, self.kind = state, vocab, kind
        self.failed: list[str] = failed if failed is not None else []
        """Errors so far. Shared by all copies, as is what llguidance has cached about the grammar."""
        self._words = np.zeros(-(-vocab.n_tokens // _WORD), np.int32)

    def copy(self) -> Matcher:
        """Return an independent matcher in the same state."""
        return Matcher(self._state.deep_copy(), self._vocab, self.kind, self.failed)

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Return which tokens may come next, including those that end the answer; shape (n_vocab,).

        Raises:
            ConstraintError: The grammar is too costly at this point, or nothing can follow.
        """
        words = self._words
        self._state.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        self._check()
        bits = np.unpackbits(words.view(np.uint8), count=self._vocab.n_tokens, bitorder="little")
        return bits.view(np.bool_)

    def accept(self, token: int) -> None:
        """Advance by a token that is allowed and does not end the answer; raise `ConstraintError` if that fails."""
        self._state.consume_token(token)
        self._check()

    @property
    def is_complete(self) -> bool:
        """Whether the answer is valid as it is and nothing can follow."""
        return self._state.is_stopped() and not self._state.is_error()

    @property
    def is_accepting(self) -> bool:
        """Whether the answer is valid as it is."""
        return self._state.is_accepting()

    def forced(self) -> list[int]:
        """Return the tokens that the grammar forces next, as the model's tokenizer splits them."""
        tokens = self._state.compute_ff_tokens()
        # In the middle of a character, llguidance may return tokens that it would not accept itself.
        return tokens[: self.fitting(tokens)]

    def fitting(self, tokens: list[int]) -> int:
        """Return how many of the tokens, from the first on, the grammar would accept in a row."""
        return self._state.validate_tokens(tokens)

    def allowed_bytes(self) -> dict[int, int]:
        """Return the single-byte tokens that may come next, by their byte; none if the grammar is too costly here."""
        try:
            allowed = self.allowed()
        except ConstraintError:
            return {}
        return {byte: token for byte, token in self._vocab.byte_tokens.items() if allowed[token]}

    def text(self, tokens: list[int]) -> bytes:
        """Return the bytes that the tokens stand for."""
        return b"".join(map(self._vocab.piece, tokens))

    def respelled(self, tokens: list[int]) -> list[int]:
        """Return the same bytes as the model's tokenizer splits them, if the grammar accepts that; else `tokens`."""
        text = self.text(tokens)
        usual = self._vocab.tokenize(text.decode("utf-8", "replace"), add_special=False, parse_special=False)
        return usual if self.text(usual) == text and self.fitting(usual) == len(usual) else tokens

    def _check(self) -> None:
        if self._state.is_error():
            self.failed.append(_reason(self._state.get_error()))
            raise ConstraintError(self.failed[-1])


class Matchers:
    """Compiles the constraints of one model and caches those used last."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab, self._trial = vocab, Trial()
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[Constraint, tuple[Matcher | str, int]] = OrderedDict()

    def start(self, constraint: Constraint) -> Matcher:
        """Return a matcher at the beginning of an answer; raise `ConstraintError` if the constraint is refused."""
        kept, size = self._kept.pop(constraint, (None, 0))
        if kept is None or (isinstance(kept, Matcher) and kept.failed):  # its cache may have outgrown the limit
            tokenizer = self._tokenizer = self._tokenizer or tokenizer_of(self._vocab)
            before = anonymous_bytes([os.getpid()])
            try:
                kept = self._compile(constraint, tokenizer)
            except ConstraintError as error:
                kept = str(error)
            size = max(0, anonymous_bytes([os.getpid()]) - before)
        self._kept[constraint] = kept, size
        while len(self._kept) > _MAX_KEPT or sum(size for _, size in self._kept.values()) > _MAX_KEPT_BYTES:
            self._kept.popitem(last=False)
        if isinstance(kept, str):
            raise ConstraintError(kept)
        return kept.copy()

    def _compile(self, constraint: Constraint, tokenizer: LLTokenizer) -> Matcher:
        grammar = to_grammar(constraint)
        if constraint.kind is ConstraintKind.JSON_SCHEMA:
            try:
                check_characters(constraint.text, self._vocab.missing_bytes)
            except ValueError as error:
                raise ConstraintError(str(error)[:MAX_MESSAGE]) from error
        if complaint := self._trial.complaint(grammar):
            if constraint.kind is ConstraintKind.JSON_SCHEMA:
                complaint = explained(complaint, constraint.text)
            if constraint.kind is ConstraintKind.GRAMMAR:
                complaint = _PLACE.sub("", complaint)  # refers to the translated text, which the caller has not seen
            raise ConstraintError(_reason(complaint))
        limits = LLParserLimits(**LIMITS)  # type: ignore[arg-type]
        state = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
        matcher = Matcher(state, self._vocab, constraint.kind)
        matcher.allowed()
        return matcher


def tokenizer_of(vocab: Vocab) -> LLTokenizer:
    """Return the vocabulary for llguidance. Control tokens get no bytes, so that no grammar can produce one."""
    pieces = [b"" if t in vocab.control or t in vocab.eog else vocab.read_piece(t) for t in range(vocab.n_tokens)]
    ends = sorted(vocab.eog)
    try:
        return LLTokenizer.from_llamacpp(  # type: ignore[attr-defined,no-any-return]
            tokens=pieces, vocab_ptr=vocab.address, tokenize_fptr=vocab.tokenize_address, eos_token=ends
        )
    except ValueError:  # the tokenizer adds something to each text: no tokens are forced then, all else works
        return LLTokenizer(TokenizerWrapper(_Pieces(pieces, ends[0])), eos_token=ends)


class _Pieces:
    """A vocabulary without a tokenizer."""

    def __init__(self, pieces: list[bytes], end: int) -> None:
        self.tokens, self.eos_token_id, self.bos_token_id = pieces, end, None
        self.special_token_ids: list[int] = []

    def __call__(self, _text: bytes) -> list[int]:
        return []


def _reason(message: str) -> str:
    """Return the reason in llguidance's message without the quoted input, which regex errors put before it."""
    if message.startswith("NoExtension"):
        return "no text fits it from here on"
    if "forced bytes" in message:
        return "it demands a character here that this model has no tokens for"
    lines = message.splitlines()
    reason = next((line for line in lines if line.startswith("error: ")), "")
    return (f"invalid regular expression: {reason.removeprefix('error: ')}" if reason else lines[0])[:MAX_MESSAGE]
