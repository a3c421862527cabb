"""An answer continues at another replica if that is possible; if it is not, no piece of it is delivered twice."""

from __future__ import annotations

import threading

import pytest

from core.errors import UnavailableError
from core.pool.client import SkillClient
from skills import skills_pb2
from skills.runtime.pieces import HOLD_S
from tests.both_clients import BOTH, Stream, User
from tests.stub_skill import Failure, Reply, StubSkill
from tests.system.test_replicas import REQUEST, process, replicas, until

TEXT = "one two three four"


def read(stream: Stream) -> tuple[list[str], UnavailableError | None]:
    """Return the pieces of an answer, and the error that ended it."""
    pieces: list[str] = []
    try:
        pieces.extend(chunk.text for chunk in stream)
    except UnavailableError as error:
        return pieces, error
    return pieces, None


@pytest.mark.parametrize("user", BOTH)
def test_pieces_without_token_ids_end_with_an_error_where_their_replica_dies(user: User) -> None:
    broken = Reply(text=TEXT, break_after=2, token_ids=False)
    with StubSkill(broken) as first, StubSkill(TEXT) as second, replicas(first.target, second.target) as made:
        with user(made) as client:
            pieces, error = read(client.begin(REQUEST))
        assert pieces == ["one", " two"]
        assert error is not None
        assert second.requests == []


@pytest.mark.parametrize("user", BOTH)
def test_answer_without_token_ids_of_which_nothing_was_seen_begins_anew(user: User) -> None:
    broken = Reply(text=TEXT, break_after=2, chunk_delay_s=1.2 * HOLD_S, token_ids=False)
    whole = Reply(text=TEXT, token_ids=False)
    request = skills_pb2.GenReq(prompt="x", continuations=[skills_pb2.Continuation(token_ids=[1])])
    with StubSkill(broken) as first, StubSkill(whole) as second, replicas(first.target, second.target) as made:
        with user(made) as client:
            assert client.ask(REQUEST).text == TEXT
            assert "".join(chunk.text for chunk in client.begin(REQUEST)) == TEXT, "an unseen answer begins again"
        (again,) = second.requests[:1]
        assert not again.continuations
    with StubSkill(broken) as first, StubSkill(whole) as second, replicas(first.target, second.target) as made:
        with user(made) as client:
            client.ask(request)
        (again,) = second.requests
        assert list(again.continuations) == list(request.continuations), "the caller's own continuation is kept"


@pytest.mark.parametrize("token_ids", [True, False])
@pytest.mark.parametrize("user", BOTH)
def test_whole_answer_that_has_come_is_not_asked_for_again(user: User, token_ids: bool) -> None:
    cut = Reply(text=TEXT, token_ids=token_ids, end=Failure())
    with StubSkill(cut) as first, StubSkill(TEXT) as second, replicas(first.target, second.target) as made:
        with user(made) as client:
            chunks = list(client.begin(REQUEST))
            assert "".join(chunk.text for chunk in chunks) == TEXT
            assert [chunk.result.text for chunk in chunks if chunk.HasField("result")] == [TEXT]
            assert client.ask(skills_pb2.GenReq(prompt="another")).text == TEXT
            until(lambda: not made.outstanding)
        assert second.requests == []


def test_skill_of_one_function_is_never_heard_twice() -> None:
    request = skills_pb2.GenReq(prompt="count slowly")
    module = "tests.obedient_skill"
    with (
        process(module=module) as one, process(module=module) as two, process(module=module) as three,
        replicas(one.target, two.target, three.target) as made, SkillClient(made) as client,
    ):  # fmt: skip
        stream = client.GenerateStream(request, timeout=20)
        first = next(stream).text
        one.process.kill()
        pieces, error = read(stream)
        assert (first + "".join(pieces)) in "0 1 2 3 4 "
        assert error is not None

        threading.Timer(0.8, two.process.kill).start()
        assert client.Generate(request, timeout=20).text == "0 1 2 3 4 "
        assert client.stats().failovers == 1
