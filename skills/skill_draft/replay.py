"""Which request ends engines: after one has died, the requests that it had go on in the next one by one.

Each is sent when the one before has made progress, so one that kills is known by it. Reading their prompts again is
bound by the CPU anyway, so this costs no time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from .engine.messages import Done, Event, Failed, Piece, Queued
from .flight import Flight


class Replay:
    """The requests that an engine had when it died: the suspects, and which of them is on trial."""

    def __init__(self) -> None:
        self._suspects: deque[Flight] = deque()
        self._on_trial: Flight | None = None
        self._was_running = False  # the one on trial, when its engine died: it must do more to pass
        self._clouded = False  # a caller left during the trial of its request, which may still end this engine

    @property
    def active(self) -> bool:
        """Whether requests are still to be sent; a new one waits for them."""
        return bool(self._suspects or self._on_trial)

    def begin(self, flights: Iterable[Flight], *, nobodys_fault: bool = False) -> Flight | None:
        """An engine has died with these requests. Return the one that is guilty: it was the only one on trial."""
        guilty = None if self._clouded or nobodys_fault else self._on_trial
        self.clear()
        self._suspects.extend(sorted((f for f in flights if f is not guilty), key=lambda f: f.request.id))
        return guilty

    def add(self, flight: Flight) -> None:
        """A request that has come meanwhile is sent after the others."""
        self._suspects.append(flight)

    def next(self) -> Flight | None:
        """Return the request to send now, if there is one: it is on trial from now on."""
        if self._on_trial or not self._suspects:
            return None
        self._on_trial = self._suspects.popleft()
        self._was_running = self._on_trial.admitted is not None
        return self._on_trial

    def heard(self, event: Event) -> None:
        """The engine has said something; if it is progress of the request on trial, that has passed."""
        progress = (Piece, Done, Failed) if self._was_running else (Queued, Piece, Done, Failed)
        if self._on_trial and isinstance(event, progress) and event.id == self._on_trial.request.id:
            self._on_trial, self._clouded = None, False

    def leave(self, flight: Flight) -> None:
        """The caller of a request has gone."""
        if flight is self._on_trial:
            self._on_trial, self._clouded = None, True
        elif flight in self._suspects:
            self._suspects.remove(flight)

    def clear(self) -> None:
        """Nothing is suspected any more."""
        self._suspects.clear()
        self._on_trial, self._clouded = None, False
