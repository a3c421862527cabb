"""The tier on disk: one SQLite file, which outlives the server. Only its own thread touches it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, TypeVar

from skills.runtime.worker import Worker

from .envelope import seal, unseal
from .kept import Entry, Tier

log = logging.getLogger("sarai.runtime")

READ_S = 0.1
"""The most time that a call waits for the disk, seconds. A file over a network that hangs must not hold up answers."""
MOST_WAITING_BYTES = 16 << 20
"""Values that wait to be written; more are dropped."""
_CLOSE_S = 2.0
_CLEAR_S = 30.0
_BUSY_S = 1.0
_PAGE_BYTES = 4096
_LOG_PAGES = 500
# What an entry may take in addition to its value's pages: new pages of the table and of its two indices.
_MORE_PAGES = 8
_EVICTED_AT_ONCE = 16
_OURS, _FORMAT = int.from_bytes(b"SARA", "big"), 1

_TABLES = f"""
CREATE TABLE own (secret BLOB NOT NULL);
CREATE TABLE answers (key BLOB PRIMARY KEY, used_s REAL NOT NULL, sealed BLOB NOT NULL);
CREATE INDEX oldest ON answers (used_s);
PRAGMA application_id = {_OURS};
PRAGMA user_version = {_FORMAT};
"""
_T = TypeVar("_T")


class DiskTier:
    """Entries in a file that only its owner may read. Those that were not used for the longest time go first.

    The file stays within its bound; SQLite's log next to it (`-wal`) takes another 2 MB. Several servers of a host may
    share it. A damaged file is moved aside, and a new one takes its place.

    Args:
        path: the file; it and its folder are made if needed.
        max_bytes: its size.
        secret: seals the entries; None: a random one, which the file itself holds.
    """

    tier: ClassVar[Tier] = Tier.DISK

    def __init__(self, path: Path, max_bytes: int, secret: bytes | None = None) -> None:
        self._path, self._max_pages = path, max(16, max_bytes // _PAGE_BYTES)
        self._given_secret, self._secret = secret, secret or b""
        self._thread = Worker("answers-on-disk")
        self._late: asyncio.Future[Entry | None] | None = None
        self._file: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._trouble = ""

    async def start(self) -> None:
        """Open the file, or make it."""
        await asyncio.wait({self._submit(self._open)}, timeout=_CLOSE_S)

    async def close(self) -> None:
        """Write what waits, for 2 s at most, and close the file."""
        await asyncio.wait({self._submit(self._close)}, timeout=_CLOSE_S)
        self._thread.end()

    async def get(self, key: bytes) -> Entry | None:
        """Return an entry, if the disk answers in time."""
        if self._late is not None and not self._late.done():
            return None  # it hangs: one call has paid for that
        reading = self._submit(lambda: self._do(lambda file: self._read(file, key), None))
        await asyncio.wait({reading}, timeout=READ_S)
        if reading.done():
            return reading.result()
        self._late = reading
        return None

    def put(self, key: bytes, entry: Entry) -> None:
        """Write an entry later, unless too much waits already."""
        size = len(entry.value)
        with self._lock:
            if self._waiting_bytes + size > MOST_WAITING_BYTES:
                return
            self._waiting_bytes += size

        def write() -> None:
            with self._lock:
                self._waiting_bytes -= size
            self._do(lambda file: self._write(file, key, seal(self._secret, key, entry)), None)

        self._thread.submit(write)

    def remove(self, key: bytes) -> None:
        """Remove an entry later."""
        self._thread.submit(lambda: self._do(lambda file: _delete(file, key), None))

    async def clear(self) -> tuple[int, int]:
        """Remove all entries."""
        clearing = self._submit(lambda: self._do(_clear, (0, 0)))
        await asyncio.wait({clearing}, timeout=_CLEAR_S)
        return clearing.result() if clearing.done() else (0, 0)

    def _submit(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        return asyncio.wrap_future(self._thread.submit(work))

    # --- all of the following runs in the thread ---

    def _do(self, work: Callable[[sqlite3.Connection], _T], otherwise: _T) -> _T:
        """Work with the file; what goes wrong with it is told once, and ends nothing."""
        if self._file is None:
            self._open()
        if self._file is None:
            return otherwise
        try:
            return work(self._file)
        except sqlite3.Error as error:
            if _is_damage(error):
                self._replace(str(error))
            else:
                self._tell(str(error))
            return otherwise

    def _open(self) -> None:
        for _ in range(2):
            try:
                self._file = self._opened()
            except (sqlite3.Error, OSError) as error:
                if _is_damage(error):
                    self._replace(str(error))
                    continue
                self._tell(str(error))
            return

    def _opened(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Before SQLite makes it readable by others; its log inherits the mode.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._path.chmod(0o600)
        file = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None)
        try:
            for pragma in ("journal_mode = WAL", "synchronous = NORMAL", f"wal_autocheckpoint = {_LOG_PAGES}",
                           f"journal_size_limit = {_LOG_PAGES * _PAGE_BYTES}", "secure_delete = ON"):  # fmt: skip
                file.execute(f"PRAGMA {pragma}")
            _make_tables(file)
            if self._given_secret is None:
                (self._secret,) = file.execute("SELECT secret FROM own").fetchone()
            if _number(file, "PRAGMA page_count") > self._max_pages:  # the bound was higher before
                self._evict(file, 0)
                file.execute("VACUUM")
            file.execute(f"PRAGMA max_page_count = {self._max_pages}")
        except BaseException:
            file.close()
            raise
        return file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _replace(self, reason: str) -> None:
        """Move a damaged file aside; the next use makes a new one."""
        self._close()
        aside = self._path.with_name(self._path.name + ".damaged")
        log.warning("kept answers: %s is damaged (%s); it is %s now, and a new one is made", self._path, reason, aside)
        with contextlib.suppress(OSError):
            self._path.replace(aside)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(OSError):
                self._path.with_name(self._path.name + suffix).unlink()

    def _tell(self, trouble: str) -> None:
        """Log when the file starts to make trouble, and when it ends."""
        if bool(trouble) != bool(self._trouble):
            if trouble:
                log.warning("kept answers: %s cannot be used just now: %s", self._path, trouble)
            else:
                log.info("kept answers: %s can be used again", self._path)
        self._trouble = trouble

    def _read(self, file: sqlite3.Connection, key: bytes) -> Entry | None:
        row = file.execute("SELECT sealed FROM answers WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        entry = unseal(self._secret, key, row[0])
        try:
            if entry is None:
                _delete(file, key)
            else:
                file.execute("UPDATE answers SET used_s = ? WHERE key = ?", (time.time(), key))
        except sqlite3.OperationalError as error:  # a full disk can be read
            self._tell(str(error))
        return entry

    def _write(self, file: sqlite3.Connection, key: bytes, sealed: bytes) -> None:
        pages = len(sealed) // _PAGE_BYTES + 1 + _MORE_PAGES
        if pages > self._max_pages // 2:
            return
        with file:
            file.execute("BEGIN IMMEDIATE")
            _delete(file, key)
            self._evict(file, pages)
            file.execute("INSERT INTO answers VALUES (?, ?, ?)", (key, time.time(), sealed))
        self._tell("")

    def _evict(self, file: sqlite3.Connection, pages: int) -> None:
        """Make room for this many pages."""
        while _number(file, "PRAGMA page_count") - _number(file, "PRAGMA freelist_count") + pages > self._max_pages:
            oldest = file.execute("SELECT key FROM answers ORDER BY used_s LIMIT ?", (_EVICTED_AT_ONCE,)).fetchall()
            if not oldest:
                return
            file.executemany("DELETE FROM answers WHERE key = ?", oldest)


def _is_damage(error: Exception) -> bool:
    """Return whether an error is about the file's content: only then it has no more special type."""
    return type(error) is sqlite3.DatabaseError


