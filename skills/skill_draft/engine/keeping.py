"""Prefixes that outlive the engine.

A prefix that two requests share, before they go different ways, will be asked for again: most often it is a system
prompt. When the engine is idle or ends, the blocks of such prefixes are written to files (`prefix_files.py`). A request
whose first blocks are there waits until they are mapped and verified, which takes a hundredth of the time to prefill
them. Threads do all that has to do with files, so no step waits for a disk.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skills.runtime.resources import memory_available
from skills.runtime.worker import Worker

from .config import EngineConfig, Noted
from .images import PromptImages
from .prefix_files import MappedBlock, PrefixFiles
from .prefix_keys import Block, blocks_of, first_key
from .private_folder import FolderError
from .slots import Slot
from .tokens import Bytes, Ints

if TYPE_CHECKING:
    from .cells import CellLog
    from .sequence import Sequence

# A shorter prefix is prefilled in one step.
LEAST_TOKENS = 64
# A request does not wait longer for its blocks: the disk may hang.
_READ_S = 2.0
# What is not written by then when the engine ends is lost.
_FINISH_S = 2.0
_RETRY_S = 60.0  # after the disk has refused a file
_MOST_WANTED = 32
# The copy of a block that is being written may take this share of the free memory: an image is one block.
_COPY_SHARE = 1 / 4


class Woken:
    """A thread has finished something that the engine waits for."""


@dataclass(slots=True)
class Stored:
    """The first blocks of a prompt, as files have them."""

    blocks: list[Block]
    mapped: list[MappedBlock] = field(default_factory=list)
    """Those that have been verified so far."""
    wanted_at: float | None = None
    """When the engine asked for them."""
    read: bool = False

    @property
    def length(self) -> int:
        """How many tokens they have; before they are read, how many they may have."""
        n = len(self.mapped) if self.read else len(self.blocks)
        return self.blocks[n - 1].end if n else 0


@dataclass(slots=True)
class _Wanted:
    """A prefix to be written."""

    tokens: Ints
    images: PromptImages | None
    tenant: str
    blocks: list[Block] = field(default_factory=list)
    missing: list[int] | None = None
    """Indices of the blocks that have no file yet; None until that was looked up."""
    used_ns: int = 0
    """When that was."""


class Keeping:
    """Decides which prefixes are kept, and brings them back.

    `identify` and `stored` are for the intake thread, all others for the engine's.
    """

    def __init__(self, config: EngineConfig, *, tell: Callable[[Woken | Noted], None]) -> None:
        """Use the folder of a configuration.

        Args:
            config: What the engine is started with.
            tell: Called by any thread with what the engine is to know.
        """
        self._folder, self._limit = config.prefix_dir, config.prefix_bytes
        self._tell = tell
        self._files: PrefixFiles | None = None
        self._identity = b""
        self._reader: Worker | None = None
        self._writer: Worker | None = None
        self._mapped: weakref.WeakValueDictionary[bytes, MappedBlock] = weakref.WeakValueDictionary()
        self._wanted: OrderedDict[tuple[str, bytes], _Wanted] = OrderedDict()
        self._writing, self._retry_at, self._complained = False, 0.0, False
        self.identify(config.identity)

    def identify(self, identity: bytes) -> None:
        """Set what determines the cells besides tokens; empty: not known, so nothing is kept or read."""
        self._identity = identity if self._folder else b""
        if self._identity and self._files is None:
            try:
                files = PrefixFiles(Path(self._folder), self._limit)
                self._reader, self._writer = Worker("prefix-reader"), Worker("prefix-writer")
                self._files = files  # last: the engine's thread may look at once
            except FolderError as error:
                self._folder, self._identity = "", b""
                self._tell(Noted(text=f"no prefixes are kept: {error}"))

    # --- reading ---

    def stored(self, prompt: list[int], images: PromptImages | None, tenant: str) -> Stored | None:
        """Return the first blocks of a prompt for which there are files; None if they are too few to be of use."""
        files = self._files
        if files is None or not self._identity or len(prompt) <= LEAST_TOKENS:
            return None
        found: list[Block] = []
        # The last token is always left to compute.
        for block in blocks_of(np.asarray(prompt[:-1], np.int32), images, first_key(self._identity, tenant)):
            if not files.has(block.key):
                break
            found.append(block)
        return Stored(found) if found and found[-1].end >= LEAST_TOKENS else None

    def ready(self, stored: Stored) -> bool:
        """Return whether blocks have been read, or nobody should wait for them any more; have them read if not."""
        now = time.monotonic()
        if stored.wanted_at is None:
            stored.wanted_at = now
            assert self._reader is not None, "blocks were found in its folder"
            self._reader.submit(lambda: self._read(stored))
        elif not stored.read and now > stored.wanted_at + _READ_S:
            stored.read = True
        return stored.read

    def _read(self, stored: Stored) -> None:
        assert self._files is not None, "blocks were found in its folder"
        with contextlib.suppress(OSError):
            for block in stored.blocks:
                # Equal prompts that arrive together are verified once.
                mapped = self._mapped.get(block.key) or self._files.read(block.key)
                if mapped is None or stored.read:
                    break
                self._mapped[block.key] = mapped
                stored.mapped.append(mapped)
        stored.read = True
        self._tell(Woken())
        self._files.touch([block.key for block in stored.blocks[: len(stored.mapped)]], time.time_ns())

    def restore(self, cells: CellLog, slot: Slot, sequence: Sequence) -> None:
        """Fill the slot of a sequence that starts with what its blocks have beyond what the slot has already."""
        stored, sequence.stored = sequence.stored, None
        if stored is None or not stored.read:
            return
        for block, mapped in zip(stored.blocks, list(stored.mapped), strict=False):
            if block.end <= slot.length:
                continue
            tokens = np.asarray(sequence.tokens[block.start : block.end], np.int32)
            positions = np.asarray(sequence.positions(block.start, len(tokens)), np.int32)
            if not cells.restore(slot, tokens, positions, mapped.data, block.start):
                break

    # --- writing ---

    def noticed(self, sequence: Sequence, n: int) -> None:
        """Have the first `n` tokens of a sequence written when there is time: two requests share them."""
        if not self._folder or n < LEAST_TOKENS:
            return
        tenant, tokens = sequence.request.tenant, np.asarray(sequence.tokens[:n], np.int32)
        self._wanted.setdefault((tenant, tokens.tobytes()), _Wanted(tokens, sequence.images, tenant))
        if len(self._wanted) > _MOST_WANTED:
            self._wanted.popitem(last=False)

    def work(self, cells: CellLog) -> bool:
        """Copy one block for the writing thread; return False if there is nothing to do until it wakes the engine."""
        if self._writing or not self._wanted or not self._identity or time.monotonic() < self._retry_at:
            return False
        key, wanted = next(iter(self._wanted.items()))
        if wanted.missing is None:
            wanted.used_ns = time.time_ns()
            wanted.blocks = blocks_of(wanted.tokens, wanted.images, first_key(self._identity, wanted.tenant))
            self._write(lambda files: self._look(files, wanted))
        elif wanted.missing and (data := self._copy(cells, wanted, wanted.blocks[wanted.missing[0]])) is not None:
            self._write(lambda files: self._add(files, wanted, data))
        else:
            self._wanted.pop(key)
            return True
        return False

    def work_while(self, cells: CellLog, idle: Callable[[], bool], most_s: float) -> float:
        """Do that while the engine is idle; return how long it may then wait for something to do, in seconds."""
        end = time.monotonic() + most_s
        while idle() and time.monotonic() < end:
            if not self.work(cells):
                return most_s
        return 0.0

    def forget(self) -> None:
        """Write nothing of what was noticed so far."""
        self._wanted.clear()

    def finish(self, cells: CellLog) -> None:
        """Write what is still to be written before the engine ends."""
        end = time.monotonic() + _FINISH_S
        while time.monotonic() < end and (self.work(cells) or self._writing):
            time.sleep(0.001)

    def _copy(self, cells: CellLog, wanted: _Wanted, block: Block) -> Bytes | None:
        view = cells.saved_block(wanted.tokens[: block.end], block.start, wanted.tenant)
        if view is None or len(view) > _COPY_SHARE * memory_available():
            return None
        return view.copy()

    def _write(self, job: Callable[[PrefixFiles], None]) -> None:
        files, writer = self._files, self._writer
        assert files is not None, "only what was noticed is written, and that needs a folder"
        assert writer is not None
        self._writing = True
        writer.submit(lambda: self._run(job, files))

    def _run(self, job: Callable[[PrefixFiles], None], files: PrefixFiles) -> None:
        try:
            job(files)
        except OSError as error:
            self._retry_at = time.monotonic() + _RETRY_S
            if not self._complained:
                self._tell(Noted(text=f"prefixes are not kept at the moment: {self._folder}: {error.strerror}"))
            self._complained = True
        self._writing = False
        self._tell(Woken())

    def _look(self, files: PrefixFiles, wanted: _Wanted) -> None:
        files.touch([block.key for block in wanted.blocks], wanted.used_ns)
        wanted.missing = [i for i, block in enumerate(wanted.blocks) if not files.has(block.key)]

    def _add(self, files: PrefixFiles, wanted: _Wanted, data: Bytes) -> None:
        assert wanted.missing, "a block is written because it was missing"
        index = wanted.missing[0]
        if files.write(wanted.blocks[index].key, data, index=index, used_ns=wanted.used_ns):
            wanted.missing.pop(0)
        else:
            wanted.missing.clear()  # what follows it is of no use without it
        self._complained = False
