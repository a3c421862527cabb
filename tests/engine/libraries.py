"""Run checks of our kernels in each CPU library that this machine supports, each in a separate process."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from bench.ggml import Ggml, variants

Run = Callable[..., None]
# Libraries for CPUs without AVX2 do not contain our kernels.
WITHOUT = {f"libggml-cpu-{cpu}" for cpu in ("x64", "sse42", "sandybridge", "ivybridge", "piledriver")}
LIBRARIES = [path for path in variants() if path.stem not in WITHOUT]

_libraries: list[Path] = []


def _load(library: Path) -> None:
    # Also multiply by weights in ggml's own layout, from 32 rows on; everything else is as usual.
    os.environ["SARAI_KERNELS"] = "all"
    _libraries.append(library)


@functools.cache
def ggml(threads: int = 1) -> Ggml:
    """Return this process's library with a number of threads."""
    return Ggml(_libraries[0], threads=threads)


@pytest.fixture(scope="module", params=LIBRARIES, ids=lambda path: path.stem)
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Return a function that runs a check in a process with one of the libraries."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_load, initargs=(request.param,)) as pool:
        assert pool.submit(has_kernels).result(timeout=60), "this library has none of our kernels"
        yield lambda check, *arguments: pool.submit(check, *arguments).result(timeout=120)


def has_kernels() -> bool:
    return "SARAi" in ggml().buffer_types
