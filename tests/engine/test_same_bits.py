"""One promise: an answer is a function of its request. Equality, not tolerance."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skills.skill_draft.engine.costs import StepCosts
from skills.skill_draft.engine.lookup import Lookup
from skills.skill_draft.engine.messages import Admitted, Done, Ending, Piece, Priority, Request, Sampling, Tokens, Turn
from skills.skill_draft.engine.parking import Parking
from skills.skill_draft.engine.scheduler import Scheduler, Share
from skills.skill_draft.engine.slots import Slot

from .harness import EngineUnderTest, ask

SAMPLED = Sampling(temperature=4.0, top_k=0, top_p=1.0, min_p=0.0, seed=7)
PENALISED = Sampling(temperature=2.0, seed=11, repeat_penalty=1.3, frequency_penalty=0.2, presence_penalty=0.1)
# Long prompts take many cells; the sampled ones, at a high temperature as the model is confident, use the vocabulary.
PROMPTS = [
    "Count to twenty.",
    "Say hello.",
    "What is in the image? " * 12,
    "Count to five. Who are you? " * 9 + "Count to twenty.",
    "red circle left blue square right " * 20,
]


def requests() -> list[Request]:
    """Return the requests whose answers must not depend on anything else."""
    plain = [ask(p, max_tokens=48) for p in PROMPTS]
    sampled = [ask(p, max_tokens=48, sampling=SAMPLED, top_logprobs=3) for p in PROMPTS]
    penalised = [ask(p, max_tokens=32, sampling=PENALISED, stop=("seven", "xyz")) for p in PROMPTS[:3]]
    grammar = ask("Count to five.", max_tokens=24, grammar='root ::= ("one" | "two" | " ")+ "five"', sampling=SAMPLED)
    keys = {"properties": {f"the_{i}th_number": {"type": ["integer", "string"]} for i in range(4)}}
    schema = json.dumps({"type": "object", **keys, "required": [*keys["properties"]], "additionalProperties": False})
    written = [
        ask("Count to five.", max_tokens=60, json_schema=schema),
        ask("Count to five.", max_tokens=60, json_schema=schema, sampling=SAMPLED, top_logprobs=2),
        ask("Count to five.", max_tokens=12, json_schema=schema, sampling=SAMPLED, close_json=200),
        ask("Say hello.", max_tokens=30, json_object="", sampling=PENALISED, close_json=50),
        ask("Who are you?", max_tokens=30, regex="[a-z]{3}( one| two)+", sampling=SAMPLED),
        ask("Who are you?", max_tokens=30, lark='start: "(" start ")" | /[0-9]+/', sampling=SAMPLED),
    ]
    several = ask("Who are you?", max_tokens=24, num_candidates=3, sampling=SAMPLED)
    return [*plain, *sampled, *penalised, grammar, *written, several]


def again(request: Request, **changes: Any) -> Request:
    """Return the same request with a new id."""
    return dataclasses.replace(request, id=ask().id, **changes)


def outcome(done: Any) -> tuple[Ending, ...]:
    assert isinstance(done, Done), done
    return done.endings


@pytest.fixture(scope="module")
def undisturbed() -> list[tuple[Request, tuple[Ending, ...]]]:
    """Run each request alone, in a new engine, without lookup."""
    pairs = []
    with EngineUnderTest() as engine:
        for request in requests():
            engine.engine._cells.forget_prefixes()
            pairs.append((request, outcome(engine.answer(again(request, lookup=False)))))
    return pairs


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineUnderTest]:
    with EngineUnderTest() as running:
        yield running


def test_the_requests_say_something(undisturbed: list[tuple[Request, tuple[Ending, ...]]]) -> None:
    texts = [endings[0].text for _, endings in undisturbed]
    assert texts[0].startswith("one two three four five six")
    assert len({len(e[0].tokens.token_ids) for _, e in undisturbed}) > 3
    assert len({ending.text for ending in undisturbed[-1][1]}) == 3, "three candidates of a hot sampler differ"


def test_rows_that_only_pad_a_tile(
    undisturbed: list[tuple[Request, tuple[Ending, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding does not affect any answer, and does not count as lookup."""
    padded = 0
    plan = Scheduler.plan

    def counted(self: Scheduler, **options: bool) -> list[Share]:
        nonlocal padded
        shares = plan(self, **options)
        padded += sum(share.num_padding for share in shares)
        return shares

    monkeypatch.setattr(StepCosts, "padded", lambda _, rows: rows + -rows % 4)
    monkeypatch.setattr(Scheduler, "plan", counted)
    with EngineUnderTest() as engine:
        ids = [(engine.submit(again(request, lookup=False)), answer) for request, answer in undisturbed]
        for id_, answer in ids:
            done = engine.wait_for(id_)
            assert outcome(done) == answer
            assert done.lookup_tokens == done.lookup_accepted == 0
    assert padded > 20


