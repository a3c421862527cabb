"""Kept answers in memory: bounded, by frequency, and honest about their age."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import sys
import time

import pytest

from skills.runtime import answer_cache
from skills.runtime.answer_cache import AnswerCache, Tier
from skills.runtime.answer_cache.kept import Entry
from skills.runtime.answer_cache.memory import LeastRecentlyUsed, Memory, TinyLfu, weight
from skills.runtime.settings import CachingSettings, SettingsError

POLICIES = pytest.mark.parametrize("policy", [TinyLfu, LeastRecentlyUsed])


def key(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()


def make_cache(**settings: float | str) -> AnswerCache:
    return AnswerCache(CachingSettings(**settings))  # type: ignore[arg-type]  # each has its own type


def test_an_answer_is_found_until_it_is_removed() -> None:
    cache = make_cache()
    assert cache.in_memory(key(1)) is None
    cache.put(key(1), b"answer")
    kept = cache.in_memory(key(1))
    assert kept is not None
    assert (kept.value, kept.tier) == (b"answer", Tier.MEMORY)
    assert 0 <= kept.age_s < 5
    cache.put(key(1), b"other")
    assert (found := asyncio.run(cache.get(key(1)))) is not None
    assert found.value == b"other"
    cache.remove(key(1))
    assert cache.in_memory(key(1)) is None


def test_an_answer_that_is_too_old_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make_cache()
    cache.put(key(1), b"answer")
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 60)
    assert cache.in_memory(key(1), max_age_s=59) is None
    assert (kept := cache.in_memory(key(1), max_age_s=61)) is not None
    assert kept.age_s == pytest.approx(60, abs=1)


def test_clear_forgets_all_and_says_how_much() -> None:
    cache = make_cache()
    for number in range(10):
        cache.put(key(number), bytes(1000))
    assert (cache.stats.entries, cache.stats.bytes) == (10, 10 * weight(bytes(1000)))
    assert asyncio.run(cache.clear()) == (10, 10 * weight(bytes(1000)))
    assert (cache.stats.entries, cache.stats.bytes) == (0, 0)


def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    cache = make_cache(cache_mb=0)
    cache.put(key(1), b"answer")
    assert not cache.enabled
    assert asyncio.run(cache.get(key(1))) is None


def test_the_bound_is_at_most_a_twentieth_of_the_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_cache.cache, "memory_limit", lambda: 400 << 20)
    assert make_cache(cache_mb=64).stats.max_bytes == 20 << 20
    assert make_cache(cache_mb=16).stats.max_bytes == 16 << 20


@POLICIES
def test_a_policy_stays_within_its_bound_at_every_moment(policy: type[Memory]) -> None:
    memory = policy(1 << 20)  # type: ignore[call-arg]  # a protocol has no constructor
    sizes = random.Random(1)
    for number in range(3000):
        memory.put(key(number), Entry(bytes(int(sizes.lognormvariate(7, 1))), 0.0))
        assert memory.size()[1] <= 1 << 20
    memory.put(key(0), Entry(bytes(2 << 20), 0.0))
    assert memory.get(key(0)) is None


def test_requests_that_come_once_do_not_push_out_those_that_come_often() -> None:
    hits = {}
    for policy in (TinyLfu, LeastRecentlyUsed):
        memory: Memory = policy(100 * weight(bytes(1000)))
        drawn, hits[policy] = random.Random(1), 0
        for once in range(1000, 6000):
            for each in (key(drawn.randrange(80)), key(once), key(once + 10_000)):
                if memory.get(each) is not None:
                    hits[policy] += 1
                else:
                    memory.put(each, Entry(bytes(1000), 0.0))
    assert hits[TinyLfu] > 4000
    assert hits[LeastRecentlyUsed] < 2500  # so the bound above says something


def test_without_moka_the_way_back_keeps_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moka_py", None)
    cache = make_cache()
    cache.put(key(1), b"answer")
    assert cache.in_memory(key(1)) is not None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cache_shared": "http://store"}, "--cache-shared must begin with valkey://, redis://, rediss://, unix://"),
        ({"cache_shared": "valkey://store:6379"}, "--cache-shared needs --cache-secret-file"),
        ({"cache_mb": -1}, "--cache-mb is -1; it must be from 0"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(says)):
        make_cache(**settings)
