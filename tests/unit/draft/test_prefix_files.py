"""The folder of prefixes: whatever ends an engine at whatever moment, only whole blocks are read, within the bound."""

from __future__ import annotations

import resource
import stat
from pathlib import Path

import numpy as np
import pytest

from skills.skill_draft.engine.prefix_files import PrefixFiles
from skills.skill_draft.engine.prefix_keys import BLOCK_TOKENS, blocks_of, first_key
from skills.skill_draft.engine.private_folder import FolderError
from skills.skill_draft.engine.tokens import Bytes

LIMIT, HEADER = 4000, 52


def key(i: int) -> bytes:
    return i.to_bytes(32)


def data(i: int, size: int) -> Bytes:
    return np.random.default_rng(i).integers(0, 256, size, np.uint8)


def test_what_was_used_least_recently_goes_first_and_the_end_of_a_chain_before_its_beginning(tmp_path: Path) -> None:
    files = PrefixFiles(tmp_path / "prefixes", 3 * (100 + HEADER))
    for i in range(3):
        assert files.write(key(i), data(i, 100), index=i, used_ns=10**9)
    files.touch([key(2)], 2 * 10**9)
    assert files.write(key(3), data(3, 100), index=0, used_ns=3 * 10**9)
    assert [files.has(key(i)) for i in range(4)] == [True, False, True, True]
    assert not files.write(key(4), data(4, 100), index=0, used_ns=10**9), "what was used later stays"
    assert [files.has(key(i)) for i in range(4)] == [True, False, True, True]


def test_files_are_for_this_user_alone_and_a_folder_that_is_not_is_refused(tmp_path: Path) -> None:
    files = PrefixFiles(tmp_path / "new" / "prefixes", LIMIT)
    files.write(key(1), data(1, 9), index=0, used_ns=1)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new" / "prefixes").iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE((tmp_path / "new" / "prefixes").stat().st_mode) == 0o700
    (tmp_path / "new" / "prefixes").chmod(0o750)
    with pytest.raises(FolderError, match="chmod 700"):
        PrefixFiles(tmp_path / "new" / "prefixes", LIMIT)


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    files = PrefixFiles(tmp_path / "prefixes", LIMIT)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            files.write(key(1), data(1, 900), index=0, used_ns=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "prefixes").iterdir()] == ["lock"]


def test_tenants_and_identities_share_no_block() -> None:
    tokens = np.arange(BLOCK_TOKENS, dtype=np.int32)
    keys = [
        blocks_of(tokens, None, first_key(*whose))[0].key
        for whose in ((b"a", ""), (b"b", ""), (b"a", "b"), (b"", "ab"))
    ]
    assert len(set(keys)) == 4
