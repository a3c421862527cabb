"""The bytes of an image travel to a replica once; real servers that keep what they are sent."""

from __future__ import annotations

import hashlib
import random
import threading
import time

import grpc
import pytest

from core.errors import DeadlineError, InvalidRequestError, NoImagesError, RequestTooLargeError, UnknownImageError
from core.pool import images
from skills import skills_pb2
from tests.both_clients import BOTH, User
from tests.stub_skill import Answer, Failure, Reply, StubSkill, images_of
from tests.system.test_replicas import client_of, replicas, until

TEXT = "one two three"
PHOTO = random.Random(1).randbytes(300_000)
DRAWING = random.Random(2).randbytes(200_000)
SMALL = 4096
"""An upper bound on the size of a request without the bytes of images."""


def hashed(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def about(*images: bytes | skills_pb2.Image, question: str = "What is this?") -> skills_pb2.GenReq:
    """Return a question about images."""
    given = [image if isinstance(image, skills_pb2.Image) else skills_pb2.Image(data=image) for image in images]
    parts = [*(skills_pb2.Part(image=image) for image in given), skills_pb2.Part(text=question)]
    return skills_pb2.GenReq(messages=[skills_pb2.Message(role="user", parts=parts)])


def travelled(skill: StubSkill) -> list[list[str]]:
    """Return for each request to a skill how each of its images was sent: as `data` or `sha256`."""
    return [[str(image.WhichOneof("source")) for image in images_of(request)] for request in skill.requests]


@pytest.mark.parametrize("user", BOTH)
def test_bytes_travel_once_and_then_the_hash(user: User) -> None:
    request = about(skills_pb2.Image(data=PHOTO, max_tokens=64))
    asked = request.SerializeToString()
    with StubSkill(TEXT) as skill, replicas(skill.target) as made, user(made) as client:
        assert client.ask(request).text == TEXT
        assert client.ask(request).text == TEXT
        assert "".join(chunk.text for chunk in client.begin(request)) == TEXT
        assert travelled(skill) == [["data"], ["sha256"], ["sha256"]]
        first, *others = skill.requests
        assert images_of(first)[0].data == PHOTO
        assert all(images_of(other)[0] == skills_pb2.Image(sha256=hashed(PHOTO), max_tokens=64) for other in others)
        assert all(other.ByteSize() < SMALL for other in others)
    assert request.SerializeToString() == asked, "the caller's request is unchanged"


@pytest.mark.parametrize("user", BOTH)
def test_missing_image_is_sent_within_the_same_attempt(user: User) -> None:
    with StubSkill(TEXT) as skill, replicas(skill.target) as made, user(made) as client:
        client.ask(about(PHOTO, DRAWING))
        del skill.images.data[hashed(DRAWING)]
        assert client.ask(about(PHOTO, DRAWING)).text == TEXT
        skill.images.data.clear()
        assert "".join(chunk.text for chunk in client.begin(about(PHOTO, DRAWING))) == TEXT
        assert travelled(skill) == [
            ["data", "data"],
            ["sha256", "sha256"], ["sha256", "data"],
            ["sha256", "sha256"], ["data", "data"],
        ]  # fmt: skip
        stats, (replica,) = made.stats, made.replicas
        assert (stats.calls, stats.attempts, stats.failovers, replica.failures) == (3, 3, 0, 0)
        assert not replica.down


@pytest.mark.parametrize("user", BOTH)
def test_every_replica_is_sent_an_image_once(user: User) -> None:
    slow = Reply(text=TEXT, chunk_delay_s=0.2)
    with StubSkill(slow) as one, StubSkill(slow) as two, replicas(one.target, two.target) as made:
        with user(made) as client:
            for round_ in range(3):
                streams = []
                for number in range(4):
                    streams.append(client.begin(about(PHOTO, question=f"{round_} {number}")))
                    next(streams[-1])  # one after the other, as two at a time might both be sent the bytes
                assert ["".join(chunk.text for chunk in stream) for stream in streams] == [" two three"] * 4
        assert len(one.requests) >= 6
        assert len(two.requests) >= 6
        assert one.images.uploads == two.images.uploads == [hashed(PHOTO)]


def test_follow_up_goes_where_the_image_was_read() -> None:
    with StubSkill(TEXT) as one, StubSkill(TEXT) as two, client_of(one, two) as client:
        first = about(PHOTO)
        client.Generate(first, timeout=10)
        asked = skills_pb2.GenReq(messages=first.messages)
        for question in ("Where?", "Why?", "When?"):
            asked.messages.add(role="assistant", content=TEXT)
            asked.messages.add(role="user", content=question)
            client.Generate(asked, timeout=10)
        by_hash = about(skills_pb2.Image(sha256=hashed(PHOTO)))
        client.Generate(by_hash, timeout=10)
        assert sorted([len(one.requests), len(two.requests)]) == [0, 5]


@pytest.mark.parametrize("user", BOTH)
def test_answer_goes_on_at_a_replica_that_lacks_the_image(user: User) -> None:
    broken = Reply(text=TEXT, break_after=2)
    with StubSkill(broken) as first, StubSkill(TEXT) as second, replicas(first.target, second.target) as made:
        with user(made) as client:
            pieces = [chunk.text for chunk in client.begin(about(PHOTO))]
        assert pieces == ["one", " two", " three", ""]
        assert travelled(first) == [["data"]]
        assert travelled(second) == [["sha256"], ["data"]]
        assert [len(request.continuations[0].token_ids) for request in second.requests] == [2, 2]
        assert (made.stats.attempts, made.stats.failovers) == (2, 1)


@pytest.mark.parametrize("user", BOTH)
def test_both_replicas_of_a_hedged_call_are_sent_missing_images(user: User) -> None:
    slow = Reply(text=TEXT, delay_s=5.0)
    with (
        StubSkill(TEXT) as first,
        StubSkill(TEXT) as second,
        replicas(first.target, second.target, hedge_s=0.2) as made,
        user(made) as client,
    ):
        client.ask(about(PHOTO))
        home, other = (first, second) if first.requests else (second, first)
        home.script(slow)
        home.images.data.clear()
        began_s = time.monotonic()
        assert "".join(chunk.text for chunk in client.begin(about(PHOTO))) == TEXT
        assert time.monotonic() - began_s < slow.delay_s
        assert travelled(home) == [["data"], ["sha256"], ["data"]]
        assert travelled(other) == [["sha256"], ["data"]]
        until(home.calls[-1].ended.is_set)
        assert home.calls[-1].cancelled, "the loser is cancelled"
        assert (made.stats.hedges, made.stats.attempts) == (1, 3)
        until(lambda: not made.outstanding)


@pytest.mark.parametrize("user", BOTH)
def test_unknown_hash_without_bytes_is_the_callers_error(user: User) -> None:
    unknown = about(PHOTO, skills_pb2.Image(sha256=hashed(DRAWING)))
    with StubSkill(TEXT) as skill, replicas(skill.target) as made, user(made) as client:
        with pytest.raises(UnknownImageError) as caught:
            client.ask(unknown)
        assert len(skill.requests) == 1
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert caught.value.caller_fault
        assert hashed(DRAWING).hex()[:8] in str(caught.value)
        assert "send its bytes, as `data`" in str(caught.value)
        client.ask(about(DRAWING))
        assert client.ask(unknown).text == TEXT


def test_replica_that_keeps_no_image_is_sent_each_one_once() -> None:
    with StubSkill() as skill, client_of(skill) as client:
        skill.script(Failure(code=grpc.StatusCode.NOT_FOUND, details="gone", images=(hashed(PHOTO), hashed(DRAWING))))
        with pytest.raises(UnknownImageError):
            client.Generate(about(PHOTO, DRAWING), timeout=10)
        with pytest.raises(UnknownImageError):
            client.Generate(about(PHOTO, DRAWING), timeout=10)
    assert travelled(skill) == [["data", "data"], ["sha256", "sha256"], ["data", "data"]]


@pytest.mark.parametrize("user", BOTH)
def test_images_that_are_too_large_for_one_request_travel_in_several(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "ROOM", 550_000)
    another = random.Random(3).randbytes(600_000)
    asked = about(PHOTO, another, DRAWING, PHOTO)
    with StubSkill(TEXT) as skill, replicas(skill.target) as made, user(made) as client:
        assert client.ask(asked).text == TEXT
        data, known = "data", "sha256"
        in_turn = [[data, known, data, known], [known, data, known, known]]
        assert travelled(skill) == in_turn
        assert client.ask(asked).text == TEXT
        skill.images.data.clear()  # as if it was replaced
        assert "".join(chunk.text for chunk in client.begin(asked)) == TEXT
        assert travelled(skill)[2:] == [[known] * 4, [known] * 4, *in_turn]
        assert (made.stats.calls, made.stats.attempts, made.stats.failovers) == (3, 3, 0)


def test_not_found_without_images_is_an_ordinary_error() -> None:
    with (
        StubSkill(Failure(code=grpc.StatusCode.NOT_FOUND, details="no such voice")) as skill,
        client_of(skill) as client,
    ):
        with pytest.raises(InvalidRequestError) as caught:
            client.Generate(about(PHOTO), timeout=10)
        assert type(caught.value) is InvalidRequestError
        assert len(skill.requests) == 1


@pytest.mark.parametrize("user", BOTH)
def test_deadline_applies_to_sending_a_missing_image(user: User) -> None:
    with StubSkill(TEXT) as skill, replicas(skill.target) as made, user(made) as client:
        client.ask(about(PHOTO))
        skill.images.data.clear()
        skill.script(Reply(text=TEXT, delay_s=5.0))
        began_s = time.monotonic()
        with pytest.raises(DeadlineError):
            client.ask(about(PHOTO), timeout=0.5)
        assert time.monotonic() - began_s < 3.0
        remaining = [call.time_remaining_s for call in skill.calls[1:]]
        assert travelled(skill)[1:] == [["sha256"], ["data"]]
        assert all(each is not None and each < 0.6 for each in remaining)


def test_call_closed_after_sending_a_missing_image_leaves_nothing_behind() -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def answer(_: skills_pb2.GenReq) -> Answer:
        arrived.set()
        go_on.wait(10)
        return TEXT

    with StubSkill(TEXT) as skill, client_of(skill) as client:
        client.Generate(about(PHOTO), timeout=10)
        skill.images.data.clear()
        skill.script(answer)
        stream = client.GenerateStream(about(PHOTO), timeout=10)
        reader = threading.Thread(target=lambda: list(stream))
        threading.excepthook, kept = (lambda _: None), threading.excepthook
        try:
            reader.start()
            assert arrived.wait(10)
            stream.close()
            reader.join(10)
            assert not reader.is_alive()
        finally:
            threading.excepthook = kept
            go_on.set()
        until(lambda: all(call.ended.is_set() for call in skill.calls))
        assert skill.calls[-1].cancelled
        assert not client._wire.pool.outstanding


@pytest.mark.parametrize("user", BOTH)
def test_replica_without_images_is_avoided_for_requests_with_images(user: User) -> None:
    blind = Failure(
        code=grpc.StatusCode.FAILED_PRECONDITION, details="its model reads text alone; that-4b reads images"
    )

    def answer(request: skills_pb2.GenReq) -> Answer:
        return blind if images_of(request) else TEXT

    with (
        StubSkill(answer) as first, StubSkill(TEXT) as second,
        replicas(first.target, second.target) as made, user(made) as client,
    ):  # fmt: skip
        for number in range(6):
            assert client.ask(about(PHOTO, question=str(number))).text == TEXT
        assert len([request for request in first.requests if images_of(request)]) <= 1, "the pool has learned it"
        for number in range(6):
            client.ask(skills_pb2.GenReq(prompt=str(number)))
        assert [request for request in first.requests if not images_of(request)], "it still gets text"
        second.script(answer)
        with pytest.raises(NoImagesError) as caught:
            client.ask(about(PHOTO))
        assert "that-4b reads images (serve a model that reads images" in str(caught.value)
        assert caught.value.caller_fault


def test_image_over_the_servers_limit_is_an_error_that_says_so() -> None:
    with StubSkill(TEXT) as skill, client_of(skill) as client:
        with pytest.raises(RequestTooLargeError, match="send less"):
            client.Generate(about(bytes(20 << 20)), timeout=10)
        assert client.Generate(about(PHOTO), timeout=10).text == TEXT


def test_image_that_cannot_be_read_is_an_error_with_its_field() -> None:
    refused = Failure(
        code=grpc.StatusCode.INVALID_ARGUMENT,
        details="messages[0].parts[0].image: is a PDF",
        fields=(("messages[0].parts[0].image", "is a PDF"),),
    )
    with StubSkill(refused) as one, StubSkill(refused) as two, client_of(one, two) as client:
        with pytest.raises(InvalidRequestError) as caught:
            client.Generate(about(PHOTO), timeout=10)
        assert caught.value.field_violations[0].field == "messages[0].parts[0].image"
        assert len(one.requests) + len(two.requests) == 1
