"""What an engine is started with, the sizes that it chooses, and its figures."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of an engine's cache, batch and buffers, in tokens unless noted otherwise."""

    n_ctx: int
    """Context of one sequence, prompt and answer together."""
    n_cells: int
    n_batch: int
    slots: int
    """Requests that run at once."""
    n_slots: int
    """Sequence ids for running requests, prefixes and the cache itself."""
    n_outputs: int
    """Rows of logits in one step."""
    block_cells: int
    """Cells that are copied at a time when cells move."""
    parked_bytes: int = 0
    """Memory for parked prefixes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What to load and how: the first frame that an engine receives. Sizes are in tokens; 0 lets the engine choose."""

    model: str
    """Path of the GGUF file."""
    n_ctx: int = 0
    kv_cells: int = 0
    n_batch: int = 512
    slots: int = 16
    queue: int = 64
    prefixes: int = 32
    gap_ms: float = 250.0
    """Bound on the inter-token latency that other requests cause."""
    piece_ms: float = 50.0
    """Flush interval of streamed pieces."""
    exact: bool = True
    threads: int = 1
    sizes: Sizes | None = None
    """Sizes that an earlier engine of this server chose under the same memory limit; used unchanged."""
    memory_kills: int = 0
    """Engines of this server that the kernel killed for memory; each makes the next one smaller."""
    rows_path: str = ""
    """Path of the shared memory that holds encoded images; empty if this server reads none."""
    reserved_bytes: int = 0
    """Memory within the limit that is not the engine's: the vision process and the encoded images."""
    max_image_tokens: int = 1024
    """The most tokens that an image may have, if this server reads any."""
    prefix_dir: str = ""
    """Folder of prefixes that outlive engines; empty if none do."""
    prefix_bytes: int = 1 << 30
    """The most bytes of files in it."""
    packed_dir: str = ""
    """Folder of packed copies of models; empty: the model is packed when it is loaded."""
    identity: bytes = b""
    """What `Identity` tells, if it is known before the engine is started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Tells an engine what determines the cells of its prefixes, as soon as that is known."""

    digest: bytes
    """Of the model, the numerics and all that computes with them; empty if it is not known any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """Forgets which prefixes are still to be written: the folder is being emptied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Ends the engine once it has written the prefixes that are to be kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """A line for the operator."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much work an engine has, in seconds of its own time by the costs that it has learned."""

    ahead_s: float = 0.0
    """Work of the requests that run and wait."""
    wait_s: float = 0.0
    """How long a new request would wait before its prompt is read."""
    to_read: int = 0
    """Tokens of prompts that are still to be read."""
    prompts: int = 0
    """Requests that have such tokens."""
    arrived_s: float = 0.0
    done_s: float = 0.0
    """Work that has arrived and that was done, since the start. What the prefix cache saved is neither."""
    prompt_token_s: float = 0.0
    output_token_s: float = 0.0
    """Cost of a token of a prompt and of one of an answer at the best batch; 0 before the first step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The engine's figures; totals are since its start."""

    active: int = 0
    queued: int = 0
    threads: int = 0
    kv_used: int = 0
    steps: int = 0
    intake_busy_since: float | None = None
    """When the intake thread (templates, tokenizing, grammars) began its current request; None if it is idle."""
    lookup_tokens: int = 0
    lookup_accepted: int = 0
    load: Load = field(default_factory=Load)