def test_alone_with_lookup_and_cached_prefix(
    undisturbed: list[tuple[Request, tuple[Ending, ...]]], engine: EngineUnderTest
) -> None:
    for _ in range(2):
        for request, endings in undisturbed:
            assert outcome(engine.answer(again(request))) == endings


def test_batched_with_the_others(
    undisturbed: list[tuple[Request, tuple[Ending, ...]]], engine: EngineUnderTest
) -> None:
    for shift in range(3):
        turned = undisturbed[shift:] + undisturbed[:shift]
        ids = [(engine.submit(again(request)), endings) for request, endings in turned]
        for id_, endings in ids:
            assert outcome(engine.wait_for(id_)) == endings


@pytest.mark.parametrize("n_batch", [16, 23, 64])
def test_in_other_chunks(undisturbed: list[tuple[Request, tuple[Ending, ...]]], n_batch: int) -> None:
    with EngineUnderTest(n_batch=n_batch, slots=4, prefixes=8, threads=2) as other:
        for request, endings in undisturbed:
            assert outcome(other.answer(again(request))) == endings


def test_after_preemption_and_moves(undisturbed: list[tuple[Request, tuple[Ending, ...]]]) -> None:
    """The cache holds three or four of the sequences: the youngest are preempted and resumed, cells move often."""
    with EngineUnderTest(kv_cells=1024, n_ctx=1024, n_batch=64) as small:
        moves = _count_moves(small)
        for _ in range(3):
            ids = [(small.submit(again(request)), endings) for request, endings in undisturbed]
            for id_, endings in ids:
                assert outcome(small.wait_for(id_)) == endings
        assert moves, "the cache was never full: the test shows nothing"


def test_trash_is_swept_while_others_run(undisturbed: list[tuple[Request, tuple[Ending, ...]]]) -> None:
    """Even if the cache is never full, useless cells are swept, in the middle of answers."""
    with EngineUnderTest(kv_cells=16384, n_ctx=1024) as large:
        moves = _count_moves(large)
        for _ in range(3):
            ids = [(large.submit(again(request)), endings) for request, endings in undisturbed]
            for id_, endings in ids:
                assert outcome(large.wait_for(id_)) == endings
            large.idle()
            large.engine._cells.forget_prefixes()
        assert any(moves), "nothing was swept while a sequence ran: the test shows nothing"
        assert large.engine._cells.used < 4096, "trash piled up"


def test_a_parked_prefix_comes_back(undisturbed: list[tuple[Request, tuple[Ending, ...]]]) -> None:
    """With few slots for prefixes, the others are parked and found again, and the answers are the same."""
    with EngineUnderTest(kv_cells=8192, n_ctx=1024, slots=3, prefixes=1) as parked:
        for request, endings in undisturbed:
            assert outcome(parked.answer(again(request))) == endings
        cells = parked.engine._cells
        assert len(cells._parking) > 2, "nothing was parked: the test shows nothing"
        for request, endings in undisturbed:
            id_ = parked.submit(again(request))
            assert outcome(parked.wait_for(id_)) == endings
            admitted = parked.wait_for(id_, (Admitted,))
            assert admitted.cached_tokens == admitted.prompt_tokens - 1


