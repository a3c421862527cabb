"""An engine in a thread of the test process, with a real model."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from skills.skill_draft.engine.engine import Engine
from skills.skill_draft.engine.loading import Loaded, load
from skills.skill_draft.engine.messages import (
    Cancel,
    Constraint,
    ConstraintKind,
    Done,
    EngineConfig,
    Event,
    Failed,
    Noted,
    Piece,
    Request,
    Sampling,
    Turn,
)
from skills.skill_draft.engine.prepare import Preparer
from skills.skill_draft.engine.sampling import Scratch

TINY = Path(__file__).parents[1] / "models" / "tiny-qwen3vl-q8_0.gguf"
GREEDY = Sampling(temperature=0)
_ids = itertools.count(1)


def ask(prompt: str = "Count to twenty.", **fields: Any) -> Request:
    """Return a request for the tiny model, greedy by default; constraints have their names in the contract."""
    turns = (Turn(role="user", content=prompt),)
    for kind in ConstraintKind:
        if kind.value in fields:
            fields["constraint"] = Constraint(kind=kind, text=fields.pop(kind.value))
    values: dict[str, Any] = {"turns": turns, "sampling": GREEDY, "max_tokens": 64, "arrived": time.monotonic()}
    return Request(id=next(_ids), **{**values, **fields})


class EngineUnderTest:
    """Collects the events of a running engine by request."""

    def __init__(self, model: Path = TINY, **config: Any) -> None:
        values = {"n_ctx": 1024, "kv_cells": 4096, "threads": 1, "piece_ms": 0.0, **config}
        self.config = EngineConfig(model=str(model), **values)
        self.loaded: Loaded = load(self.config)
        self.engine = Engine(self.loaded, self.config, send=self._on_events)
        self._preparer = Preparer(
            self.loaded.model, Scratch(self.loaded.model.vocab.n_tokens),
            keeping=self.engine.keeping, n_ctx=self.loaded.sizes.n_ctx, max_image=self.loaded.max_image,
        )  # fmt: skip
        self._changed = threading.Condition()
        self.events: dict[int, list[Event]] = {}
        self.notes: list[Noted] = []
        self._thread = threading.Thread(target=self.engine.run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.inbox.put(None)
        self._thread.join(10)

    def _on_events(self, events: list[Event]) -> None:
        with self._changed:
            for event in events:
                if (id_ := getattr(event, "id", None)) is not None:
                    self.events.setdefault(id_, []).append(event)
                elif isinstance(event, Noted):
                    self.notes.append(event)
            self._changed.notify_all()

    def submit(self, request: Request) -> int:
        """Submit a request; return its id."""
        self.engine.inbox.put(self._preparer.prepare(dataclasses.replace(request, arrived=time.monotonic())))
        return request.id

    def cancel(self, id_: int) -> None:
        """Cancel a request, as when its caller goes away."""
        self.engine.inbox.put(Cancel(id=id_))

    def wait_for(self, id_: int, kinds: tuple[type, ...] = (Done, Failed), timeout: float = 60, count: int = 1) -> Any:
        """Wait for the first event of these kinds for a request (or the count-th)."""
        with self._changed:

            def found() -> list[Event]:
                return [e for e in self.events.get(id_, ()) if isinstance(e, kinds)]

            assert self._changed.wait_for(lambda: len(found()) >= count, timeout), (
                f"no {kinds} for request {id_}, only {self.events.get(id_)}; {self.where()}"
            )
            return found()[count - 1]

    def answer(self, request: Request) -> Any:
        """Submit a request and wait for `Done` or `Failed`."""
        return self.wait_for(self.submit(request))

    def pieces(self, id_: int) -> Iterator[Piece]:
        """Return the pieces of a request so far."""
        return (e for e in self.events.get(id_, ()) if isinstance(e, Piece))

    def idle(self, timeout: float = 10) -> None:
        """Wait until nothing is running."""
        end = time.monotonic() + timeout
        while self.engine.stats().active or self.engine.stats().queued:
            assert time.monotonic() < end, f"the engine is still busy; {self.where()}"
            time.sleep(0.01)

    def where(self) -> str:
        """Return what the engine's thread is doing, and what its sequences wait for."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        stack = "".join(traceback.format_stack(frame)) if frame else "its thread has ended\n"
        scheduler = self.engine._scheduler
        sequences = [
            (name, s.request.id, s.slot and s.slot.length, len(s.tokens), s.readable, s.images and s.images.offsets)
            for name, home in (("running", scheduler.running), ("waiting", scheduler.waiting))
            for s in home
        ]
        return f"sequences: {sequences}; log: {self.engine._cells.used} of {self.engine._cells.n_cells}\n{stack}"
