"""A running server as a workload sees it, and the figures that a workload returns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from bench.prompting import Prompts
from bench.servers import Kind
from bench.sizes import Sizes
from bench.wire import Client

Figures = dict[str, float | list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A running server and what a workload needs to load it."""

    kind: Kind
    client: Client
    prompts: Prompts
    sizes: Sizes
    second: Callable[[], AbstractContextManager[int]]
    """Starts another server of the same kind and yields its port."""
