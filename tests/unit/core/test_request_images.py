"""Which images of a request travel with their bytes, and how a replica reports missing ones."""

from __future__ import annotations

import hashlib
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from core.pool import images
from core.pool.balance import conversation_keys
from core.pool.images import RequestImages, SentImages
from core.pool.rpc_status import missing_images
from skills.skills_pb2 import GenReq, Image, Message, Part
from skills.wire import IMAGE_RESOURCE, STATUS_DETAILS

PHOTO, DRAWING = b"a photo", b"a drawing"


def hashed(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def about(*given: Image) -> GenReq:
    parts = [*(Part(image=image) for image in given), Part(text="What is this?")]
    return GenReq(messages=[Message(role="user", content="Hi"), Message(role="user", parts=parts)], max_tokens=3)


class Refusal(grpc.RpcError):
    """An error like gRPC's."""

    def __init__(self, details: bytes, code: grpc.StatusCode = grpc.StatusCode.NOT_FOUND) -> None:
        self._details, self._code = details, code

    def code(self) -> grpc.StatusCode:
        return self._code

    def trailing_metadata(self) -> Any:
        return ((STATUS_DETAILS, self._details),)


def status(*resources: tuple[str, str]) -> bytes:
    details = [AnyMessage() for _ in resources]
    for detail, (kind, name) in zip(details, resources, strict=True):
        detail.Pack(error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name))
    encoded: bytes = status_pb2.Status(details=details).SerializeToString()
    return encoded


def test_text_travels_as_it_is() -> None:
    request = GenReq(prompt="Hi")
    given = RequestImages(request, SentImages())
    assert given.request is request
    assert not given.any
    assert given.with_bytes(request, given.never_sent()) is request


def test_request_is_kept_with_hashes_and_travels_with_the_bytes_that_are_wanted() -> None:
    request = about(Image(data=PHOTO, max_tokens=9), Image(sha256=hashed(b"x")), Image(data=DRAWING))
    given, sent = RequestImages(request, seen := SentImages()), hashed(PHOTO)
    assert given.any
    bare = about(Image(sha256=sent, max_tokens=9), Image(sha256=hashed(b"x")), Image(sha256=hashed(DRAWING)))
    assert given.request == bare
    assert given.never_sent() == {sent, hashed(DRAWING)}
    assert given.with_bytes(bare, given.never_sent()) == request
    assert given.never_sent() == set()
    half = about(Image(sha256=sent, max_tokens=9), Image(sha256=hashed(b"x")), Image(data=DRAWING))
    assert given.with_bytes(bare, {hashed(DRAWING)}) == half
    assert RequestImages(about(Image(data=PHOTO), Image(data=b"new")), seen).never_sent() == {hashed(b"new")}


def test_image_without_a_source_is_left_to_the_server() -> None:
    request = about(Image(max_tokens=9))
    given = RequestImages(request, SentImages())
    assert given.with_bytes(given.request, given.never_sent()) == request


def test_conversation_is_the_same_however_its_images_travel() -> None:
    def keys(image: Image) -> list[int]:
        return conversation_keys(RequestImages(about(image), SentImages()).request)

    assert keys(Image(data=PHOTO)) == keys(Image(sha256=hashed(PHOTO)))
    assert keys(Image(data=PHOTO))[:1] == keys(Image(data=DRAWING))[:1]
    assert keys(Image(data=PHOTO))[1] != keys(Image(data=DRAWING))[1]
    assert keys(Image(data=PHOTO))[1] != keys(Image(data=PHOTO, max_tokens=9))[1], "it is read at another size"


def test_memory_of_what_was_sent_is_bounded_and_forgets_the_least_recently_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(images, "REMEMBERED", 2)
    sent = SentImages()
    sent.note([b"a", b"b"])
    sent.note([b"a"])
    sent.note([b"c"])
    assert sent.never([b"a", b"b", b"c"]) == {b"b"}


def test_replica_is_sent_what_it_lacks_only_if_all_of_that_is_here() -> None:
    given = RequestImages(about(Image(data=PHOTO), Image(sha256=hashed(DRAWING))), SentImages())
    mine, other = (IMAGE_RESOURCE, hashed(PHOTO).hex()), (IMAGE_RESOURCE, hashed(DRAWING).hex())
    assert given.lacking(Refusal(status(mine))) == {hashed(PHOTO)}
    assert given.lacking(Refusal(status(mine, other))) == set()
    assert given.lacking(Refusal(status(mine), grpc.StatusCode.INTERNAL)) == set()


@pytest.mark.parametrize(
    "details", [b"", b"\xff", status(("sarai.voice", "00")), status((IMAGE_RESOURCE, "no hash")), status()[:-1]]
)
def test_details_that_name_no_image_are_passed_over(details: bytes) -> None:
    assert missing_images(Refusal(details)) == frozenset()
    assert missing_images(grpc.RpcError()) == frozenset()


def test_details_that_are_cut_off_are_passed_over() -> None:
    whole = status((IMAGE_RESOURCE, hashed(PHOTO).hex()))
    assert missing_images(Refusal(whole)) == {hashed(PHOTO)}
    for end in range(len(whole)):
        assert missing_images(Refusal(whole[:end])) == frozenset()
