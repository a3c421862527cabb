"""Requests of the tests with containers, and the tiny model's answers."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import grpc
import pytest

from core.pool.client import SkillClient
from core.testing import SkillContainer
from skills import skills_pb2
from skills.skill_draft import IMAGE
from tests.servers import ROOT

COUNTED = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
# Enough for a container's start on a busy machine.
CALL_S = 120.0
SCALER = f"sarai-scaler:{IMAGE.rpartition(':')[2]}"


class OwnTiny(Protocol):
    """The type of the fixture `own_tiny`."""

    def __call__(
        self, *, environment: dict[str, str] | None = None, service: dict[str, object] | None = None
    ) -> contextlib.AbstractContextManager[tuple[SkillClient, SkillContainer]]:
        """Start a container; yield a client and the container."""


def build_scaler() -> str:
    """Build the scaler's image from the tree as it is, and return its name."""
    subprocess.run(["docker", "build", "-t", SCALER, "-f", "deploy/scaler/Dockerfile", "."], cwd=ROOT, check=True)
    return SCALER


def tiny_service() -> dict[str, object]:
    """Return the folder of the tiny model, in place of ./models, and a health check for which tests need not wait."""
    # The container engine replaces a start period of 0 s by the image's.
    check = ["CMD", "/opt/sarai/health_probe", "127.0.0.1", "50051"]
    return {
        "volumes": [f"{ROOT}/tests/models:/models:ro"],
        "healthcheck": {"test": check, "interval": "1s", "timeout": "10s", "start_period": "1s", "retries": 2},
    }


def greedy(prompt: str = "Count to twenty.", **fields: Any) -> skills_pb2.GenReq:
    """Return a request with one right answer."""
    return skills_pb2.GenReq(**{"prompt": prompt, "temperature": 0, "max_tokens": 64, **fields})


def endless(max_tokens: int = 900) -> skills_pb2.GenReq:
    """Return a request whose grammar never lets the answer end before `max_tokens`.

    Letters are drawn at random, so that each token costs a step. Accepted speculative tokens cost none, and an answer
    of such tokens would be complete before a test can disturb it.
    """
    drawn = {"temperature": 5, "top_k": 0, "top_p": 1, "min_p": 0, "seed": 3}
    return greedy("Say hello.", grammar="root ::= [a-z] root", max_tokens=max_tokens, **drawn)


def code_of(error: BaseException) -> grpc.StatusCode:
    """Return the status with which a call ended."""
    assert isinstance(error, grpc.RpcError), error
    code: grpc.StatusCode = error.code()
    return code


@contextlib.contextmanager
def in_background(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command concurrently with the test, and kill it at the end."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """Make `number` threads; those that are still busy when a test fails do not keep it from ending."""
    pool = ThreadPoolExecutor(number)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


MARKS = [pytest.mark.timeout(300, func_only=True)]


# Each takes little, and goes rather than the server: so the kernel takes the engine first, which has most.
_EATERS = """
import os, time
for _ in range(64):
    if os.fork() == 0:
        open("/proc/self/oom_score_adj", "w").write("150")
        eaten = bytearray(16 << 20)
        time.sleep(0.3)
        os._exit(0)
time.sleep(0.3)
"""


def exhaust_memory(container: SkillContainer) -> None:
    """Take 1 GiB inside a container with less, by many small processes that end soon or are killed."""
    with contextlib.suppress(AssertionError):  # it may be killed too
        container.exec("python3", "-c", _EATERS)
