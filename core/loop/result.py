"""What a loop gives: every iteration with its figures, the best answer, and why it stopped."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skills import skills_pb2


FEW_WORDS = 8
MOSTLY = 0.8


class Stage(StrEnum):
    """What the model is doing."""

    DRAFT = "draft"
    REFLECTION = "reflection"
    CORRECTION = "correction"


class StopReason(StrEnum):
    """Why a loop stopped."""

    NOTHING_TO_CORRECT = "nothing_to_correct"
    UNCHANGED = "unchanged"
    CONFIDENT = "confident"
    TIME_BUDGET = "time_budget"
    CONTEXT_FULL = "context_full"
    MAX_ITERATIONS = "max_iterations"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFigures:
    """What one call cost, as the skill measured it."""

    tokens: int
    """Tokens written."""
    tokens_per_second: float
    latency_ms: float
    time_to_first_token_ms: float
    queue_ms: float
    prompt_tokens: int
    cached_tokens: int
    """Those of the prompt's tokens that were not computed again."""
    lookup_tokens: int
    """Tokens that lookup speculation tried."""
    lookup_accepted: int
    """Those of them that were right."""
    finish_reason: str
    """`stop`, `stop_string`, `length`, `context_full`, `time_budget` or `unspecified`."""
    mean_logprob: float

    @property
    def cut_off(self) -> bool:
        """Whether the answer ended before the model had ended it."""
        return self.finish_reason in ("length", "context_full", "time_budget")

    @classmethod
    def of(cls, response: skills_pb2.GenResp) -> CallFigures:
        """The figures of an answer."""
        from skills import skills_pb2

        try:
            finish_reason = skills_pb2.FinishReason.Name(response.finish_reason)
        except ValueError:  # a newer skill has reasons that we do not know
            finish_reason = "FINISH_REASON_UNSPECIFIED"
        same = {
            name: getattr(response, name)
            for name in ("tokens_per_second", "latency_ms", "time_to_first_token_ms", "queue_ms", "prompt_tokens",
                         "cached_tokens", "lookup_tokens", "lookup_accepted", "mean_logprob")
        }  # fmt: skip
        return cls(
            tokens=response.tokens_generated,
            finish_reason=finish_reason.removeprefix("FINISH_REASON_").lower(),
            **same,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reflection:
    """What the model said about its answer."""

    text: str
    nothing_to_correct: bool
    figures: CallFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """An answer, and the reflection that led to it."""

    number: int
    """From 1 on."""
    stage: Stage
    """A draft or a correction."""
    text: str
    confidence: float
    """The geometric mean probability of its tokens, 0 to 1."""
    score: float
    """What decides which answer is the best: a plugin's, else the confidence."""
    latency_ms: float
    """From its begin to its end as the caller saw it, its reflection included."""
    figures: CallFigures
    """Of the answer alone."""
    reflection: Reflection | None = None
    """None for the draft."""
    fits: bool = True
    """Whether it is what `LoopConfig.json_schema` asks for: whole and valid."""

    @property
    def repeats_reflection(self) -> bool:
        """Whether a correction says its reflection over again, as weak models do instead of correcting.

        A few words may be both: a reflection that says "4" is corrected by "4".
        """
        words = self.text.casefold().split()
        if self.reflection is None or len(words) < FEW_WORDS:
            return False
        said = self.reflection.text.casefold().split()
        return difflib.SequenceMatcher(None, words, said, autojunk=False).ratio() > MOSTLY


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopResult:
    """The best answer and how it came about."""

    answer: str
    best: int
    """The number of the iteration that the answer is from."""
    iterations: tuple[Iteration, ...]
    stopped: StopReason
    failure: str | None
    """Why a later iteration failed, where that is why it stopped."""
    closing_reflection: Reflection | None
    """The last reflection, where no correction came after it."""
    language: str
    seed: int | None
    """The seed of all calls; None where it was greedy and none was given."""
    skill: str
    model: str
    origin: str
    """Where it ran: `address` (it was set), `running` (found on this host) or `embedded`."""
    target: str
    latency_ms: float
    """From the first call to the end as the caller saw it. The start of a local server is not in it."""
    parsed: Any = None
    """The answer as the object that `LoopConfig.json_schema` asks for, None where it asks for none."""

    def calls(self) -> Iterator[CallFigures]:
        """The figures of all calls, in order."""
        for iteration in self.iterations:
            if iteration.reflection is not None:
                yield iteration.reflection.figures
            yield iteration.figures
        if self.closing_reflection is not None:
            yield self.closing_reflection.figures

    @property
    def tokens(self) -> int:
        """Tokens written in all calls."""
        return sum(call.tokens for call in self.calls())

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens of all calls."""
        return sum(call.prompt_tokens for call in self.calls())

    @property
    def cached_tokens(self) -> int:
        """Those of the prompt tokens that were not computed again."""
        return sum(call.cached_tokens for call in self.calls())

    def as_dict(self) -> dict[str, Any]:
        """The result as plain values, ready for JSON; without `parsed`, which is `answer` once more."""
        totals = {"tokens": self.tokens, "prompt_tokens": self.prompt_tokens, "cached_tokens": self.cached_tokens}
        plain = dataclasses.asdict(dataclasses.replace(self, parsed=None))
        del plain["parsed"]
        return plain | totals


def best_of(iterations: Sequence[Iteration]) -> Iteration:
    """The iteration with the best answer.

    Something is better than nothing, what fits its schema better than what does not, an answer better than talk about
    one, a whole one better than one that was cut off; then the score decides, and the later one where it is equal.
    """
    return max(
        iterations,
        key=lambda i: (
            bool(i.text.strip()),
            i.fits,
            not i.repeats_reflection,
            not i.figures.cut_off,
            i.score,
            i.number,
        ),
    )


def confidence_of(response: skills_pb2.GenResp) -> float:
    """How sure the model was of an answer: the geometric mean of the probabilities of its tokens, 0 to 1.

    That is e to the mean log-probability, the inverse of the answer's perplexity; its length plays no part. An answer
    without tokens has 0.
    """
    if not response.token_ids or not math.isfinite(response.mean_logprob):
        return 0.0
    return math.exp(min(response.mean_logprob, 0.0))
