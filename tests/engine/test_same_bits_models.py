"""The promise on models that people use: the embedded one, and a 4B in shape where its file has been made.

`python -m bench.shape_model` writes that file; SARAI_SHAPE_MODEL names it.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from skills.skill_draft.catalog import EMBEDDED, find_model
from skills.skill_draft.engine.lookup import Lookup
from skills.skill_draft.engine.messages import Done, Ending, Request, Sampling, Tokens

from .harness import EngineUnderTest, ask

SHAPE = os.environ.get("SARAI_SHAPE_MODEL", "")
PATIENCE_S = 600.0
MODELS = [
    pytest.param(lambda: find_model(EMBEDDED, Path("/nowhere")), 24, id="embedded"),
    pytest.param(
        lambda: Path(SHAPE), 6, id="4b-shape",
        marks=pytest.mark.skipif(not SHAPE, reason="SARAI_SHAPE_MODEL names no model"),
    ),
]  # fmt: skip


def requests(max_tokens: int) -> list[Request]:
    fields: dict[str, Any] = {"max_tokens": max_tokens, "top_logprobs": 2}
    return [
        ask("Explain how a rainbow forms.", **fields),
        ask("List five animals that live in the sea. " * 30, **fields),
        ask("Why is the sky blue?", sampling=Sampling(temperature=0.9, seed=5), **fields),
        ask("Write a haiku about autumn.", sampling=Sampling(temperature=1.2, seed=6, repeat_penalty=1.2), **fields),
    ]


def again(request: Request, **changes: Any) -> Request:
    return dataclasses.replace(request, id=ask().id, **changes)


def outcome(done: Any) -> Ending:
    assert isinstance(done, Done), done
    return done.endings[0]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("path", "max_tokens"), MODELS)
def test_alone_batched_chunked_speculated_and_continued(
    path: Any, max_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = requests(max_tokens)
    with EngineUnderTest(path(), n_ctx=2048, kv_cells=4096, gap_ms=60000) as engine:
        assert engine.loaded.numerics == "exact"
        alone = []
        for request in asked:
            engine.engine._cells.forget_prefixes()
            alone.append(outcome(engine.wait_for(engine.submit(again(request, lookup=False)), timeout=PATIENCE_S)))
        ids = [engine.submit(again(request)) for request in asked]
        assert [outcome(engine.wait_for(id_, timeout=PATIENCE_S)) for id_ in ids] == alone, (
            "batched, from cached prefixes"
        )
        half = [
            Tokens(token_ids=e.tokens.token_ids[:n], logprobs=e.tokens.logprobs[:n], top=e.tokens.top[:n])
            for e in alone
            for n in [len(e.tokens.token_ids) // 2]
        ]
        engine.engine._cells.forget_prefixes()
        ids = [engine.submit(again(r, so_far=(had,))) for r, had in zip(asked, half, strict=True)]
        assert [outcome(engine.wait_for(id_, timeout=PATIENCE_S)) for id_ in ids] == alone, "continued without a cache"
        monkeypatch.setattr(Lookup, "propose", lambda _, n: [11 + i for i in range(n)])
        monkeypatch.setattr(Lookup, "expected", lambda _, n: 100.0 * n)
        ids = [engine.submit(again(request)) for request in asked]
        assert [outcome(engine.wait_for(id_, timeout=PATIENCE_S)) for id_ in ids] == alone, (
            "with wrong speculative tokens"
        )
        assert engine.engine.stats().lookup_tokens > 2 * max_tokens
    with EngineUnderTest(path(), n_ctx=2048, kv_cells=2048, n_batch=60, gap_ms=60000, threads=2) as engine:
        ids = [engine.submit(again(request)) for request in asked]
        assert [outcome(engine.wait_for(id_, timeout=PATIENCE_S)) for id_ in ids] == alone, (
            "in other chunks, two threads"
        )
