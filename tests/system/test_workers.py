"""The server's side of worker processes: how long it waits for them."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from skills.skill_image.image_pb2 import NormalizeRequest
from skills.skill_image.requests import to_job
from skills.skill_image.workers import Workers
from tests.pictures import encoded, quarters

TIMEOUT_S = 2.0


async def decode_while_stopped(*, server_too: bool) -> int:
    """Return the width of a picture whose worker was stopped for longer than a picture may take."""
    job = to_job(NormalizeRequest(), decode_pixels=1_000_000)
    workers = Workers(timeout_s=TIMEOUT_S)
    try:
        await workers.warm_up()
        (pid,) = workers.pids
        os.kill(pid, signal.SIGSTOP)
        call = asyncio.create_task(workers.normalize(encoded(quarters()), job))
        await asyncio.sleep(0.1)
        if server_too:
            time.sleep(1.1 * TIMEOUT_S)  # noqa: ASYNC251 - the whole process has to stand still
            await asyncio.sleep(0)
            os.kill(pid, signal.SIGCONT)
        return (await call)[0].width
    finally:
        await workers.close()


def test_a_worker_that_was_stopped_together_with_the_server_is_waited_for() -> None:
    assert asyncio.run(decode_while_stopped(server_too=True)) > 0


def test_a_worker_that_was_stopped_alone_is_not_waited_for() -> None:
    with pytest.raises(TimeoutError):
        asyncio.run(decode_while_stopped(server_too=False))
