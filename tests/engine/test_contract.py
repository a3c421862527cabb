"""The engine's promises apart from the bits: nothing is prefilled twice, no request starves, no slot leaks."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skills.skill_draft.engine.contention import ContentionMeter
from skills.skill_draft.engine.lookup import AcceptanceRates, Lookup
from skills.skill_draft.engine.messages import Admitted, Done, Failed, FailureKind, Piece, Priority, Sampling, Turn
from skills.skill_draft.engine.sampling import Sampler, SamplingError, Scratch
from skills.skill_draft.engine.scheduler import Scheduler
from skills.skill_draft.engine.sequence import BATCH_DELAY_S, Sequence
from skills.skill_draft.engine.threads import Threads

from .harness import EngineUnderTest, ask

SYSTEM = "Count to five. Who are you? Say hello. What is in the image? " * 12


def with_system(question: str, **fields: Any) -> Any:
    turns = (Turn(role="system", content=SYSTEM), Turn(role="user", content=question))
    return ask(turns=turns, **fields)


@pytest.fixture
def engine() -> Iterator[EngineUnderTest]:
    with EngineUnderTest() as running:
        yield running


def admitted(engine: EngineUnderTest, id_: int) -> Admitted:
    event = engine.wait_for(id_, (Admitted,))
    assert isinstance(event, Admitted)
    return event


def test_a_system_prompt_is_prefilled_once_though_requests_arrive_together(engine: EngineUnderTest) -> None:
    ids = [engine.submit(with_system(q)) for q in ("Say hello.", "Count to five.", "Who are you?", "Count to twenty.")]
    for id_ in ids:
        assert isinstance(engine.wait_for(id_), Done)
    first, *others = [admitted(engine, id_) for id_ in ids]
    assert first.cached_tokens == 0
    for other in others:
        assert other.cached_tokens > 0.8 * other.prompt_tokens
    prompt_cells = first.prompt_tokens + sum(o.prompt_tokens - o.cached_tokens for o in others)
    assert engine.engine.stats().kv_used < prompt_cells + 80, "the shared prefix was computed again"


def test_candidates_share_one_prefill(engine: EngineUnderTest) -> None:
    done = engine.answer(with_system("Who are you?", num_candidates=8, max_tokens=4, sampling=Sampling(temperature=3)))
    assert len(done.endings) == 8
    prompt = admitted(engine, done.id).prompt_tokens
    assert engine.engine.stats().kv_used < prompt + 8 * 6


@pytest.mark.parametrize("candidates", [1, 3])
def test_a_request_that_cannot_meet_its_deadline_costs_nothing(engine: EngineUnderTest, candidates: int) -> None:
    engine.answer(ask("Say hello."))
    steps = engine.engine.stats().steps
    late = with_system("Say hello.", deadline=time.monotonic() + 0.05, num_candidates=candidates)
    engine.engine._threads.costs.observe(512, 60_000, time.monotonic())  # as if prefill took a minute
    failed = engine.answer(late)
    assert isinstance(failed, Failed)
    assert failed.kind is FailureKind.DEADLINE
    assert not any(isinstance(event, Admitted) for event in engine.events[failed.id])
    assert engine.engine.stats().steps == steps


def test_a_step_that_was_suspended_for_seconds_makes_no_deadline_look_unreachable(
    engine: EngineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = engine.loaded.context
    decode = context.decode

    def stopped_decode(rows: int) -> Any:
        time.sleep(3)  # as if the process had been suspended: time passes without computation
        return decode(rows)

    engine.answer(ask("Who are you?", max_tokens=1))
    monkeypatch.setattr(context, "decode", stopped_decode)
    engine.answer(ask("Say hello.", max_tokens=1))
    monkeypatch.setattr(context, "decode", decode)
    other = "Count to five."  # a prompt of about as many tokens, none of them in the cache
    done = engine.answer(ask(other, max_tokens=1, deadline=time.monotonic() + 1))
    assert isinstance(done, Done), done


def test_a_cancelled_prompt_stops_in_mid_prefill() -> None:
    with EngineUnderTest(n_batch=64) as engine:
        running = engine.submit(ask("Count to twenty.", grammar='root ::= "a" root', max_tokens=900))
        engine.wait_for(running, (Piece,))
        long = engine.submit(with_system("Say hello."))
        admitted(engine, long)
        engine.cancel(long)
        engine.cancel(running)
        engine.idle(timeout=2)
        assert not any(isinstance(event, Piece) for event in engine.events[long])
        assert not engine.engine._cells.running


def test_prompts_that_arrive_together_are_prefilled_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skills.skill_draft.engine.forecast.BATCHING_DELAY_SHARE", 5.0)
    with EngineUnderTest(slots=4) as engine:
        ids = []
        for text in ("Say hello.", "Count to five.", "Who are you?", "Tell me more."):
            ids.append(engine.submit(ask(turns=(), raw=text, max_tokens=1)))
            time.sleep(0.01)
        assert all(isinstance(engine.wait_for(id_), Done) for id_ in ids)
        assert engine.engine.stats().steps == 1


def test_streams_continue_during_the_prefill_of_a_long_prompt() -> None:
    """Between two pieces of a stream, only a bounded part of the prompt is prefilled."""
    with EngineUnderTest(n_batch=512, gap_ms=1.0) as engine:
        stream = engine.submit(ask("Say hello.", grammar='root ::= "a" root', max_tokens=900))
        engine.wait_for(stream, (Piece,), count=5)
        before = len(list(engine.pieces(stream)))
        long = engine.submit(with_system("Say hello. " * 90))
        engine.wait_for(long, (Piece,))
        during = len(list(engine.pieces(stream))) - before
        engine.cancel(stream)
        prompt = admitted(engine, long).prompt_tokens
    assert prompt > 400
    assert during >= 5, f"{during} tokens while {prompt} were prefilled: the stream stalled"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_an_error_not_an_answer(engine: EngineUnderTest, bad: float) -> None:
    vocab = engine.loaded.model.vocab
    logits = np.zeros(vocab.n_tokens, np.float32)
    logits[3 if math.isfinite(bad) or bad != -math.inf else slice(None)] = bad
    for sampling in (Sampling(temperature=0), Sampling(temperature=1)):
        with pytest.raises(SamplingError):
            Sampler(vocab, Scratch(vocab.n_tokens), sampling).choose(logits, [1, 2, 3], 0)


def test_a_grammar_may_name_a_character_that_is_no_token(engine: EngineUnderTest) -> None:
    """The vocabulary spells the character in bytes."""
    done = engine.answer(ask(grammar='root ::= "\\U00012345"'))
    assert isinstance(done, Done), done
    assert done.endings[0].text == "\U00012345"


# --- the scheduler alone ---


class Progress:
    """A sequence as the scheduler sees it: a number of pending tokens."""

    def __init__(self, pending: int, key: float, priority: Priority = Priority.INTERACTIVE) -> None:
        self.pending, self.queue_key = pending, (key, 0, 0)
        self.decodes = pending == 1
        self.speculator: Lookup | None = None
        self.leader = self.slot = self.image = None
        self.room = 400
        self.request = ask(priority=priority)

    @property
    def readable(self) -> int:
        return self.pending


SIZES = (1, 4, 8, 16, 32, 64, 128, 256, 512)


def threads_of(ms: Callable[[int], float], sizes: tuple[int, ...] = SIZES) -> Threads:
    """Return threads that have observed steps of 1 to 512 rows, with these costs in milliseconds."""
    threads = Threads(1, ContentionMeter())
    for rows in sizes:
        threads.observe(1, rows, ms(rows), 0.0)
    return threads


def scheduler_over(running: list[Progress], threads: Threads, *, n_batch: int, gap_ms: float = 250) -> Scheduler:
    """Return a scheduler with running sequences."""
    scheduler = Scheduler(threads, n_batch=n_batch, max_itl_ms=gap_ms, max_running=24)
    scheduler.running = running  # type: ignore[assignment]
    return scheduler


@settings(max_examples=200, deadline=None)
@given(
    pending=st.lists(st.integers(1, 3000), min_size=1, max_size=24),
    batch=st.sets(st.integers(0, 23)),
    ms_per_row=st.floats(0.05, 40),
    n_batch=st.sampled_from([64, 256, 512]),
)
def test_a_plan_serves_every_decode_and_the_oldest_prompt(
    pending: list[int], batch: set[int], ms_per_row: float, n_batch: int
) -> None:
    running = [Progress(n, i, Priority.BATCH if i in batch else Priority.INTERACTIVE) for i, n in enumerate(pending)]
    threads = threads_of(lambda rows: 2 + ms_per_row * rows)
    shares = scheduler_over(running, threads, n_batch=n_batch).plan()
    by_sequence: dict[int, int] = {id(share.sequence): share.n for share in shares}
    assert len(by_sequence) == len(shares)
    assert all(0 < share.n <= share.sequence.pending for share in shares)
    decodes = [s for s in running if s.decodes]
    prompts = [s for s in running if not s.decodes]
    assert all(by_sequence[id(s)] == 1 for s in decodes)
    rows = sum(share.rows for share in shares)
    assert rows <= n_batch + len(decodes)
    if prompts:
        assert by_sequence.get(id(prompts[0]), 0) >= 1
        # No row stays empty while there is something to prefill.
        assert rows >= len(decodes) + min(4, sum(s.pending for s in prompts))
        if not decodes:
            (alone,) = scheduler_over([Progress(9000, 0)], threads, n_batch=n_batch).plan()
            assert min(alone.n, *pending) <= rows <= alone.n
    if decodes and len(decodes) < 8:
        assert rows <= 4 + len(decodes) or threads.costs.ms(rows) <= 260


def read_all(scheduler: Scheduler) -> list[int]:
    """Prefill all prompts without decoding; return the step in which each is complete, in order of the prompts."""
    ended: list[int] = []
    for step in itertools.count(1):
        for share in scheduler.plan():
            if not share.sequence.decodes:
                share.sequence.pending -= share.n  # type: ignore[misc]
        ended += [step for s in scheduler.running if not s.pending]
        scheduler.running = [s for s in scheduler.running if s.pending]
        if all(s.decodes for s in scheduler.running):
            return ended
    raise AssertionError


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(40, 80), min_size=2, max_size=10))
def test_prompts_of_like_length_end_together_where_prefill_during_decodes_is_expensive(lengths: list[int]) -> None:
    threads = threads_of(lambda rows: 100 + 20 * rows)  # 34 ms a row in a step of 250 ms, 22 in one of a second
    rows = threads.costs.rows_within(1000, 512)
    ended = read_all(scheduler_over([Progress(n, i) for i, n in enumerate(lengths)], threads, n_batch=512))
    assert len(ended) == len(lengths)
    assert max(ended) <= math.ceil(sum(lengths) / rows), "rows were left empty"
    assert min(ended) >= max(ended) - 2


def test_prompts_are_prefilled_one_after_the_other_where_that_is_as_cheap_during_decodes() -> None:
    """Callers a few milliseconds apart have their first tokens, on average, in half the time that all take."""
    threads = threads_of(lambda rows: 5 + 2 * rows)
    running = [Progress(346, i) for i in range(8)]
    ended = read_all(scheduler_over([*running, Progress(1, 9)], threads, n_batch=512))
    steps = math.ceil(8 * 346 / threads.costs.rows_within(250, 512))
    assert max(ended) <= steps + 1, "rows were left empty"
    assert sum(ended) / 8 < 0.65 * steps
    # No first token waits for a long step that other prompts fill.
    (share,) = scheduler_over([Progress(346, 0), Progress(346, 1)], threads, n_batch=512).plan()
    assert (share.sequence.queue_key, share.n) == ((0, 0, 0), 346)


def test_the_oldest_prompt_moves_on_however_many_shorter_ones_come() -> None:
    oldest, answering = Progress(3000, 0), Progress(1, 1)
    for step in range(1, 60):
        shorter = [Progress(400, step + i) for i in range(8)]
        shares = scheduler_over([oldest, answering, *shorter], threads_of(float), n_batch=512).plan()
        oldest.pending -= next(share.n for share in shares if id(share.sequence) == id(oldest))
        if oldest.pending <= 400:
            return
    raise AssertionError(f"{oldest.pending} tokens of it are left")


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    long, short, answering = Progress(1000, 0), Progress(20, 1), Progress(1, 2)
    for running in ([long, short], [long, short, answering]):
        scheduler = scheduler_over(running, threads_of(lambda rows: 60.0 * -(-rows // 4)), n_batch=64)
        rows = {id(share.sequence): share.n for share in scheduler.plan()}
        assert rows[id(short)] * 4 >= rows[id(long)] >= 1


def test_an_earlier_prompt_of_another_priority_is_prefilled_first() -> None:
    batch, interactive = Progress(1000, 0, Priority.BATCH), Progress(1000, 1)
    shares = scheduler_over([batch, interactive], threads_of(float), n_batch=64).plan()
    assert [(id(share.sequence), share.n) for share in shares] == [(id(batch), 64)]


def speculating(right: float) -> Progress:
    """Return a sequence whose text repeats itself, with a given acceptance rate."""
    sequence, text = Progress(1, 0), list(range(100)) * 2
    sequence.speculator = lookup = Lookup(text, AcceptanceRates([right] * 5))
    text.append(0)
    lookup.push()
    return sequence


@pytest.mark.parametrize(("tile_ms", "row_ms", "expected"), [(120, 30, 1), (70, 60, 3)])
def test_few_tokens_are_speculated_where_rows_cost_the_same_and_whole_tiles_where_these_are_cheap(
    tile_ms: int, row_ms: int, expected: int
) -> None:
    threads = threads_of(lambda rows: 50 + rows // 4 * tile_ms + rows % 4 * row_ms, (1, 2, 3, 4, 8, 12, 16, 32))
    shares = scheduler_over([speculating(0.6)], threads, n_batch=64).plan()
    assert len(shares[0].speculative) == expected


@pytest.mark.parametrize(("others", "expected"), [(0, 11), (1, 6)])
def test_speculation_of_a_sequence_that_runs_alone_delays_nobody(others: int, expected: int) -> None:
    threads = threads_of(lambda rows: 100 + 20 * rows, (1, 2, 3, 4, 8, 12, 16, 32))
    running = [speculating(0.95), *(Progress(1, 1 + i) for i in range(others))]
    shares = scheduler_over(running, threads, n_batch=64, gap_ms=260).plan()
    assert len(shares[0].speculative) == expected
    assert (threads.costs.ms(sum(share.rows for share in shares)) <= 260) == bool(others)


def test_batch_requests_rise_with_age() -> None:
    def key(arrived: float, priority: Priority) -> tuple[float, int, int]:
        request = ask(arrived=arrived, priority=priority)
        return Sequence.key_of(request, 0)

    old_batch, new_interactive = key(0.0, Priority.BATCH), key(BATCH_DELAY_S + 1, Priority.INTERACTIVE)
    assert old_batch < new_interactive
    assert key(5.0, Priority.INTERACTIVE) < key(0.0, Priority.BATCH)
    assert key(0.0, Priority.INTERACTIVE) < key(1.0, Priority.INTERACTIVE)
