"""The messages between the server and the engine.

Plain values, pickled over a private socket pair: the engine knows neither gRPC nor protobuf. Times are in seconds of
`time.monotonic()`, which all processes of a machine share.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from .answered import TokenLogprob, Tokens
from .config import EngineConfig, Finish, Forget, Identity, Noted, Sizes, Stats

# They are messages too.
__all__ = ["EngineConfig", "Finish", "Forget", "Identity", "Noted", "Sizes", "Stats", "TokenLogprob", "Tokens"]


class Priority(enum.IntEnum):
    """Scheduling priority of a request; the values are the contract's."""

    INTERACTIVE = 0
    BATCH = 1


class ConstraintKind(enum.Enum):
    """The notation of a constraint; the values are the contract's fields."""

    GRAMMAR = "grammar"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    LARK = "lark"
    JSON_OBJECT = "json_object"


class FinishReason(enum.IntEnum):
    """Why an answer ended; the values are the contract's."""

    STOP = 1
    STOP_STRING = 2
    LENGTH = 3
    CONTEXT_FULL = 4
    TIME_BUDGET = 5


class FailureKind(enum.Enum):
    """Why a request got no answer."""

    INVALID = "invalid"
    """The request is invalid; `field` is the path of the field to blame."""
    FULL = "full"
    """The queue is full; `retry_after_s` is when there will be room."""
    DEADLINE = "deadline"
    """Its deadline has passed or can no longer be met."""
    INTERNAL = "internal"
    """The engine is at fault."""
    UNAVAILABLE = "unavailable"
    """No engine is running at the moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image as the language model reads it: a grid of rows, which the vision process encodes from its pixels."""

    key: bytes
    """SHA-256 of all that determines the rows: the size, the pixels and the file of the vision tower."""
    across: int
    down: int
    """Columns and rows of the grid, in image tokens."""

    @property
    def n_tokens(self) -> int:
        """Number of image tokens, each of which takes a cell."""
        return self.across * self.down

    @property
    def n_positions(self) -> int:
        """Number of positions that the image takes (M-RoPE)."""
        return max(self.across, self.down)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn of a conversation."""

    role: str
    content: str = ""
    token_ids: tuple[int, ...] = ()
    """The tokens that make up `content`, if the turn is an earlier answer."""
    parts: tuple[str | Image, ...] = ()
    """Text and images in their order, instead of `content`; empty for a turn of text alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen. See `skills.proto` for ranges and meaning."""

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    seed: int = 0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A rule for the form of an answer."""

    kind: ConstraintKind
    text: str = ""
    allow_weaker: bool = False
    """Ignore what is not supported in a schema instead of refusing the schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, validated as far as possible without a model."""

    id: int
    turns: tuple[Turn, ...] = ()
    raw: str | None = None
    """A prompt without a chat template, instead of `turns`."""
    max_tokens: int = 256
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None
    close_json: int = 0
    """Tokens beyond `max_tokens` or the time budget that may complete the JSON."""
    num_candidates: int = 1
    top_logprobs: int = 0
    priority: Priority = Priority.INTERACTIVE
    lookup: bool = True
    arrived: float = 0.0
    deadline: float | None = None
    """When the caller stops listening."""
    hard_deadline: bool = False
    """Whether the answer so far is useless to the caller at the deadline."""
    progress: bool = False
    """Whether the caller wants progress reports until the first token."""
    budget_end: float | None = None
    """When the answer ends with what is written."""
    so_far: tuple[Tokens, ...] = ()
    """The tokens that each candidate has already; empty for a new request."""
    tenant: str = ""
    """Whose request it is. Nothing that was computed for one tenant shortens the work for another."""
    keep: bool = True
    """Whether its prompt and answer may be kept beyond the memory of this engine."""
    hint: tuple[int, ...] = ()
    """The answer to a near-equal prompt, from which lookup may propose too. It may be anything, and decides nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Cancels a request, whose caller has gone."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hurry:
    """Makes a batch request interactive: a caller who waits for the same answer has joined."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCpus:
    """Sets how many CPUs may be used from now on."""

    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The model is loaded."""

    model: str
    numerics: str
    notes: tuple[str, ...]
    """Notes for the operator: chosen sizes, and why numerics differ from the setting."""
    sizes: Sizes
    row_width: int = 0
    """Floats in a row of an encoded image; 0 if the model reads text alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotReady:
    """The model cannot be loaded; the engine process ends."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """A request is prepared and waits for a slot."""

    id: int
    texts: tuple[str, ...] = ()
    """The text of `Request.so_far`, one for each candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A request has left the queue."""

    id: int
    prompt_tokens: int
    cached_tokens: int
    queue_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a request that has no token yet."""

    id: int
    place: int
    """Place in the queue: 1 leaves it next, 0 has left it."""
    wait_s: float
    """Estimated time until it leaves the queue or, once it has, until its prompt is prefilled."""
    read: int
    """Prompt tokens that are in the cache."""
    prompt_tokens: int
    images_to_encode: int = 0
    """Images whose rows are still to come; the server adds that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The next piece of a candidate: `text` is exactly the text of `tokens`, unless cut before a stop string."""

    id: int
    candidate: int
    text: str
    tokens: Tokens
    first: bool = False
    """Whether this is the candidate's first piece."""

    def __add__(self, other: Piece) -> Piece:
        return Piece(
            id=self.id, candidate=self.candidate, text=self.text + other.text,
            tokens=self.tokens + other.tokens, first=self.first,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A complete candidate, including what it had before this engine."""

    text: str
    reason: FinishReason
    tokens: Tokens
    complete: bool = False
    """Whether its last token completed its constraint, so that nothing can follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One of several candidates has ended; the others go on."""

    id: int
    candidate: int
    ending: Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """All candidates of a request have ended."""

    id: int
    endings: tuple[Ending, ...]
    lookup_tokens: int = 0
    lookup_accepted: int = 0
    hint_tokens: int = 0
    """Those of them that came from the hint."""
    hint_accepted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A request has ended without an answer."""

    id: int
    kind: FailureKind
    message: str
    field: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """Heartbeat: sent at least twice a second, several times as often while the engine works."""

    stats: Stats
    sent: float
    """Time of sending, from which the receiver knows its delay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantRows:
    """A request has come to an image whose cells are not in the cache: the engine needs its rows.

    The server answers with `Rows`, or ends the request. Until then the request takes no part in steps.
    """

    id: int
    image: Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The encoded rows of an image that a request wants.

    They are float32 of shape (n_tokens, `Ready.row_width`), in raster order, and stay in place until the request sends
    `RowsRead` or ends.
    """

    id: int
    key: bytes
    offset: int
    """Where they begin in the shared memory, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsRead:
    """A request no longer needs the rows of an image: all its cells are filled."""

    id: int
    key: bytes


Command = Request | Cancel | Hurry | UseCpus | Rows | Identity | Forget | Finish
Event = (
    Ready | NotReady | Queued | Admitted | Progress | Piece | Ended | Done | Failed | Beat | WantRows | RowsRead | Noted
)
