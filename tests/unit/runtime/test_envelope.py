"""What is read from a file or a store is believed only if a replica of ours wrote it under this key."""

from __future__ import annotations

import hashlib
import random

import pytest

from skills.runtime.answer_cache import envelope
from skills.runtime.answer_cache.envelope import seal, unseal
from skills.runtime.answer_cache.kept import Entry

SECRET = b"the deployment's secret"
KEY, OTHER = (hashlib.sha256(name).digest() for name in (b"one", b"other"))
ENTRY = Entry(b"an answer, " * 30, 1_700_000_000.125)
SEALED = seal(SECRET, KEY, ENTRY)


def test_an_entry_comes_back_as_it_was() -> None:
    assert unseal(SECRET, KEY, SEALED) == ENTRY
    assert unseal(SECRET, KEY, seal(SECRET, KEY, Entry(b"", 0.0))) == Entry(b"", 0.0)


def test_any_flipped_bit_is_a_miss() -> None:
    for bit in range(8 * len(SEALED)):
        flipped = bytearray(SEALED)
        flipped[bit // 8] ^= 1 << bit % 8
        assert unseal(SECRET, KEY, bytes(flipped)) is None


def test_a_part_of_an_entry_or_more_than_it_is_a_miss() -> None:
    assert all(unseal(SECRET, KEY, SEALED[:size]) is None for size in range(len(SEALED)))
    assert unseal(SECRET, KEY, SEALED + b"\0") is None
    assert unseal(SECRET, KEY, random.Random(1).randbytes(500)) is None


def test_the_entry_of_another_key_is_a_miss() -> None:
    assert unseal(SECRET, OTHER, SEALED) is None


def test_an_entry_of_another_deployment_is_a_miss() -> None:
    assert unseal(b"another secret", KEY, SEALED) is None


def test_an_entry_of_another_version_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "VERSION", envelope.VERSION + 1)
    newer = seal(SECRET, KEY, ENTRY)
    assert unseal(SECRET, KEY, SEALED) is None
    monkeypatch.undo()
    assert unseal(SECRET, KEY, newer) is None
