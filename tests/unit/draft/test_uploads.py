"""The image files that a server keeps."""

from __future__ import annotations

import asyncio
import hashlib

from skills.skill_draft.engine.messages import Image
from skills.skill_draft.uploads import Upload, Uploads

IMAGE = Image(key=b"k", across=3, down=3)


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def add(uploads: Uploads, data: bytes) -> Upload:
    return asyncio.run(uploads.add(data))


def kept(uploads: Uploads, *files: bytes) -> list[bytes]:
    found = [(data, uploads.take(digest(data))) for data in files]
    for _, upload in found:
        if upload:
            uploads.release(upload)
    return [data for data, upload in found if upload]


def test_a_file_is_found_by_the_hash_that_the_server_computed() -> None:
    uploads = Uploads(100)
    first, again = add(uploads, b"one"), add(uploads, b"one")
    assert first is again
    assert (first.sha256, first.pins, uploads.num_bytes) == (digest(b"one"), 2, 3)
    assert uploads.take(digest(b"other")) is None


def test_the_least_recently_used_goes_first_and_those_in_use_stay() -> None:
    uploads = Uploads(9)
    files = [b"1" * 4, b"2" * 4, b"3" * 4]
    pinned = add(uploads, files[0])
    for data in files[1:]:
        uploads.release(add(uploads, data))
    assert kept(uploads, *files) == [files[0], files[2]]
    large = add(uploads, b"x" * 20)
    assert kept(uploads, *files) == [files[0]]
    uploads.release(large)
    assert kept(uploads, b"x" * 20) == []
    uploads.release(pinned)
    assert kept(uploads, files[0]) == [files[0]]
    assert uploads.num_bytes == 4


def test_what_an_image_is_read_as_is_remembered_by_its_limit() -> None:
    uploads = Uploads(0)
    upload = add(uploads, b"one")
    uploads.note(upload, 576, IMAGE)
    uploads.release(upload)
    again = add(uploads, b"one")
    assert (uploads.read_as(again, 576), uploads.read_as(again, 8)) == (IMAGE, None)


def test_what_is_no_image_does_not_stay() -> None:
    uploads = Uploads(100)
    upload = add(uploads, b"one")
    uploads.take(upload.sha256)
    upload.useless = True
    uploads.release(upload)
    assert uploads.num_bytes == 3, "another request has it"
    uploads.release(upload)
    assert (uploads.num_bytes, kept(uploads, b"one")) == (0, [])
