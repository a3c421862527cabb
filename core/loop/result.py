"""The result of a loop: every iteration with its figures, the best answer, and why it stopped."""

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
    """A stage of the loop, with one call."""

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
    """The cost of one call, as the skill measured it."""

    tokens: int
    """Tokens generated."""
    tokens_per_second: float
    latency_ms: float
    time_to_first_token_ms: float
    queue_ms: float
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens that were not computed again."""
    image_tokens: int
    """Prompt tokens that images take."""
    lookup_tokens: int
    """Tokens that lookup speculation proposed."""
    lookup_accepted: int
    """Proposed tokens that were accepted."""
    kept: str = ""
    """`hit` if the answer was kept, `partial` if its beginning was, `joined` if it was just being computed for another
    call; empty if it was computed for this one."""
    finish_reason: str
    """`stop`, `stop_string`, `length`, `context_full`, `time_budget` or `unspecified`."""
    mean_logprob: float

    @property
    def cut_off(self) -> bool:
        """Whether the answer ended before the model ended it."""
        return self.finish_reason in ("length", "context_full", "time_budget")

    @classmethod
    def of(cls, response: skills_pb2.GenResp) -> CallFigures:
        """Return the figures of an answer."""
        from skills import skills_pb2, types_pb2

        try:
            finish_reason = skills_pb2.FinishReason.Name(response.finish_reason)
        except ValueError:  # a newer skill has reasons that are unknown here
            finish_reason = "FINISH_REASON_UNSPECIFIED"
        same = {
            name: getattr(response, name)
            for name in ("tokens_per_second", "latency_ms", "time_to_first_token_ms", "queue_ms", "prompt_tokens",
                         "cached_tokens", "image_tokens", "lookup_tokens", "lookup_accepted", "mean_logprob")
        }  # fmt: skip
        kept = {types_pb2.CACHE_OUTCOME_HIT: "hit", types_pb2.CACHE_OUTCOME_PARTIAL: "partial",
                types_pb2.CACHE_OUTCOME_JOINED: "joined"}  # fmt: skip
        return cls(
            tokens=response.tokens_generated,
            kept=kept.get(response.cache.outcome, ""),
            finish_reason=finish_reason.removeprefix("FINISH_REASON_").lower(),
            **same,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reflection:
    """The model's opinion of its answer."""

    text: str
    nothing_to_correct: bool
    figures: CallFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """A draft or correction, and the reflection that led to it."""

    number: int
    """Counted from 1."""
    stage: Stage
    """A draft or a correction."""
    text: str
    confidence: float
    """The geometric mean probability of its tokens, 0 to 1."""
    score: float
    """Decides which answer is the best: a plugin's score, or else the confidence."""
    latency_ms: float
    """Time from its start to its end for the caller, including its reflection."""
    figures: CallFigures
    """Figures of the answer alone."""
    reflection: Reflection | None = None
    """None for the draft."""
    fits: bool = True
    """Whether it is what `LoopConfig.json_schema` asks for: complete and valid."""

    @property
    def repeats_reflection(self) -> bool:
        """Whether a correction repeats its reflection, as weak models do instead of correcting.

        A few words may be both: a reflection that is "4" is corrected by "4".
        """
        words = self.text.casefold().split()
        if self.reflection is None or len(words) < FEW_WORDS:
            return False
        said = self.reflection.text.casefold().split()
        return difflib.SequenceMatcher(None, words, said, autojunk=False).ratio() > MOSTLY


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopResult:
    """The best answer, and how the loop arrived at it."""

    answer: str
    best: int
    """Number of the iteration that the answer is from."""
    iterations: tuple[Iteration, ...]
    stopped: StopReason
    failure: str | None
    """Why a later iteration failed, if that stopped the loop."""
    closing_reflection: Reflection | None
    """The last reflection, if no correction followed it."""
    language: str
    seed: int | None
    """Seed of all calls; None if it was greedy and none was given."""
    skill: str
    model: str
    origin: str
    """Where it ran: `address` (it was set), `running` (found on this host) or `embedded`."""
    target: str
    latency_ms: float
    """Time from the first call to the end for the caller, without the start of a local server."""
    parsed: Any = None
    """The answer as the object that `LoopConfig.json_schema` asks for, None if there is no schema."""

    def calls(self) -> Iterator[CallFigures]:
        """Yield the figures of all calls, in order."""
        for iteration in self.iterations:
            if iteration.reflection is not None:
                yield iteration.reflection.figures
            yield iteration.figures
        if self.closing_reflection is not None:
            yield self.closing_reflection.figures

    @property
    def tokens(self) -> int:
        """Tokens generated in all calls."""
        return sum(call.tokens for call in self.calls())

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens of all calls."""
        return sum(call.prompt_tokens for call in self.calls())

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens of all calls that were not computed again."""
        return sum(call.cached_tokens for call in self.calls())

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain values, ready for JSON; without `parsed`, which repeats `answer`."""
        totals = {"tokens": self.tokens, "prompt_tokens": self.prompt_tokens, "cached_tokens": self.cached_tokens}
        plain = dataclasses.asdict(dataclasses.replace(self, parsed=None))
        del plain["parsed"]
        return plain | totals


def best_of(iterations: Sequence[Iteration]) -> Iteration:
    """Return the iteration with the best answer.

    Any text is better than none, an answer that fits its schema better than one that does not, an answer better than
    talk about one, a complete one better than one that was cut off; then the score decides, and of equals the later
    one wins.
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
    """Return how sure the model was of an answer: the geometric mean of the probabilities of its tokens, 0 to 1.

    That is e to the mean log-probability, the inverse of the answer's perplexity; its length plays no part. An answer
    without tokens has 0.
    """
    if not response.token_ids or not math.isfinite(response.mean_logprob):
        return 0.0
    return math.exp(min(response.mean_logprob, 0.0))
