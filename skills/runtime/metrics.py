"""Prometheus metrics over HTTP, if a skill's operator asks for them.

One prefix, base units, `_total` for counters. The times of answers have the names of OpenTelemetry's conventions for
generative models (gen_ai.server.*), with underscores as Prometheus wants them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

log = logging.getLogger("sarai.runtime")

# How long a scrape waits for the event loop, seconds. After that it fails: the server hangs.
_PATIENCE_S = 5.0
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of a metric; a name that ends in `_total` is a counter's."""

    name: str
    help: str
    value: float


class Metrics:
    """A skill's metrics: readings on demand, and the times of its answers."""

    def __init__(self, read: Callable[[], list[Reading]]) -> None:
        """Call `read` at each scrape, on the event loop that called `serve`; it must not block."""
        self._read = read
        self._loop: asyncio.AbstractEventLoop | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._first_token = self._times("time_to_first_token", "From arrival to the first token")
        self._per_token = self._times("time_per_output_token", "From one token to the next, the mean of an answer")
        self._duration = self._times("request_duration", "From arrival to the end")

    def _times(self, name: str, help_: str) -> Histogram:
        return Histogram(f"gen_ai_server_{name}_seconds", help_, buckets=_SECONDS, registry=self._registry)

    def finished(self, *, duration_s: float) -> None:
        """Count a call, however it ended."""
        self._duration.observe(duration_s)

    def written(self, *, first_token_s: float, tokens: int, duration_s: float) -> None:
        """Count the tokens of an answer."""
        self._first_token.observe(first_token_s)
        if tokens > 1:
            self._per_token.observe((duration_s - first_token_s) / (tokens - 1))

    def collect(self) -> Iterator[Metric]:
        """Yield the readings; prometheus_client calls this in a thread of its own.

        They are taken on the event loop, which owns what is read: another thread would see it change midway.
        """
        assert self._loop is not None, "nobody scrapes before it is served"
        for reading in asyncio.run_coroutine_threadsafe(self._take(), self._loop).result(_PATIENCE_S):
            if reading.name.endswith("_total"):
                yield CounterMetricFamily(reading.name.removesuffix("_total"), reading.help, value=reading.value)
            else:
                yield GaugeMetricFamily(reading.name, reading.help, value=reading.value)

    async def _take(self) -> list[Reading]:
        return self._read()

    def serve(self, address: str) -> None:
        """Serve `/metrics`.

        Args:
            address: `HOST:PORT`.

        Raises:
            OSError: The address cannot be bound.
            ValueError: It is not an address.
        """
        self._loop = asyncio.get_running_loop()
        host, _, port = address.rpartition(":")
        start_http_server(int(port), addr=host or "127.0.0.1", registry=self._registry)
        log.info("metrics on http://%s/metrics", address)
