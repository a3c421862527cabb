"""Prompts of a given length from real text, no two with the same beginning."""

from __future__ import annotations

import random
from pathlib import Path

from skills.skill_draft.catalog import EMBEDDED, find_model, models_dir
from skills.skill_draft.engine.binding import Model, ModelParams, Vocab

# Makes a small model write on: if some answers ended early, the load would differ from server to server.
WRITE_ON = "Write a long story about that, of many paragraphs."
WRITE_ON_TOKENS = 11
FOLDER = Path(__file__).parent / "prompts"
TEMPLATE_TOKENS = 9  # of a chat template, without SmolLM2's own system prompt


def vocabulary() -> Vocab:
    """Return the embedded model's vocabulary, which the shape model shares."""
    return Model(find_model(EMBEDDED, models_dir()), ModelParams()).vocab


class Prompts:
    """An endless supply of prompts, the same for the same seed."""

    def __init__(self, vocab: Vocab, seed: str) -> None:
        self._vocab = vocab
        self.random = random.Random(seed)  # noqa: S311 - not for secrets
        """For everything else that a workload draws."""
        self._questions = _lines("questions.txt")
        self._paragraphs = _paragraphs("texts.txt")
        self.random.shuffle(self._questions)
        self._next = 0

    def question(self) -> str:
        """Return a short real question."""
        self._next += 1
        return self._questions[self._next % len(self._questions)]

    def of_length(self, n_tokens: int) -> str:
        """Return a prompt of `n_tokens`, besides the template's: a unique number, real text, a question."""
        question = self.question()
        room = n_tokens - TEMPLATE_TOKENS - len(self._tokens(question))
        begin = f"Case {self.random.randrange(10**8)}.\n"
        return f"{begin}{self._text(max(room - len(self._tokens(begin)), 1))}\n{question}"

    def system(self, n_tokens: int) -> str:
        """Return a system prompt of `n_tokens`."""
        begin = f"You are assistant {self.random.randrange(10**8)} of a library. Answer from these notes.\n"
        return begin + self._text(n_tokens - len(self._tokens(begin)))

    def _text(self, n_tokens: int) -> str:
        """Return paragraphs in random order, cut to `n_tokens`."""
        chosen: list[str] = []
        while sum(len(p) for p in chosen) < 8 * n_tokens:
            chosen += self.random.sample(self._paragraphs, len(self._paragraphs))
        tokens = self._tokens("\n".join(chosen))[:n_tokens]
        return b"".join(map(self._vocab.piece, tokens)).decode("utf-8", "ignore")

    def _tokens(self, text: str) -> list[int]:
        return self._vocab.tokenize(text, add_special=False, parse_special=False)


def _lines(name: str) -> list[str]:
    return (FOLDER / name).read_text(encoding="utf-8").splitlines()


def _paragraphs(name: str) -> list[str]:
    return [p.replace("\n", " ").strip() for p in (FOLDER / name).read_text(encoding="utf-8").split("\n\n")]
