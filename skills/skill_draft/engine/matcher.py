"""Where an answer stands in its grammar, and which tokens may come next: the one file that drives llguidance.

A mask takes 20 to 30 µs for a JSON schema, beside 10 to 70 ms of a step, so it is computed where it is needed. While
llama.cpp computes, it would only take one of the cores from it.
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
_MAX_KEPT_BYTES = 32 << 20  # of them all; a usual one takes 60 kB, one that means ill up to 40 MB
_WORD = 32  # tokens
_PLACE = re.compile(r"^(at )?\d+\(\d+\): ")


class Matcher:
    """The state of one answer."""

    def __init__(self, state: LLMatcher, vocab: Vocab, kind: ConstraintKind, failed: list[str] | None = None) -> None:
        self._state, self._vocab, self.kind = state, vocab, kind
        self.failed: list[str] = failed if failed is not None else []
        """What went wrong in an answer; all copies share what they have learned of the grammar, and this list."""
        self._words = np.zeros(-(-vocab.n_tokens // _WORD), np.int32)

    def copy(self) -> Matcher:
        """Another answer that stands where this one does."""
        return Matcher(self._state.deep_copy(), self._vocab, self.kind, self.failed)

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Which tokens may come next, those that end the answer included; shape (n_vocab,).

        Raises:
            ConstraintError: The grammar is too costly here, or has no way on.
        """
        words = self._words
        self._state.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        self._check()
        bits = np.unpackbits(words.view(np.uint8), count=self._vocab.n_tokens, bitorder="little")
        return bits.view(np.bool_)

    def accept(self, token: int) -> None:
        """Moves on over a token that is allowed and does not end the answer; raises `ConstraintError`."""
        self._state.consume_token(token)
        self._check()

    @property
    def is_complete(self) -> bool:
        """Whether the answer fits as it is, and nothing can follow."""
        return self._state.is_stopped() and not self._state.is_error()

    @property
    def is_accepting(self) -> bool:
        """Whether the answer fits as it is."""
        return self._state.is_accepting()

    def forced(self) -> list[int]:
        """The tokens that follow in any case, as the model's tokenizer writes them: masks allow no others there."""
        tokens = self._state.compute_ff_tokens()
        # In the middle of a character it may give tokens that it does not take itself.
        return tokens[: self.fitting(tokens)]

    def fitting(self, tokens: list[int]) -> int:
        """How many of the tokens could follow, one after the other."""
        return self._state.validate_tokens(tokens)

    def allowed_bytes(self) -> dict[int, int]:
        """The tokens of a single byte that may come next, by that byte; none where the grammar is too costly."""
        try:
            allowed = self.allowed()
        except ConstraintError:
            return {}
        return {byte: token for byte, token in self._vocab.byte_tokens.items() if allowed[token]}

    def text(self, tokens: list[int]) -> bytes:
        """The bytes that tokens write."""
        return b"".join(map(self._vocab.piece, tokens))

    def respelled(self, tokens: list[int]) -> list[int]:
        """The same bytes in the tokens that the model writes them with, if they could follow."""
        text = self.text(tokens)
        usual = self._vocab.tokenize(text.decode("utf-8", "replace"), add_special=False, parse_special=False)
        return usual if self.text(usual) == text and self.fitting(usual) == len(usual) else tokens

    def _check(self) -> None:
        if self._state.is_error():
            self.failed.append(_reason(self._state.get_error()))
            raise ConstraintError(self.failed[-1])


class Matchers:
    """Compiles constraints for one model, and keeps those that were used last."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab, self._trial = vocab, Trial()
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[Constraint, tuple[Matcher | str, int]] = OrderedDict()

    def start(self, constraint: Constraint) -> Matcher:
        """The beginning of an answer; raises `ConstraintError`."""
        kept, size = self._kept.pop(constraint, (None, 0))
        if kept is None or (isinstance(kept, Matcher) and kept.failed):  # it may have learned more than it may keep
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
                complaint = _PLACE.sub("", complaint)  # in a text that the caller has not seen
            raise ConstraintError(_reason(complaint))
        limits = LLParserLimits(**LIMITS)  # type: ignore[arg-type]
        state = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
        matcher = Matcher(state, self._vocab, constraint.kind)
        matcher.allowed()
        return matcher


def tokenizer_of(vocab: Vocab) -> LLTokenizer:
    """The vocabulary as llguidance needs it. Control tokens have no bytes: no grammar can write one."""
    pieces = [b"" if t in vocab.control or t in vocab.eog else vocab.read_piece(t) for t in range(vocab.n_tokens)]
    ends = sorted(vocab.eog)
    try:
        return LLTokenizer.from_llamacpp(  # type: ignore[attr-defined,no-any-return]
            tokens=pieces, vocab_ptr=vocab.address, tokenize_fptr=vocab.tokenize_address, eos_token=ends
        )
    except ValueError:  # it adds something to each text; then no tokens are forced, and everything else is the same
        return LLTokenizer(TokenizerWrapper(_Pieces(pieces, ends[0])), eos_token=ends)


class _Pieces:
    """A vocabulary without a tokenizer."""

    def __init__(self, pieces: list[bytes], end: int) -> None:
        self.tokens, self.eos_token_id, self.bos_token_id = pieces, end, None
        self.special_token_ids: list[int] = []

    def __call__(self, _text: bytes) -> list[int]:
        return []


def _reason(message: str) -> str:
    """What is wrong, without the text that it is wrong in: a parser of regular expressions says that last."""
    if message.startswith("NoExtension"):
        return "no text fits it from here on"
    if "forced bytes" in message:
        return "it demands a character here that this model has no tokens for"
    lines = message.splitlines()
    reason = next((line for line in lines if line.startswith("error: ")), "")
    return (f"invalid regular expression: {reason.removeprefix('error: ')}" if reason else lines[0])[:MAX_MESSAGE]
