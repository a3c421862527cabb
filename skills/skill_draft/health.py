"""The figures of a draft skill in Health and metrics, in addition to those of every skill."""

from __future__ import annotations

import time
from collections import deque

from skills import skills_pb2

from .supervisor import Supervisor

MEASURED = (
    ("tokens_total", "total_tokens", "Tokens written"),
    ("prompt_tokens_total", "prompt_tokens", "Tokens of prompts"),
    ("cached_tokens_total", "cached_tokens", "Tokens of prompts that were found in the prefix cache"),
    ("lookup_tokens_total", "lookup_tokens", "Lookup tokens tried"),
    ("lookup_accepted_total", "lookup_accepted", "Lookup tokens that were right"),
    ("engine_restarts_total", "engine_restarts", "Engines replaced"),
    ("engine_memory_kills_total", "memory_kills", "Engines that the kernel killed as memory ran out"),
    ("threads", "threads", "CPU threads in use"),
    ("kv_cells", "kv_cells", "Cells of the KV cache"),
    ("kv_cells_used", "kv_cells_used", "Cells that hold something"),
)
"""Metrics: the name after `sarai_draft_`, the field of HealthResp, what it is."""
_SPEED_WINDOW_S = 10.0


class Totals:
    """Tokens of a replica since its start, over all its engines, and its current speed."""

    def __init__(self) -> None:
        self._tokens = self._prompt_tokens = self._cached_tokens = 0
        self._recent: deque[tuple[float, int]] = deque()

    def wrote(self, tokens: int) -> None:
        """Count tokens that have just been written."""
        now = time.monotonic()
        self._tokens += tokens
        self._recent.append((now, tokens))
        while self._recent[0][0] < now - _SPEED_WINDOW_S:
            self._recent.popleft()

    def answered(self, answer: skills_pb2.GenResp) -> None:
        """Count the prompt of an answer."""
        self._prompt_tokens += answer.prompt_tokens
        self._cached_tokens += answer.cached_tokens

    def tell(self, health: skills_pb2.HealthResp) -> None:
        """Write them into Health."""
        since = time.monotonic() - _SPEED_WINDOW_S
        health.total_tokens = self._tokens
        health.prompt_tokens, health.cached_tokens = self._prompt_tokens, self._cached_tokens
        health.tokens_per_second = sum(tokens for at, tokens in self._recent if at >= since) / _SPEED_WINDOW_S


def tell_engine(engine: Supervisor, health: skills_pb2.HealthResp) -> None:
    """Write into Health how the engine is."""
    stats = engine.stats
    health.active_requests, health.queued_requests = stats.active, stats.queued
    health.threads, health.kv_cells_used = stats.threads, stats.kv_used
    health.engine_restarts, health.memory_kills = engine.restarts, engine.sizing.kills
    health.lookup_tokens, health.lookup_accepted = engine.lookup_totals()
    health.message = health.message or engine.message or engine.sizing.note
    if ready := engine.ready:
        health.numerics = ready.numerics
        health.n_ctx, health.kv_cells = ready.sizes.n_ctx, ready.sizes.n_cells
