"""Measure Python's share of an engine step: the time between calls of `llama_decode`, relative to the whole.

The engine runs as in its own process: requests come from another thread, and each step's events are pickled and written
to a socket that another process reads. Steps with prefill are left out.
"""

from __future__ import annotations

import itertools
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from bench.prompting import Prompts
from skills.runtime.child import PICKLE
from skills.skill_draft.catalog import EMBEDDED, find_model, models_dir
from skills.skill_draft.engine.binding import Context
from skills.skill_draft.engine.engine import Engine
from skills.skill_draft.engine.loading import Loaded, load
from skills.skill_draft.engine.messages import Done, EngineConfig, Event, Request, Sampling, Turn
from skills.skill_draft.engine.prepare import Preparer
from skills.skill_draft.engine.sampling import Scratch

SEQUENCES = (1, 4, 8, 16)
SKIPPED_STEPS = 8
AIM = 0.03


class Stopwatch:
    """Records rows, begin and end (seconds) of every `decode` of a context."""

    def __init__(self, context: Context) -> None:
        self.steps: list[tuple[int, float, float]] = []
        self._decode = context.decode
        context.decode = self.decode  # type: ignore[method-assign]

    def decode(self, n_rows: int) -> npt.NDArray[np.float32]:
        """Decode and record the time."""
        begin = time.perf_counter()
        logits = self._decode(n_rows)
        self.steps.append((n_rows, begin, time.perf_counter()))
        return logits


@contextmanager
def _sink() -> Iterator[socket.socket]:
    """Yield a socket whose other end another process reads."""
    ours, theirs = socket.socketpair()
    reader = subprocess.Popen(["/bin/cat"], stdin=theirs.fileno(), stdout=subprocess.DEVNULL)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        reader.wait(10)


def overhead(*, threads: int, steps: int) -> int:
    """Print a line for each number of sequences; return 0 if all shares are below the target."""
    path = find_model(EMBEDDED, models_dir())
    config = EngineConfig(model=str(path), n_ctx=2048, kv_cells=8192, threads=threads)
    loaded = load(config)
    watch = Stopwatch(loaded.context)
    over = False
    sys.stdout.write(f"{path.stem}, {threads} threads, {loaded.numerics}: medians of {steps} steps\n")
    for n, temperature in itertools.product(SEQUENCES, (0.0, 0.7)):
        watch.steps.clear()
        inside, outside = _measure(config, loaded, watch, n=n, steps=steps, temperature=temperature)
        share = outside / (inside + outside)
        over |= share >= AIM
        sys.stdout.write(
            f"{n:3} sequences, {'sampled' if temperature else 'greedy '}: llama_decode {1000 * inside:6.2f} ms, "
            f"outside {1000 * outside:6.3f} ms, share {100 * share:.2f} %\n"
        )
    return 1 if over else 0


def _measure(
    config: EngineConfig, loaded: Loaded, watch: Stopwatch, *, n: int, steps: int, temperature: float
) -> tuple[float, float]:
    """Return the median seconds inside and outside `llama_decode` of steps in which all n sequences decode."""
    left, finished = n, threading.Event()
    loaded.context.clear()
    with _sink() as sink:

        def send(events: list[Event]) -> None:
            nonlocal left
            sink.sendall(PICKLE.encode(events))
            left -= sum(isinstance(event, Done) for event in events)
            if not left:
                finished.set()

        engine = Engine(loaded, config, send=send)
        thread = threading.Thread(target=engine.run, daemon=True)
        thread.start()
        preparer = Preparer(
            loaded.model, Scratch(loaded.model.vocab.n_tokens), keeping=engine.keeping, n_ctx=loaded.sizes.n_ctx
        )
        prompts = Prompts(loaded.model.vocab, str(n))
        for i in range(n):
            turns = (Turn(role="user", content=f"{prompts.of_length(64)} Explain at great length."),)
            request = Request(id=i, turns=turns, max_tokens=steps + 2 * SKIPPED_STEPS + n, lookup=False,
                              sampling=Sampling(temperature=temperature, seed=i), arrived=time.monotonic())  # fmt: skip
            engine.inbox.put(preparer.prepare(request))
        if not finished.wait(300):
            raise TimeoutError("the engine did not finish")
        engine.inbox.put(None)
        thread.join(10)
    inside, outside = [], []
    for (_, _, before), (rows, begin, end) in zip(watch.steps, watch.steps[1:], strict=False):
        if rows == n:
            inside.append(end - begin)
            outside.append(begin - before)
    inside, outside = inside[SKIPPED_STEPS:], outside[SKIPPED_STEPS:]
    return statistics.median(inside), statistics.median(outside)
