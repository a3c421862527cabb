"""The tier that replicas share: a Valkey or Redis server.

A slow store is worse than a dead one, so no call waits longer for it than for 20 ms. A read that is late is abandoned
and never cancelled: cancelled reads have left replies on connections, which the next reader took for its own. Each read
owns its connection until its reply is there or the connection is closed, and each entry is sealed for its key.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
import urllib.parse
from typing import TYPE_CHECKING, ClassVar

from .breaker import Breaker
from .envelope import seal, unseal
from .kept import Entry, Tier

if TYPE_CHECKING:
    from valkey.asyncio import Valkey

log = logging.getLogger("sarai.runtime")

READ_S = 0.02
"""The most time that a call waits for a reply, seconds."""
TURN_S = 0.005
"""The most time that a call waits for its turn to ask."""
AT_ONCE = 3
"""Reads that calls wait for at once: so at most this many calls pay for a store that hangs."""
MOST_ABANDONED = 16
MOST_WRITES, MOST_WRITE_BYTES = 256, 16 << 20
"""Entries that wait to be written, and their bytes; more are dropped."""
RETENTION_S = 30 * 86400
"""How long the store keeps an entry. It does not get wrong by age: the key holds all that decides the answer."""
_CONNECTION_S = 1.0  # connecting, writing, and draining an abandoned connection
_CLOSE_S = 1.0
_CLEAR_S = 30.0
_BATCH = 500
_IN_A_THREAD_BYTES = 32 << 10


class SharedTier:
    """Entries in a store that others may read, and write to: what they write is not believed.

    Args:
        url: valkey://, redis://, rediss:// or unix://, with user and password if needed.
        secret: the deployment's; seals the entries, and separates them from those of other deployments.

    Raises:
        ValueError: The URL is wrong.
        ImportError: The library `valkey` is not installed.
    """

    tier: ClassVar[Tier] = Tier.SHARED

    def __init__(self, url: str, secret: bytes) -> None:
        self._client, self._secret = _client(url), secret
        self._name = urllib.parse.urlsplit(url)._replace(query="").geturl().rpartition("@")[2]
        self._prefix = f"sarai:answers:{hmac.digest(secret, b'namespace', 'sha256').hex()[:16]}:"
        self._breaker = Breaker()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._reads: set[asyncio.Task[bytes | None]] = set()
        self._writes: asyncio.Queue[tuple[bytes, Entry | None]] = asyncio.Queue(MOST_WRITES)
        self._waiting_bytes = 0
        self.dropped = 0
        """Writes that were dropped, because too many waited or the store was passed over."""
        self._writing = asyncio.Lock()
        self._refused = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def state(self) -> str:
        """`up`, or the reason why it is passed over just now."""
        return self._breaker.reason or "up"

    async def start(self) -> None:
        """Begin to connect; until it is connected, calls do not wait for it."""
        self._tasks = [asyncio.create_task(self._write_all()), asyncio.create_task(self._probe_until_well(0.0))]

    async def close(self) -> None:
        """Write what waits, for 1 s at most, and disconnect."""
        if not self._breaker.reason:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._writes.join()
        for task in (*self._tasks, *self._reads):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._reads, return_exceptions=True)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CLOSE_S):
                await self._client.aclose()

    async def get(self, key: bytes) -> Entry | None:
        """Return an entry, if the store answers in time."""
        if not self._may_ask() or not await self._turn():
            return None
        try:
            if not self._may_ask():  # any more
                return None
            reading = self._read(self._prefix + key.hex())
            await asyncio.wait({reading}, timeout=READ_S)
        finally:
            self._turns.release()
        if not (sealed := self._result(reading)):
            return None
        if len(sealed) < _IN_A_THREAD_BYTES:
            return unseal(self._secret, key, sealed)
        return await asyncio.to_thread(unseal, self._secret, key, sealed)

    def put(self, key: bytes, entry: Entry) -> None:
        """Write an entry later, unless too much waits already."""
        size = len(entry.value)
        if self._breaker.reason or self._writes.full() or self._waiting_bytes + size > MOST_WRITE_BYTES:
            self.dropped += 1
            return
        self._waiting_bytes += size
        self._writes.put_nowait((key, entry))

    def remove(self, key: bytes) -> None:
        """Remove an entry later, if the store is there."""
        with contextlib.suppress(asyncio.QueueFull):
            self._writes.put_nowait((key, None))

    async def clear(self) -> tuple[int, int]:
        """Remove all entries of this deployment that the store has, as far as it answers."""
        entries = num_bytes = 0
        try:
            async with asyncio.timeout(_CLEAR_S), self._writing:
                while not self._writes.empty():
                    self._waiting_bytes -= _size(self._writes.get_nowait()[1])
                    self._writes.task_done()
                cursor = -1
                while cursor != 0:
                    cursor, names = await self._client.scan(max(cursor, 0), match=f"{self._prefix}*", count=_BATCH)
                    if names:
                        async with self._client.pipeline(transaction=False) as batch:
                            for name in names:
                                batch.strlen(name)
                            num_bytes += sum(await batch.execute())
                        entries += await self._client.unlink(*names)
        except Exception as error:  # noqa: BLE001  # the library's errors have no common base
            log.warning("kept answers: those in %s were not all removed: %s", self._name, _in_words(error))
        return entries, num_bytes

    def _may_ask(self) -> bool:
        return not self._breaker.reason and len(self._reads) < MOST_ABANDONED

    async def _turn(self) -> bool:
        """Wait for a turn to ask; return False if it does not come in time."""
        try:
            async with asyncio.timeout(TURN_S):
                return await self._turns.acquire()
        except TimeoutError:
            return False

    def _read(self, name: str) -> asyncio.Task[bytes | None]:
        """Read in a task that ends on its own: by the reply, or by closing its connection after a second."""
        task: asyncio.Task[bytes | None] = asyncio.create_task(self._got(name))
        self._reads.add(task)
        task.add_done_callback(self._ended)
        return task

    async def _got(self, name: str) -> bytes | None:
        found: bytes | None = await self._client.get(name)
        return found

    def _result(self, reading: asyncio.Task[bytes | None]) -> bytes | None:
        """Return what was read in time, and count what was not."""
        if not reading.done():
            self._failed(f"it did not answer within {1000 * READ_S:g} ms")
            return None
        if error := reading.exception():
            self._failed(_in_words(error))
            return None
        self._breaker.succeeded()
        return reading.result()

    def _ended(self, task: asyncio.Task[bytes | None]) -> None:
        self._reads.discard(task)
        if not task.cancelled():
            task.exception()  # so that nobody having waited for it is no warning

    def _failed(self, reason: str) -> None:
        if self._breaker.failed(reason, time.monotonic()):
            log.warning("kept answers: the shared store %s is passed over: %s", self._name, reason)
            self._tasks = [task for task in self._tasks if not task.done()]
            self._tasks.append(asyncio.create_task(self._probe_until_well(self._breaker.next_pause_s())))

    async def _probe_until_well(self, pause_s: float) -> None:
        told = pause_s > 0
        while True:
            await asyncio.sleep(pause_s)
            reason = await self._probe()
            if not reason:
                break
            if not told:
                log.warning("kept answers: the shared store %s is passed over: %s", self._name, reason)
            told, self._breaker.reason, pause_s = True, reason, self._breaker.next_pause_s()
        self._breaker.close(time.monotonic())
        log.info("kept answers: the shared store %s is asked", self._name)

    async def _probe(self) -> str:
        """Return why the store cannot be asked, empty if it can: it answers as many reads as are made at once, in time.

        The first round connects, which may take longer.
        """
        for most_s in (_CONNECTION_S, READ_S):
            reads = {self._read(self._prefix + "probe") for _ in range(AT_ONCE)}
            done, late = await asyncio.wait(reads, timeout=most_s)
            if errors := [error for read in done if (error := read.exception())]:
                return _in_words(errors[0])
            if late:
                return f"it did not answer within {1000 * most_s:g} ms"
        return ""

    async def _write_all(self) -> None:
        while True:
            key, entry = await self._writes.get()
            try:
                async with self._writing:
                    await self._write(key, entry)
            finally:
                self._waiting_bytes -= _size(entry)
                self._writes.task_done()

    async def _write(self, key: bytes, entry: Entry | None) -> None:
        from valkey.exceptions import ResponseError

        if self._breaker.reason:
            self.dropped += 1
            return
        name = self._prefix + key.hex()
        try:
            if entry is None:
                await self._client.unlink(name)
            else:
                sealed = await asyncio.to_thread(seal, self._secret, key, entry)
                await self._client.set(name, sealed, px=RETENTION_S * 1000)
        except ResponseError as error:  # full, or a replica that only reads: reads are well all the same
            if not self._refused:
                log.warning("kept answers: the shared store %s takes none: %s", self._name, error)
            self._refused, self.dropped = True, self.dropped + 1
        except Exception as error:  # noqa: BLE001  # the library's errors have no common base
            self.dropped += 1
            self._failed(_in_words(error))
        else:
            if self._refused:
                log.info("kept answers: the shared store %s takes them again", self._name)
            self._refused = False


def _client(url: str) -> Valkey:
    from valkey.asyncio import Valkey
    from valkey.backoff import NoBackoff
    from valkey.retry import Retry

    # The library leaves the name in a certificate unchecked unless told otherwise.
    checks = {"ssl_check_hostname": True} if url.startswith("rediss://") else {}
    client: Valkey = Valkey.from_url(
        url, socket_timeout=_CONNECTION_S, socket_connect_timeout=_CONNECTION_S, retry=Retry(NoBackoff(), 0),
        retry_on_timeout=False, **checks,
    )  # fmt: skip
    return client


def _size(entry: Entry | None) -> int:
    return len(entry.value) if entry is not None else 0


def _in_words(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
