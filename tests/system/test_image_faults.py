"""A server whose vision process dies, hangs and is slow: only the requests with such images notice, and learn why."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from skills import skills_pb2
from tests import vision_with_faults
from tests.servers import DraftServer, alive, draft_server
from tests.system.test_images import INVALID, WHAT, ask, child, fails, violated
from tests.vision import sample

FAULTY = ("-m", vision_with_faults.MODULE, "serve")
CIRCLE, SQUARE, TRIANGLE = sample("red-circle-left"), sample("green-square-right"), sample("blue-triangle-top")
HELLO = ask("Say hello.")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DraftServer]:
    options = ("--read-timeout-s", "2", "--encode-timeout-s", "4", "--threads", "1")
    with draft_server(tmp_path, *options, module=FAULTY, environment={"TMPDIR": str(tmp_path)}) as running:
        yield running


def until(condition: Callable[[], Any], timeout_s: float = 15) -> Any:
    end_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end_s
        time.sleep(0.01)
    return found


def _images_to_encode(call: Any) -> int:
    return int(next(call).progress.images_to_encode)


def vision(server: DraftServer) -> int | None:
    return child(server, vision_with_faults.MODULE)


@pytest.mark.parametrize("fault", ["R", "E"])
def test_an_image_that_ends_two_processes_is_the_requests_fault_alone(server: DraftServer, fault: str) -> None:
    with ThreadPoolExecutor(4) as callers:
        others = [callers.submit(server.stub.Generate, ask(data, WHAT), timeout=60) for data in (SQUARE, TRIANGLE)]
        code, message, status = fails(server, ask("Look: ", fault.encode() + CIRCLE))
        assert (code, violated(status)) == (INVALID, "messages[0].parts[1].image")
        assert "ended 2 processes that were" in message
        assert [call.result().text for call in others] == ["a green square", "a blue triangle"]
    assert server.stub.Generate(HELLO, timeout=20).text == "hello"
    assert not server.health().engine.restarts


@pytest.mark.parametrize("fault", ["r", "e"])
def test_an_image_during_which_one_process_died_is_named_all_the_same(server: DraftServer, fault: str) -> None:
    assert server.stub.Generate(ask(fault.encode() + CIRCLE, WHAT), timeout=60).text == "a red circle"


def test_time_limits_of_reading_and_encoding_end_the_request_with_its_field(server: DraftServer) -> None:
    for fault, says in ((b"S", "after 2 s of reading"), (b"L", "after 4 s of encoding")):
        code, message, status = fails(server, ask(fault + CIRCLE, WHAT))
        assert (code, violated(status), says in message) == (INVALID, "messages[0].parts[0].image", True), message
    assert server.stub.Generate(ask(SQUARE, WHAT), timeout=60).text == "a green square"


def test_others_are_answered_while_an_image_is_encoded_and_a_deadline_says_what_was_missing(
    server: DraftServer,
) -> None:
    with ThreadPoolExecutor(1) as caller:
        slow = caller.submit(server.stub.Generate, ask(b"L" + CIRCLE, WHAT), timeout=2)
        pid = until(lambda: vision(server))
        assert server.stub.Generate(HELLO, timeout=20).text == "hello"
        error = slow.exception()
    assert isinstance(error, grpc.RpcError)
    assert (error.code(), "1 of its images were still to be encoded" in (error.details() or "")) == (
        grpc.StatusCode.DEADLINE_EXCEEDED, True,
    )  # fmt: skip
    until(lambda: not alive(pid), timeout_s=2)
    assert server.stub.Generate(ask(SQUARE, WHAT), timeout=60).text == "a green square"


def test_a_caller_that_leaves_ends_the_encoding_that_no_other_waits_for(server: DraftServer) -> None:
    requests = [ask(text, b"L" + CIRCLE, WHAT, progress=True) for text in ("Look: ", "Well, ")]
    first, second = (server.stub.GenerateStream(request, timeout=60) for request in requests)
    for call in (first, second):
        until(partial(_images_to_encode, call))
    pid = vision(server)
    assert pid
    first.cancel()
    time.sleep(0.5)
    assert alive(pid)
    second.cancel()
    until(lambda: not alive(pid), timeout_s=2)
    assert server.health().engine.images_encoded == 0
    assert server.wait_idle().status == "SERVING"


def test_an_engine_that_dies_while_an_image_is_encoded_is_replaced_and_the_image_named(server: DraftServer) -> None:
    slow = ask(b"L" + CIRCLE, WHAT, progress=True)
    blocked = server.stub.GenerateStream(slow, timeout=60)  # the next image waits for it
    until(lambda: next(blocked).progress.images_to_encode)
    with ThreadPoolExecutor(2) as callers:
        named = callers.submit(server.stub.Generate, ask(SQUARE, WHAT), timeout=60)
        text = callers.submit(server.stub.Generate, skills_pb2.GenReq(prompt="Say hello.", temperature=0), timeout=60)
        time.sleep(0.5)
        os.kill(server.engine_pid(), signal.SIGKILL)
        assert text.result().text == "hello"
        blocked.cancel()
        assert named.result().text == "a green square"
    assert server.health().engine.restarts == 1
