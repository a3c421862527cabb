"""What the server and the engine say to each other.

Plain values, pickled over a private socket pair: the engine knows neither gRPC nor protobuf. Times are seconds of
`time.monotonic()`, which all processes of a machine share.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Priority(enum.IntEnum):
    """Who waits for the answer; the values are the contract's."""

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
    """The request is wrong; `field` says where."""
    FULL = "full"
    """The queue is full; `retry_after_s` says when there will be room."""
    DEADLINE = "deadline"
    """Its deadline passed, or can no longer be met."""
    INTERNAL = "internal"
    """The engine's own fault."""
    UNAVAILABLE = "unavailable"
    """There is no engine just now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn of a conversation."""

    role: str
    content: str
    token_ids: tuple[int, ...] = ()
    """The tokens that `content` was written as, where the turn is an earlier answer."""


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
    """What an answer must look like."""

    kind: ConstraintKind
    text: str = ""
    allow_weaker: bool = False
    """Leave out of a schema what is not supported, instead of refusing the schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token that might have been written, with its bytes and its log-probability."""

    token_id: int
    text: bytes
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens of an answer with what is known about each; lists of one length, but for `top`, which may be empty."""

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    top: tuple[tuple[TokenLogprob, ...], ...] = ()

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            token_ids=self.token_ids + other.token_ids,
            logprobs=self.logprobs + other.logprobs,
            top=self.top + other.top,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large an engine's cache, batch and buffers are. In tokens, unless said otherwise."""

    n_ctx: int
    """Of one sequence, prompt and answer together."""
    n_cells: int
    n_batch: int
    slots: int
    """Requests that run at once."""
    n_slots: int
    """Sequence ids: of running requests, of prefixes, and the cache's own."""
    n_outputs: int
    """Rows of logits in one step."""
    block_cells: int
    """Cells that are copied at once where cells have to move."""
    parked_bytes: int = 0
    """Memory for prefixes that are not in the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The first frame that an engine gets: what to load and how. Sizes in tokens; 0 means that the engine chooses."""

    model: str
    """Path of the GGUF file."""
    n_ctx: int = 0
    kv_cells: int = 0
    n_batch: int = 512
    slots: int = 16
    queue: int = 64
    prefixes: int = 32
    gap_ms: float = 250.0
    piece_ms: float = 50.0
    exact: bool = True
    threads: int = 1
    sizes: Sizes | None = None
    """What an earlier engine of this server measured under the same limit: taken as it is."""
    memory_kills: int = 0
    """Engines of this server that the kernel killed as memory ran out: each makes the next one smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, valid as far as it can be checked without a model."""

    id: int
    turns: tuple[Turn, ...] = ()
    raw: str | None = None
    """A prompt to take as it is, instead of `turns`."""
    max_tokens: int = 256
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None
    close_json: int = 0
    """Tokens beyond `max_tokens` or the time budget that may bring the constraint to a valid end."""
    num_candidates: int = 1
    top_logprobs: int = 0
    priority: Priority = Priority.INTERACTIVE
    lookup: bool = True
    arrived: float = 0.0
    deadline: float | None = None
    """After this the caller no longer listens."""
    hard_deadline: bool = False
    """Whether the answer so far is of no use to the caller then."""
    progress: bool = False
    """Whether the caller wants to know how far it is while nothing is written."""
    budget_end: float | None = None
    """After this the answer so far is the answer."""
    so_far: tuple[Tokens, ...] = ()
    """What each candidate has already; empty for a new request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """The caller of a request has gone."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCpus:
    """The most CPUs that may be used from now on."""

    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What the engine counts. Totals are since its own start."""

    active: int = 0
    queued: int = 0
    threads: int = 0
    kv_used: int = 0
    steps: int = 0
    intake_busy_since: float | None = None
    """Since when the intake (templates, tokenizing, grammars) has been working on one request."""
    lookup_tokens: int = 0
    lookup_accepted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The model is loaded."""

    model: str
    numerics: str
    notes: tuple[str, ...]
    """What an operator should know: chosen sizes, why the numerics are not what was asked for."""
    sizes: Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class NotReady:
    """The model cannot be loaded; the process ends."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """A request is prepared and waits for a slot."""

    id: int
    texts: tuple[str, ...] = ()
    """What `Request.so_far` spells, a text for each candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A request has left the queue."""

    id: int
    prompt_tokens: int
    cached_tokens: int
    queue_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a request is of which nothing is written yet."""

    id: int
    place: int
    """In the queue: 1 is the next to leave it, 0 has left it."""
    wait_s: float
    """Until it leaves the queue; once it has left it, until its prompt is read. An estimate."""
    read: int
    """Tokens of the prompt that are in the cache."""
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The next piece of a candidate: `text` is exactly the text of `tokens`, but for a cut before a stop string."""

    id: int
    candidate: int
    text: str
    tokens: Tokens
    first: bool = False
    """Whether nothing of the candidate was shown before."""

    def __add__(self, other: Piece) -> Piece:
        return Piece(
            id=self.id, candidate=self.candidate, text=self.text + other.text,
            tokens=self.tokens + other.tokens, first=self.first,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A whole candidate, with what it had before this engine."""

    text: str
    reason: FinishReason
    tokens: Tokens


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A request ends without an answer."""

    id: int
    kind: FailureKind
    message: str
    field: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """The engine is alive: sent at least twice a second, and several times as often while it works."""

    stats: Stats
    sent: float
    """When it was, so that who gets it knows how late it is."""


Command = Request | Cancel | UseCpus
Event = Ready | NotReady | Queued | Admitted | Progress | Piece | Ended | Done | Failed | Beat
