"""`SKILL_DRAFT_CACHE_NEAR` with real servers: answers come the same, to the last bit, and who takes no part."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from skills import skills_pb2
from skills.skill_draft.near_answers import ENTRY_BYTES, MOST_ENTRIES
from skills.skills_pb2 import GenReq
from skills.types_pb2 import ClearCacheReq
from tests.servers import DraftServer, draft_server
from tests.slow_engine import SLOW
from tests.vision import SAMPLES

from .test_kept_answers import BYPASS, HIT, MISS, REFRESH, ask, but, computed, content, long, read, wait_until_it_keeps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NEAR = ("--cache-mb", "64", "--cache-near", "on")
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DraftServer]:
    with draft_server(tmp_path_factory.mktemp("server"), *NEAR) as running:
        wait_until_it_keeps(running)
        running.stub.Generate(long(max_tokens=30, cache=BYPASS))  # so that steps have costs, and lookup can pay
        yield running


@pytest.fixture
def forgetful(server: DraftServer) -> DraftServer:
    server.stub.ClearCache(ClearCacheReq())
    return server


def figures(server: DraftServer) -> tuple[int, int, int]:
    cache = server.health().cache
    return cache.near, cache.near_tokens, cache.near_accepted


def helped(server: DraftServer, request: GenReq) -> tuple[int, int, int]:
    """Ask for something that is not kept; return what near-equal prompts' answers contributed."""
    before = figures(server)
    assert ask(server, request).cache.outcome == MISS
    near, tried, accepted = (after - old for after, old in zip(figures(server), before, strict=True))
    assert tried >= accepted >= 0
    return near, tried, accepted


def images(text: str) -> dict[str, Any]:
    data = min(SAMPLES.glob("*.png")).read_bytes()
    parts = [skills_pb2.Part(image=skills_pb2.Image(data=data)), skills_pb2.Part(text=text)]
    return {"messages": [skills_pb2.Message(role="user", parts=parts)]}


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"temperature": 0}, {"temperature": 0}),
        ({}, {}),
        ({"seed": 1}, {"seed": 2}),
        ({}, {"top_logprobs": 3, "num_candidates": 3}),
        ({"temperature": 0, "regex": ""}, {"temperature": 0, "regex": "", "stop": ["seven"]}),
        ({"prompt": "", "regex": "", **images("What is in the image?")}, {"prompt": "", **images("What is in it?")}),
    ],
    ids=["greedy", "sampled", "another seed", "candidates", "no grammar", "images"],
)
def test_an_answer_is_the_same_with_a_near_one(
    forgetful: DraftServer, before: dict[str, Any], now: dict[str, Any]
) -> None:
    words = "Please count to twenty, slowly and in words, {}. Do not leave out any number."
    ask(forgetful, long(**{"prompt": words.format("dear Alice"), **before}))
    request = long(**{"prompt": words.format("dear Robert"), **now})
    assert helped(forgetful, request)[0] == 1
    assert content(ask(forgetful, request)) == computed(forgetful, request)


def test_the_same_asked_for_more_is_helped_by_what_is_kept(forgetful: DraftServer) -> None:
    request = long(max_tokens=120)
    ask(forgetful, request)
    near, tried, accepted = helped(forgetful, but(request, top_logprobs=2))
    assert near == 1
    assert tried >= accepted > 40
    near, _, accepted = helped(forgetful, but(request, top_logprobs=2, cache=REFRESH))
    assert near == 1
    assert accepted > 40


def test_a_stream_has_the_same_pieces(forgetful: DraftServer) -> None:
    request = long(max_tokens=90)
    ask(forgetful, request)
    other = but(request, top_logprobs=1)
    text, tokens, result = read(forgetful.stub.GenerateStream(other, timeout=TIMEOUT_S))
    assert result.cache.outcome == MISS
    assert result.lookup_accepted > 0
    whole = ask(forgetful, but(other, cache=BYPASS))
    assert (text, tokens) == (whole.text, list(whole.token_ids))


def test_who_takes_no_part(forgetful: DraftServer) -> None:
    request = long()
    ask(forgetful, but(request, cache=BYPASS))
    assert helped(forgetful, request) == (0, 0, 0), "what was asked with BYPASS helps nobody"
    before = figures(forgetful)
    ask(forgetful, but(request, cache=BYPASS, top_logprobs=1))
    unseeded = but(request)
    unseeded.ClearField("seed")
    ask(forgetful, unseeded)
    assert ask(forgetful, request).cache.outcome == HIT
    assert figures(forgetful) == before, "neither BYPASS, nor what is never kept, nor a hit is helped"
    assert helped(forgetful, but(request, top_logprobs=1, lookup=False)) == (0, 0, 0)
    forgetful.stub.ClearCache(ClearCacheReq())
    assert helped(forgetful, but(request, top_logprobs=2)) == (0, 0, 0), "what was forgotten helps nobody"


def test_an_answer_survives_the_engine_with_a_near_one(tmp_path: Path) -> None:
    with draft_server(tmp_path, *NEAR, module=SLOW, environment={"SLOW_ROW_MS": "5"}) as server:
        wait_until_it_keeps(server)
        request = long(max_tokens=120)
        ask(server, request)
        other = but(request, top_logprobs=2)
        stream = server.stub.GenerateStream(other, timeout=TIMEOUT_S)
        piece = next(stream)
        os.kill(server.engine_pid(), signal.SIGKILL)
        text, tokens, result = read(stream, piece)
        wait_until_it_keeps(server)
        assert server.health().engine.restarts == 1
        whole = ask(server, but(other, cache=BYPASS))
        assert (text, tokens) == (whole.text, list(whole.token_ids))
        assert result.tokens_generated == whole.tokens_generated == 120
        assert server.health().cache.near == 1


def test_off_unless_it_is_asked_for_and_its_memory_is_part_of_the_bound(server: DraftServer, tmp_path: Path) -> None:
    with draft_server(tmp_path, "--cache-mb", "64") as plain:
        wait_until_it_keeps(plain)
        request = long()
        ask(plain, request)
        assert helped(plain, but(request, top_logprobs=2)) == (0, 0, 0)
        assert plain.health().cache.max_bytes - server.health().cache.max_bytes == MOST_ENTRIES * ENTRY_BYTES


def test_with_fast_numerics_it_does_nothing_and_says_so(tmp_path: Path) -> None:
    with draft_server(tmp_path, *NEAR, "--numerics", "fast") as server:
        wait_until_it_keeps(server)
        request = long()
        ask(server, request)
        assert helped(server, but(request, top_logprobs=2)) == (0, 0, 0)
        assert "SKILL_DRAFT_CACHE_NEAR does nothing with fast numerics" in server.log.read_text()
