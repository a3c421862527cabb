"""Find the request that crashes engines: after a crash, requests are sent to the next engine one at a time.

Each is sent when the one before it has made progress, so if the engine crashes again, the request on trial is the
cause. Reading the prompts again is bound by the CPU anyway, so sending them one by one costs no time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from .engine.messages import Done, Event, Failed, Piece, Queued
from .flight import Flight


class Replay:
    """The requests that wait until those before them have proved harmless, and the one that is on trial."""

    def __init__(self) -> None:
        self._waiting: deque[Flight] = deque()
        self._on_trial: Flight | None = None
        self._aside: set[Flight] = set()  # their trials go on once the rows of their images are there
        self._was_running = False  # the one on trial, when its engine died: then it must do more to pass
        self._inconclusive = False  # a caller left during its trial; its request may still crash this engine

    @property
    def active(self) -> bool:
        """Whether trials are still to come or to go on. A new request has one too, lest it ends another's engine."""
        return bool(self._waiting or self._on_trial or self._aside)

    def begin(self, flights: Collection[Flight], *, nobodys_fault: bool = False) -> Flight | None:
        """Start over after an engine has died.

        Args:
            flights: the requests that the engine had or was to receive.
            nobodys_fault: whether the cause of death was something other than a request.

        Returns:
            The guilty request, if there is one: it was on trial, and an earlier engine had died with it too.
        """
        guilty = None if self._inconclusive or nobodys_fault else self._on_trial
        if guilty and not guilty.lost_engine:
            guilty = None
        for flight in flights:
            sent = flight not in self._waiting or flight.rows is not None
            flight.lost_engine, flight.rows = flight.lost_engine or sent, None
        self.clear()
        self._waiting.extend(sorted((f for f in flights if f is not guilty), key=lambda f: f.request.id))
        return guilty

    def add(self, flight: Flight) -> None:
        """Append a new request; it is sent after the others."""
        self._waiting.append(flight)

    def next(self) -> Flight | None:
        """Return the request to send now, if there is one, and put it on trial."""
        if self._on_trial or not self._waiting:
            return None
        self._on_trial = self._waiting.popleft()
        self._was_running = self._on_trial.admitted is not None
        return self._on_trial

    def heard(self, event: Event) -> None:
        """Process an event of the engine: the request on trial passes once it has made progress."""
        progress = (Piece, Done, Failed) if self._was_running else (Queued, Piece, Done, Failed)
        if self._on_trial and isinstance(event, progress) and event.id == self._on_trial.request.id:
            self._on_trial, self._inconclusive = None, False

    def step_aside(self, flight: Flight) -> None:
        """Interrupt the trial of a request that waits for the rows of an image: that may take a minute."""
        if flight is self._on_trial:
            self._on_trial = None
            self._aside.add(flight)

    def come_back(self, flight: Flight) -> bool:
        """Return whether the trial of a request was interrupted; if so, it goes on after those that wait."""
        if flight not in self._aside:
            return False
        self._aside.remove(flight)
        self._waiting.append(flight)
        return True

    def leave(self, flight: Flight) -> None:
        """Remove a request whose caller has gone."""
        if flight is self._on_trial:
            self._on_trial, self._inconclusive = None, True
        self.ended(flight)

    def ended(self, flight: Flight) -> None:
        """Remove a request that has ended while its trial was still to come or to go on."""
        if flight in self._waiting:
            self._waiting.remove(flight)
        self._aside.discard(flight)

    def clear(self) -> None:
        """Remove all requests and end the trial."""
        self._waiting.clear()
        self._aside.clear()
        self._on_trial, self._inconclusive = None, False
