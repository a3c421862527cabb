"""Settings of the loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from core.errors import ConfigError

MAX_ITERATIONS = 3
"""One draft and two corrections: a third correction costs as much and changes next to nothing."""

LanguageSetting = Literal["auto", "en", "es"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """Settings of a loop. None leaves a setting to the skill's default.

    The sampling settings are sent unchecked; the skill refuses values out of range, by name.

    Raises:
        ConfigError: A setting of the loop itself is out of its range; the message names it.
    """

    max_iterations: int = MAX_ITERATIONS
    """Maximum number of iterations: the draft is the first, and each correction is one. 1 to 3."""
    confidence_threshold: float | None = 0.9
    """An answer with at least this score is accepted as it is. Above 0, up to 1; None: never for that reason."""
    timeout_s: float = 120.0
    """Deadline of an iteration; a reflection belongs to the iteration of its correction. Seconds, more than 0."""
    time_budget_s: float | None = None
    """Time for the whole loop, from its first call on, after which the best answer so far is returned. Seconds, more
    than 0."""
    language: LanguageSetting = "auto"
    """Language of the reflection and correction prompts: `en`, `es`, or `auto`, that of the prompt."""
    system: str = ""
    """System prompt of all calls."""
    max_tokens: int = 256
    """Maximum length of a draft or correction, tokens. At least 1."""
    reflection_max_tokens: int = 128
    """Maximum length of a reflection, tokens. At least 1."""
    temperature: float = 0.0
    """0 is greedy, and the default here: the same prompt gives the same answer; what was right is copied word for
    word, so that a correction that changes nothing is recognised; and the confidences of two answers are comparable,
    as neither depends on chance."""
    seed: int | None = None
    """Seed of all calls. None at a temperature above 0: a random one, which the result contains."""
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] = ()
    """Texts that end a draft or correction; reflections ignore them."""
    grammar: str | None = None
    """GBNF that drafts and corrections must fit. At most one of `grammar`, `json_schema` and `regex`."""
    json_schema: object = None
    """What drafts, corrections and the result's `parsed` must be: a JSON schema, as text or as a dictionary, or a type
    that Pydantic has a schema for."""
    regex: str | None = None
    """Regular expression that drafts and corrections must match."""
    close_json: int = 0
    """Maximum number of extra tokens to bring an answer that is cut off to a valid end; 0: it is left as it is."""
    allow_weaker_schema: bool = False
    """Whether unsupported parts of `json_schema` are left out instead of refused."""
    batch: bool = False
    """Whether interactive requests go first."""
    progress: bool = False
    """Whether calls report their progress until their first piece comes (`CallProgress`)."""
    lookup: bool = True
    """Whether to use lookup speculation, which is faster and never changes an answer."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_iterations <= MAX_ITERATIONS:
            raise ConfigError(f"max_iterations must be 1 to {MAX_ITERATIONS}, not {self.max_iterations!r}")
        if self.confidence_threshold is not None and not 0 < self.confidence_threshold <= 1:
            raise ConfigError(f"confidence_threshold must be above 0, up to 1, not {self.confidence_threshold!r}")
        for name in ("timeout_s", "time_budget_s"):
            seconds = getattr(self, name)
            if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
                raise ConfigError(f"{name} must be a finite number of seconds above 0, not {seconds!r}")
        if self.language not in ("auto", "en", "es"):
            raise ConfigError(f"language must be auto, en or es, not {self.language!r}")
        for name in ("max_tokens", "reflection_max_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)!r}")
        given = [name for name in ("grammar", "json_schema", "regex") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"give {' or '.join(given)}, not both")
