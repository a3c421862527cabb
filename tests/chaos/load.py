"""Sixteen concurrent callers, each of which makes one call after the other."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from typing import Self

from core.pool.client import SkillClient
from skills import skills_pb2
from tests.chaos.history import History, Outcome
from tests.chaos.questions import Question

CALLERS = 16
TIMEOUT_S = 60.0
THINK_S = 0.02


class Load:
    """Callers of one client, which run inside a `with`; at its end each of them finishes its call."""

    def __init__(
        self, client: SkillClient, questions: Sequence[Question], history: History, *, callers: int = CALLERS
    ) -> None:
        self._client, self._history = client, history
        self._over = threading.Event()
        # Each question belongs to one caller, so no nonce is in two calls at once.
        self._threads = [threading.Thread(target=self._ask, args=(questions[n::callers],)) for n in range(callers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S + 10)
        assert not any(thread.is_alive() for thread in self._threads), "a call has not ended"

    def go_on(self, seconds: float) -> None:
        """Continue for this time, or until a call is wrong."""
        self._history.broken.wait(seconds)

    def _ask(self, questions: Sequence[Question]) -> None:
        for question in itertools.cycle(questions):
            if self._over.wait(THINK_S):
                return
            self._history.add(ask(self._client, question))


def ask(client: SkillClient, question: Question, *, timeout_s: float = TIMEOUT_S) -> Outcome:
    """Make one call; return how it ended."""
    begin_s = time.monotonic()
    answer: skills_pb2.GenResp | None = None
    pieces: list[skills_pb2.GenChunk] = []
    error: Exception | None = None
    pause_s, last_s = 0.0, 0.0
    try:
        if not question.streamed:
            answer = client.Generate(question.request, timeout=timeout_s)
        else:
            for chunk in client.GenerateStream(question.request, timeout=timeout_s):
                now_s = time.monotonic()
                pause_s, last_s = max(pause_s, now_s - last_s if last_s else 0.0), now_s
                if chunk.HasField("result"):
                    answer = chunk.result
                else:
                    pieces.append(chunk)
    except Exception as caught:  # noqa: BLE001  # any exception is how this call ended; the history judges it
        error = caught
    return Outcome(
        question=question,
        begin_s=begin_s,
        end_s=time.monotonic(),
        timeout_s=timeout_s,
        answer=answer,
        pieces=pieces,
        longest_pause_s=pause_s,
        error=error,
    )
