"""When pieces are sent, and with what."""

from __future__ import annotations

import math

import pytest

from skills.skill_draft.engine import outbox as module
from skills.skill_draft.engine.messages import Beat, Done, Event, Piece, Stats, Tokens
from skills.skill_draft.engine.outbox import Outbox


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Sent:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, flush_interval_s: float) -> None:
        self.clock = Clock()
        monkeypatch.setattr(module, "time", self.clock)
        self.frames: list[list[Event]] = []
        self.outbox = Outbox(self.frames.append, flush_interval_s=flush_interval_s)

    def step(self, *pieces: Piece, seconds: float = 0.01, next_in_s: float = 0.0) -> list[Event]:
        """Make a step that ends with these pieces; return what is sent before the next one, without heartbeats."""
        self.clock.now += seconds
        before = len(self.frames)
        for one in pieces:
            self.outbox.put_piece(one)
        self.outbox.flush(Stats, next_in_s=next_in_s)
        return [event for frame in self.frames[before:] for event in frame if not isinstance(event, Beat)]


def piece(text: str, *, id_: int = 1, candidate: int = 0, first: bool = False) -> Piece:
    tokens = Tokens(token_ids=(len(text),), logprobs=(-1.0,))
    return Piece(id=id_, candidate=candidate, text=text, tokens=tokens, first=first)


def test_the_first_goes_at_once_and_the_others_wait_for_company(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Sent(monkeypatch, 0.05)
    assert sent.step(piece("a", first=True)) == [piece("a", first=True)]
    assert sent.step(piece("b")) == []
    assert sent.step(piece("cc"), piece("x", id_=2)) == []
    together = [piece("b") + piece("cc") + piece("ddd"), piece("x", id_=2)]
    assert together[0].text == "bccddd"
    assert together[0].tokens.token_ids == (1, 2, 3)
    assert sent.step(piece("ddd"), seconds=0.05) == together
    assert sent.step(piece("e")) == [], "a new flush interval begins"


def test_nothing_waits_through_a_long_step(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Sent(monkeypatch, 0.05)
    assert sent.step(piece("a"), next_in_s=0.01) == []
    assert sent.step(piece("b"), next_in_s=0.25) == [piece("a") + piece("b")]
    assert sent.step(piece("c"), next_in_s=math.inf) == [piece("c")], "no further step would flush it"


def test_what_is_no_piece_takes_those_before_it_along(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Sent(monkeypatch, 10.0)
    assert sent.step(piece("a"), piece("b", candidate=1)) == []
    sent.outbox.put_piece(piece("c"))
    done = Done(id=1, endings=())
    sent.outbox.put(done)
    assert sent.step() == [piece("a") + piece("c"), piece("b", candidate=1), done]
    assert sent.step(piece("d", id_=3)) == []


def test_without_a_wait_each_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Sent(monkeypatch, 0.0)
    assert [sent.step(piece(text)) for text in "abc"] == [[piece(text)] for text in "abc"]


def test_the_engine_shows_that_it_lives_while_pieces_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Sent(monkeypatch, 0.2)
    for _ in range(100):
        sent.step(piece("a"))
    beats = sum(isinstance(event, Beat) for frame in sent.frames for event in frame)
    assert beats >= 4, "every frame has a heartbeat"
