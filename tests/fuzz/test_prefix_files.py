"""The folder of prefixes and its keys: only whole blocks are read, and only equal prompts share them."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from skills.skill_draft.engine.images import PromptImages
from skills.skill_draft.engine.messages import Image
from skills.skill_draft.engine.prefix_files import PrefixFiles
from skills.skill_draft.engine.prefix_keys import BLOCK_TOKENS, blocks_of, first_key
from tests.unit.draft.test_prefix_files import HEADER, LIMIT, data, key

SIZES = st.sampled_from([1, 500, 1300, LIMIT - HEADER])
BLOCKS, ENGINES = st.integers(0, 7), st.integers(0, 1)


class FolderMachine(RuleBasedStateMachine):
    """Two engines write, read, are killed in mid-write and find files damaged."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp()) / "prefixes"
        self.engines = [PrefixFiles(self.folder, LIMIT) for _ in range(2)]
        self.clock = 0
        self.last: int | None = None

    def teardown(self) -> None:
        shutil.rmtree(self.folder.parent)

    def _write(self, engine: int, i: int, size: int) -> bool:
        self.clock += 1
        return self.engines[engine].write(key(i), data(i, size), index=0, used_ns=self.clock * 10**6)

    @rule(engine=ENGINES, i=BLOCKS, size=SIZES)
    def write(self, engine: int, i: int, size: int) -> None:
        assert self._write(engine, i, size)
        found = self.engines[1 - engine].read(key(i))
        assert found is not None, "what was written last is there"
        assert (found.data == data(i, size)).all()

    @rule(engine=ENGINES, i=BLOCKS)
    def write_too_much(self, engine: int, i: int) -> None:
        assert not self._write(engine, i, LIMIT - HEADER + 1)

    @rule(engine=ENGINES, i=BLOCKS, size=SIZES, at=st.integers(0, LIMIT))
    def killed_while_writing(self, engine: int, i: int, size: int, at: int) -> None:
        """The kernel kills the process once its file has `at` bytes."""
        if not (child := os.fork()):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (at, at))
            self._write(engine, i, size)
            os._exit(0)
        self.clock += 1
        _, how = os.waitpid(child, 0)
        assert os.WIFSIGNALED(how) == (at < size + HEADER)

    @rule(i=BLOCKS, at=st.integers(0, LIMIT - 1), bit=st.integers(0, 7), engine=ENGINES)
    def flip_a_bit(self, i: int, at: int, bit: int, engine: int) -> None:
        file = self.folder / f"{key(i).hex()}.kv"
        if file.exists() and at < file.stat().st_size:
            content = bytearray(file.read_bytes())
            content[at] ^= 1 << bit
            file.write_bytes(content)
            assert self.engines[engine].read(key(i)) is None
            assert not file.exists()

    @rule(i=BLOCKS, j=BLOCKS, engine=ENGINES)
    def swap(self, i: int, j: int, engine: int) -> None:
        one, other = (self.folder / f"{key(n).hex()}.kv" for n in (i, j))
        if i != j and one.exists():
            shutil.copy(one, other)
            assert self.engines[engine].read(key(j)) is None

    @invariant()
    def what_is_read_is_whole(self) -> None:
        for i in range(8):
            if found := self.engines[0].read(key(i)):
                assert (found.data == data(i, len(found.data))).all()

    @invariant()
    def the_folder_is_within_its_bound(self) -> None:
        assert sum(file.stat().st_size for file in self.folder.iterdir()) <= LIMIT


TestFolder = FolderMachine.TestCase


TestFolder.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)


def prompt(parts: list[int], first_id: int) -> tuple[np.ndarray, PromptImages]:
    """Return tokens and images: a part is a text token, or the number of columns of an image, negative."""
    tokens: list[int] = []
    images = []
    for part in parts:
        if part >= 0:
            tokens.append(part)
            continue
        images.append(Image(key=bytes([-part]), across=-part, down=9))
        tokens += range(first_id, first_id - images[-1].n_tokens, -1)
        first_id -= images[-1].n_tokens + 1
    return np.asarray(tokens, np.int32), PromptImages(tokens, images)


PARTS = st.lists(st.one_of(st.integers(0, 1), st.integers(-5, -1)), min_size=1, max_size=90)


@settings(max_examples=100, deadline=None)
@given(before=PARTS, after=PARTS, others=PARTS)
def test_prompts_share_the_blocks_before_they_differ_whatever_ids_their_images_have(
    before: list[int], after: list[int], others: list[int]
) -> None:
    if after[0] == others[0]:
        others[0] = after[0] + 1 if after[0] else -1
    root = first_key(b"identity", "")
    equal = len(prompt(before, -2)[0])
    blocks = blocks_of(*prompt(before + after, -2), root)
    keys = {block.key for block in blocks_of(*prompt(before + others, -1000), root)}
    assert [block.start for block in blocks] == [0, *(block.end for block in blocks)][: len(blocks)]
    tokens, _ = prompt(before + after, -2)
    for block, following in zip(blocks, [*blocks[1:], None], strict=False):
        inside = tokens[block.start : block.end]
        assert (inside < 0).all() or ((inside >= 0).all() and len(inside) <= BLOCK_TOKENS)
        if block.end > equal:
            assert block.key not in keys
        elif len(inside) >= BLOCK_TOKENS or inside[0] < 0 or (following and following.end <= equal):
            assert block.key in keys, "only a short block, before an image that differs, is not shared"
