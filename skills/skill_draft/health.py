"""The figures of a draft skill in Health and metrics, in addition to those of every skill."""

from __future__ import annotations

import time
from collections import deque

from skills import skills_pb2

from .engine.messages import Done, Event, Piece
from .runs import Run
from .supervisor import Supervisor

MEASURED = (
    ("tokens_total", "engine.total_tokens", "Tokens written"),
    ("prompt_tokens_total", "engine.prompt_tokens", "Tokens of prompts"),
    ("cached_tokens_total", "engine.cached_tokens", "Tokens of prompts that were found in the prefix cache"),
    ("lookup_tokens_total", "engine.lookup_tokens", "Lookup tokens tried"),
    ("lookup_accepted_total", "engine.lookup_accepted", "Lookup tokens that were accepted"),
    ("engine_restarts_total", "engine.restarts", "Engines replaced"),
    ("engine_memory_kills_total", "engine.memory_kills", "Engines that the kernel killed as memory ran out"),
    ("images_total", "engine.images", "Images of requests"),
    ("images_encoded_total", "engine.images_encoded", "Images that had to be encoded"),
    ("cache_hits_total", "cache.hits", "Answers that were kept"),
    ("cache_partial_total", "cache.partial", "Answers whose beginning was kept"),
    ("cache_joined_total", "cache.joined", "Answers that were just being computed for another call"),
    ("cache_misses_total", "cache.misses", "Answers that were looked up and not kept"),
    ("cache_saved_tokens_total", "cache.saved_tokens", "Tokens that need not be computed, as answers were kept"),
    ("cache_saved_seconds_total", "cache.saved_s", "Time that computing them would have taken"),
    ("cache_rechecked_total", "cache.rechecked", "Kept answers that were computed anew to compare them"),
    ("cache_rechecked_wrong_total", "cache.rechecked_wrong", "Those of them that were not the same to the last bit"),
    ("cache_disk_hits_total", "cache.disk_hits", "Kept answers from the disk"),
    ("cache_shared_hits_total", "cache.shared_hits", "Kept answers from the shared store"),
    ("cache_near_total", "cache.near", "Answers for which lookup also had the kept answer to a near-equal prompt"),
    ("cache_near_tokens_total", "cache.near_tokens", "Lookup tokens of such kept answers that were tried"),
    ("cache_near_accepted_total", "cache.near_accepted", "Lookup tokens of such kept answers that were accepted"),
    ("cache_entries", "cache.entries", "Kept answers in memory"),
    ("cache_bytes", "cache.bytes", "Bytes of kept answers in memory"),
    ("cache_max_bytes", "cache.max_bytes", "The bound on these bytes"),
    ("threads", "threads", "CPU threads in use"),
    ("kv_cells", "engine.kv_cells", "Cells of the KV cache"),
    ("kv_cells_used", "engine.kv_cells_used", "Cells that hold something"),
    ("work_arrived_seconds_total", "load.work_arrived_s", "Work that has arrived, in seconds of this replica"),
    ("work_done_seconds_total", "load.work_done_s", "Work that was done, in seconds of this replica"),
    ("work_ahead_seconds", "load.work_ahead_s", "Work of the requests that run and wait"),
    ("expected_wait_seconds", "load.expected_wait_s", "How long a new request would wait"),
    ("prompt_token_seconds", "load.prompt_token_ms", "Cost of a token of a prompt"),
    ("output_token_seconds", "load.output_token_ms", "Cost of a token of an answer"),
    ("prefill_tokens_waiting", "load.prefill_tokens_waiting", "Tokens of prompts that are still to be read"),
    ("prompts_waiting", "load.prompts_waiting", "Requests whose prompts are still to be read"),
    ("idle_seconds", "load.idle_s", "Since the last request ended; 0 while there are any"),
    ("start_seconds", "load.start_s", "From the start of the process until it served"),
)
"""Metrics: the name after `sarai_draft_`, the path in HealthResp, the description."""
_SPEED_WINDOW_S = 10.0


class Totals:
    """Token counts of a replica since its start, summed over all its engines, and its current speed."""

    def __init__(self) -> None:
        self._tokens = self._prompt_tokens = self._cached_tokens = 0
        self._recent: deque[tuple[float, int]] = deque()

    def heard(self, run: Run, event: Event) -> None:
        """Count what an engine computes, by an event of a request: pieces as they come, the prompt at the end."""
        match event:
            case Piece():
                n, again = len(event.tokens.token_ids), run.repeated[event.candidate]
                run.repeated[event.candidate] = max(0, again - n)
                self._wrote(max(0, n - again))
            case Done() if run.admitted:
                self._prompt_tokens += run.admitted.prompt_tokens
                self._cached_tokens += run.admitted.cached_tokens

    def _wrote(self, tokens: int) -> None:
        now = time.monotonic()
        self._tokens += tokens
        self._recent.append((now, tokens))
        while self._recent[0][0] < now - _SPEED_WINDOW_S:
            self._recent.popleft()

    def tell(self, health: skills_pb2.HealthResp) -> None:
        """Write the counts and the speed into Health."""
        told, since = health.engine, time.monotonic() - _SPEED_WINDOW_S
        told.total_tokens = self._tokens
        told.prompt_tokens, told.cached_tokens = self._prompt_tokens, self._cached_tokens
        told.tokens_per_second = sum(tokens for at, tokens in self._recent if at >= since) / _SPEED_WINDOW_S


def tell_engine(engine: Supervisor, health: skills_pb2.HealthResp) -> None:
    """Write the state of the engine into Health."""
    stats, told = engine.stats, health.engine
    health.active_requests, health.queued_requests, health.threads = stats.active, stats.queued, stats.threads
    health.message = health.message or engine.message or engine.sizing.note
    told.kv_cells_used = stats.kv_used
    told.restarts, told.memory_kills = engine.restarts, engine.sizing.kills
    told.lookup_tokens, told.lookup_accepted = engine.totals.lookup
    if ready := engine.ready:
        told.numerics = ready.numerics
        told.n_ctx, told.kv_cells = ready.sizes.n_ctx, ready.sizes.n_cells


def tell_load(engine: Supervisor, health: skills_pb2.HealthResp, *, start_s: float) -> None:
    """Write the engine's load into Health."""
    load, idle_s, told = engine.totals.load, engine.idle_s, health.load
    if not idle_s:
        told.work_ahead_s, told.expected_wait_s = load.ahead_s, load.wait_s
        told.prefill_tokens_waiting, told.prompts_waiting = load.to_read, load.prompts
    told.start_s = start_s
    told.work_arrived_s, told.work_done_s, told.idle_s = load.arrived_s, load.done_s, idle_s
    told.prompt_token_ms, told.output_token_ms = 1000 * load.prompt_token_s, 1000 * load.output_token_s