def test_a_preempted_sequence_is_not_prefilled_again() -> None:
    """A preempted sequence is parked with its answer so far and continues from there."""

    def rows(kv_cells: int, parked_bytes: int) -> tuple[int, list[Any]]:
        n = 0
        with EngineUnderTest(kv_cells=kv_cells, n_ctx=256) as small:
            small.engine._cells._parking = Parking(parked_bytes)
            decode = small.loaded.context.decode

            def counted(n_rows: int) -> Any:
                nonlocal n
                n += n_rows
                return decode(n_rows)

            small.loaded.context.decode = counted  # type: ignore[method-assign]
            long = ask(max_tokens=60, grammar='root ::= ("one " | "two "){30}', sampling=SAMPLED, lookup=False)
            turns = [(Turn(role="user", content=f"{i} Count to twenty."),) for i in range(8)]
            ids = [small.submit(again(long, turns=turn)) for turn in turns]
            answers = [outcome(small.wait_for(id_)) for id_ in ids]
        return n, answers

    (least, answers), (parked, same), (dropped, same_too) = rows(4096, 0), rows(256, 1 << 26), rows(256, 0)
    assert same == same_too == answers
    assert dropped > 1.2 * least, "nothing was preempted: the test shows nothing"
    # Not equal: the order of arrival decides how much of a prompt is shared.
    assert parked < 1.1 * least


def _count_moves(engine: EngineUnderTest) -> list[int]:
    """Return a list that grows by the number of running sequences whenever cells move."""
    moves: list[int] = []
    cells = engine.engine._cells
    original = cells._move

    def counted(slots: list[Slot]) -> None:
        moves.append(len(cells.running))
        original(slots)

    cells._move = counted  # type: ignore[method-assign]
    return moves


@pytest.mark.parametrize("cut", [1, 5, 17])
def test_continued(undisturbed: list[tuple[Request, tuple[Ending, ...]]], engine: EngineUnderTest, cut: int) -> None:
    for request, endings in undisturbed:
        had = tuple(
            Tokens(token_ids=e.tokens.token_ids[:cut], logprobs=e.tokens.logprobs[:cut], top=e.tokens.top[:cut])
            for e in endings
        )
        assert outcome(engine.answer(again(request, so_far=had))) == endings


def test_pieces_joined_are_the_text(engine: EngineUnderTest) -> None:
    for request in requests():
        id_ = engine.submit(request)
        done = engine.wait_for(id_)
        for i, ending in enumerate(done.endings):
            pieces = [p for p in engine.pieces(id_) if p.candidate == i]
            assert "".join(p.text for p in pieces) == ending.text
            assert sum((p.tokens for p in pieces), Tokens()) == ending.tokens


