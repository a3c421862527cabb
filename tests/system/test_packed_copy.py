"""Servers that map one packed copy of a model, through the death of an engine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from skills import skills_pb2
from skills.runtime.resources import anonymous_bytes
from skills.skill_draft.embedded import make_embedded
from skills.skill_draft.engine.build import has_our_kernels
from skills.types_pb2 import CACHE_MODE_BYPASS, CacheControl
from tests.answers import whole
from tests.servers import DraftServer, draft_server

REQUEST = skills_pb2.GenReq(
    prompt="Write a short story about a lighthouse.", max_tokens=120, temperature=0.8, seed=11,
    cache=CacheControl(mode=CACHE_MODE_BYPASS),
)  # fmt: skip


def answer(server: DraftServer) -> str:
    return server.stub.Generate(REQUEST, timeout=60).text


def test_replicas_share_one_copy_and_an_engine_that_dies_costs_nothing(tmp_path: Path) -> None:
    model = str(make_embedded())
    flags = ("--packed-dir", str(tmp_path / "packed"), "--n-ctx", "512")
    with draft_server(tmp_path, "--n-ctx", "512", model=model) as plain:
        wanted = answer(plain)
    (tmp_path / "other").mkdir()
    with (
        draft_server(tmp_path, *flags, model=model) as one,
        draft_server(tmp_path / "other", *flags, model=model) as other,
    ):
        assert answer(one) == answer(other) == wanted
        if has_our_kernels():
            assert len(list((tmp_path / "packed").glob("*.packed"))) == 1
            assert anonymous_bytes([other.engine_pid()]) < make_embedded().stat().st_size
        pieces = other.stub.GenerateStream(REQUEST, timeout=60)
        begin = [next(pieces) for _ in range(3)]
        os.kill(other.engine_pid(), signal.SIGKILL)
        assert whole([*begin, *pieces]).text == wanted
        assert other.health().engine.restarts == 1
