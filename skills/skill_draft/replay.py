"""Which request ends engines: after one has died, the requests that it had go on in the next one by one.

Each is sent when the one before has made progress, so one that kills is known by it. Reading their prompts again is
bound by the CPU anyway, so this costs no time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from .engine.messages import Done, Event, Failed, Piece, Queued
from .flight import Flight


class Replay:
    """The requests that wait for those before them to be harmless, and which of them is on trial."""

    def __init__(self) -> None:
        self._waiting: deque[Flight] = deque()
        self._on_trial: Flight | None = None
        self._was_running = False  # the one on trial, when its engine died: it must do more to pass
        self._clouded = False  # a caller left during the trial of its request, which may still end this engine

    @property
    def active(self) -> bool:
        """Whether requests are still to be sent; a new one waits for them."""
        return bool(self._waiting or self._on_trial)

    def begin(self, flights: Collection[Flight], *, nobodys_fault: bool = False) -> Flight | None:
        """Begin anew, as an engine has died.

        Args:
            flights: those that it had or was to get.
            nobodys_fault: whether it died of something else than a request.

        Returns:
            The one that is guilty: it was on trial, and another engine had died with it before.
        """
        guilty = None if self._clouded or nobodys_fault else self._on_trial
        if guilty and not guilty.lost_engine:
            guilty = None
        for flight in flights:
            flight.lost_engine = flight.lost_engine or flight not in self._waiting
        self.clear()
        self._waiting.extend(sorted((f for f in flights if f is not guilty), key=lambda f: f.request.id))
        return guilty

    def add(self, flight: Flight) -> None:
        """Have a new request sent after the others."""
        self._waiting.append(flight)

    def next(self) -> Flight | None:
        """Return the request to send now, if there is one: it is on trial from now on."""
        if self._on_trial or not self._waiting:
            return None
        self._on_trial = self._waiting.popleft()
        self._was_running = self._on_trial.admitted is not None
        return self._on_trial

    def heard(self, event: Event) -> None:
        """Note what the engine says: progress of the request on trial, which has passed then, or something else."""
        progress = (Piece, Done, Failed) if self._was_running else (Queued, Piece, Done, Failed)
        if self._on_trial and isinstance(event, progress) and event.id == self._on_trial.request.id:
            self._on_trial, self._clouded = None, False

    def leave(self, flight: Flight) -> None:
        """Forget a request whose caller has gone."""
        if flight is self._on_trial:
            self._on_trial, self._clouded = None, True
        elif flight in self._waiting:
            self._waiting.remove(flight)

    def clear(self) -> None:
        """Suspect nobody any more."""
        self._waiting.clear()
        self._on_trial, self._clouded = None, False
