"""The images of requests: their bytes travel to a replica once, from then on their hashes do.

A request names an image by its hash if its bytes were sent to any replica of the skill before. A replica that does not
have them refuses the request with NOT_FOUND and is sent it again, with the bytes of the images that it lacks. What is
too large for one request goes along with several: the replica keeps what it was sent, and refuses until it has all.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from core.pool.rpc_status import missing_images

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet

    from core.rpc import grpc
    from skills import skills_pb2

REMEMBERED = 4096
ROOM = 16 * 1024 * 1024
"""Bytes of images that travel in one request if there are several. A server takes 17 MiB unless it is set otherwise."""


class SentImages:
    """The hashes of images whose bytes were sent to any replica of a skill, at most `REMEMBERED`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may make a call while it is held
        self._hashes: OrderedDict[bytes, None] = OrderedDict()

    def never(self, hashes: Iterable[bytes]) -> set[bytes]:
        """Return those of the images that were never sent."""
        with self._lock:
            return {each for each in hashes if each not in self._hashes}

    def note(self, hashes: Iterable[bytes]) -> None:
        """Record that images are sent or named; the least recently used ones are forgotten."""
        with self._lock:
            for each in hashes:
                self._hashes[each] = None
                self._hashes.move_to_end(each)
            while len(self._hashes) > REMEMBERED:
                self._hashes.popitem(last=False)


class RequestImages:
    """The images of one call.

    Args:
        request: The caller's request; not changed.
        sent: The images that were sent to the skill's replicas.
    """

    def __init__(self, request: skills_pb2.GenReq, sent: SentImages) -> None:
        self.any = any(True for _ in _images(request))
        """Whether there are any."""
        self.request = request
        """The request with the hash of each image in place of its bytes."""
        self._data: dict[bytes, bytes] = {}
        self._sent = sent
        if any(image.HasField("data") for image in _images(request)):
            self.request = _copy(request)
            for image in _images(self.request):
                if image.HasField("data"):
                    data = image.data
                    image.sha256 = hashlib.sha256(data).digest()
                    self._data[image.sha256] = data

    def never_sent(self) -> set[bytes]:
        """Return the hashes of the images whose bytes must go along the first time."""
        return self._sent.never(self._data)

    def with_bytes(self, request: skills_pb2.GenReq, hashes: AbstractSet[bytes]) -> skills_pb2.GenReq:
        """Return what travels: a request like `self.request`, with the bytes of these images."""
        self._sent.note(self._data)
        if not hashes:
            return request
        whole, left = _copy(request), set(hashes)
        for image in _images(whole):
            if (digest := image.sha256) in left:
                left.remove(digest)  # once, however often the request shows it
                image.data = self._data[digest]
        return whole

    def batch(self, wanted: AbstractSet[bytes], travelled: AbstractSet[bytes]) -> set[bytes]:
        """Return the images whose bytes go along now: all that are wanted, or as many new ones as there is room for.

        Args:
            wanted: The images that the replica lacks, or may lack.
            travelled: Those whose bytes it was sent in this attempt.
        """
        if sum(len(self._data[each]) for each in wanted) <= ROOM:
            return set(wanted)
        batch, room = set[bytes](), ROOM
        for each, data in self._data.items():
            if each in wanted and each not in travelled and (not batch or len(data) <= room):
                batch.add(each)
                room -= len(data)
        return batch

    def lacking(self, error: grpc.RpcError) -> set[bytes]:
        """Return the images whose bytes a replica lacks; none if it cannot be helped with what the caller has given."""
        lacking = missing_images(error)
        return set(lacking) if self._data.keys() >= lacking else set()


def _images(request: skills_pb2.GenReq) -> Iterator[skills_pb2.Image]:
    for message in request.messages:
        for part in message.parts:
            if part.HasField("image"):
                yield part.image


def _copy(request: skills_pb2.GenReq) -> skills_pb2.GenReq:
    copy = type(request)()
    copy.CopyFrom(request)
    return copy