def _make_tables(file: sqlite3.Connection) -> None:
    """Make the tables of a new file.

    Raises:
        sqlite3.OperationalError: It is another program's, and is left alone.
        sqlite3.DatabaseError: It is of another version.
    """
    with file:
        file.execute("BEGIN IMMEDIATE")
        if _number(file, "SELECT count(*) FROM sqlite_schema") == 0:
            for statement in _TABLES.split(";"):
                file.execute(statement)
            file.execute("INSERT INTO own VALUES (?)", (secrets.token_bytes(32),))
        elif _number(file, "PRAGMA application_id") != _OURS:
            raise sqlite3.OperationalError("it is another program's database")
        elif _number(file, "PRAGMA user_version") != _FORMAT:
            raise sqlite3.DatabaseError("it has another format")


def _number(file: sqlite3.Connection, question: str) -> int:
    return int(file.execute(question).fetchone()[0])


def _delete(file: sqlite3.Connection, key: bytes) -> None:
    file.execute("DELETE FROM answers WHERE key = ?", (key,))


def _clear(file: sqlite3.Connection) -> tuple[int, int]:
    with file:
        file.execute("BEGIN IMMEDIATE")
        entries, num_bytes = file.execute("SELECT count(*), coalesce(sum(length(sealed)), 0) FROM answers").fetchone()
        file.execute("DELETE FROM answers")
    with contextlib.suppress(sqlite3.OperationalError):  # another server may be reading
        file.execute("VACUUM")
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return entries, num_bytes