def test_continuing_from_any_piece_repeats_and_loses_nothing(engine: EngineUnderTest) -> None:
    request = ask("Count to twenty.", stop=("twelve thirteen",), sampling=PENALISED, max_tokens=60)
    whole = engine.submit(request)
    ending = engine.wait_for(whole).endings[0]
    pieces: list[Piece] = list(engine.pieces(whole))
    for at in range(1, len(pieces)):
        had = sum((p.tokens for p in pieces[:at]), Tokens())
        id_ = engine.submit(again(request, so_far=(had,)))
        assert engine.wait_for(id_).endings[0] == ending
        assert "".join(p.text for p in engine.pieces(id_)) == "".join(p.text for p in pieces[at:])


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_schedules(
    undisturbed: list[tuple[Request, tuple[Ending, ...]]], churned: EngineUnderTest, data: st.DataObject
) -> None:
    """Arrivals, cancellations, deadlines, priorities and cache pressure: every answer is the request's own."""
    picks = data.draw(st.lists(st.integers(0, len(undisturbed) - 1), min_size=2, max_size=14))
    waiting: list[tuple[int, tuple[Ending, ...], bool]] = []
    for pick in picks:
        request, endings = undisturbed[pick]
        fate = data.draw(st.sampled_from(["stay", "stay", "stay", "cancel", "deadline"]))
        now = time.monotonic()
        id_ = churned.submit(
            again(
                request,
                priority=data.draw(st.sampled_from(list(Priority))),
                lookup=data.draw(st.booleans()),
                deadline=now + data.draw(st.floats(0.0, 0.02)) if fate == "deadline" else None,
            )
        )
        time.sleep(data.draw(st.sampled_from([0, 0, 0.001, 0.005])))
        if fate == "cancel":
            churned.cancel(id_)
        else:
            waiting.append((id_, endings, fate == "stay"))
    for id_, endings, must in waiting:
        done = churned.wait_for(id_)
        if must or isinstance(done, Done):
            assert outcome(done) == endings
    churned.idle()
    cells = churned.engine._cells
    assert not cells.running
    assert not churned.engine._scheduler.running
    assert not churned.engine._scheduler.waiting
    assert len(cells._free_ids) + len(cells.prefixes) == churned.loaded.sizes.n_slots - 2, "a slot leaked"
    assert cells.owned() <= cells.used <= cells.n_cells


@pytest.fixture(scope="module")
def churned() -> Iterator[EngineUnderTest]:
    with EngineUnderTest(kv_cells=1536, n_ctx=1024, slots=6, prefixes=6, n_batch=128) as running:
        yield running


def test_a_turn_with_token_ids_is_prefilled_once(engine: EngineUnderTest) -> None:
    first = engine.submit(ask("Count to twenty.", max_tokens=30))
    ending = engine.wait_for(first).endings[0]
    turns = (
        Turn(role="user", content="Count to twenty."),
        Turn(role="assistant", content=ending.text, token_ids=ending.tokens.token_ids),
        Turn(role="user", content="Say hello."),
    )
    second = engine.submit(ask(turns=turns))
    engine.wait_for(second)
    admitted = engine.events[second][1]
    first_admitted = engine.events[first][1]
    assert admitted.cached_tokens >= first_admitted.prompt_tokens + len(ending.tokens.token_ids) - 1  # type: ignore[union-attr]


@pytest.mark.parametrize("right", [0, 2, 15])
def test_right_and_wrong_speculative_tokens_change_nothing(
    undisturbed: list[tuple[Request, tuple[Ending, ...]]], monkeypatch: pytest.MonkeyPatch, right: int
) -> None:
    """Every step has speculative tokens: the first `right` of them as plain decoding continues, the others wrong."""
    known = {e.tokens.token_ids for _, endings in undisturbed for e in endings}

    def propose(lookup: Lookup, n: int) -> list[int]:
        text = tuple(lookup._tokens)
        for answer in known:
            for length in range(len(answer), 0, -1):
                if text[-length:] == answer[:length]:
                    return ([*answer[length : length + right], *(7 + i for i in range(n))])[:n]
        return [7 + i for i in range(n)]

    monkeypatch.setattr(Lookup, "propose", propose)
    monkeypatch.setattr(Lookup, "expected", lambda _, n: 100.0 * n)
    with EngineUnderTest(kv_cells=2048, gap_ms=60000) as speculating:
        ids = [(speculating.submit(again(request)), endings) for request, endings in undisturbed]
        for id_, endings in ids:
            assert outcome(speculating.wait_for(id_)) == endings
        stats = speculating.engine.stats()
    assert stats.lookup_tokens > 500
    assert (stats.lookup_accepted > 50) == (right > 0)
