"""Calls at a server that is shutting down."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import grpc

from core.config import PoolConfig
from core.pool.client import SkillClient
from skills import skills_pb2
from skills.skill_draft.plugin import sarai_skills
from tests.servers import draft_server

REQUEST = skills_pb2.GenReq(prompt="Say hello.", temperature=0, max_tokens=8)


def test_a_call_at_the_last_moment_is_unavailable_never_cancelled(tmp_path: Path) -> None:
    with draft_server(tmp_path, "--n-ctx", "1024", "--threads", "1") as server:
        ends: list[grpc.StatusCode] = []

        def ask_until_it_fails() -> None:
            config = PoolConfig(recovery_s=0.0)
            with SkillClient.at(sarai_skills()[0], server.target, config) as client:
                try:
                    while True:
                        client.Generate(REQUEST, timeout=20)
                except grpc.RpcError as error:
                    ends.append(error.code())

        callers = [threading.Thread(target=ask_until_it_fails, daemon=True) for _ in range(8)]
        for caller in callers:
            caller.start()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        for caller in callers:
            caller.join(30)
        assert ends == [grpc.StatusCode.UNAVAILABLE] * 8, "also if gRPC loses the status of a call (core/rpc)"
