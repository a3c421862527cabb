"""Images from a file to an answer: the command line, the pool, a real server, its vision process and its engine.

The model is tiny and trained: it names the images in `tests/models/tiny-qwen3vl-samples`, whose names are the answers.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image

from core.config import PoolConfig
from core.errors import InvalidRequestError, UnknownImageError
from core.model_pool import ModelPool
from core.omni_loop import LoopConfig, OmniLoop
from sarai import GenReq, Message, user_turn
from skills import skills_pb2
from tests.both_clients import BOTH, User, sync_user
from tests.servers import ROOT, DraftServer, draft_server
from tests.slow_engine import SLOW
from tests.system.test_cli import environ, sarai
from tests.system.test_replicas import replicas

__all__ = ["environ"]

SAMPLES = ROOT / "tests" / "models" / "tiny-qwen3vl-samples"
CIRCLE, SQUARE, TRIANGLE = (
    SAMPLES / f"{name}.png" for name in ("red-circle-left", "green-square-right", "blue-triangle-top")
)
WHAT = "What is in the image?"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DraftServer]:
    with draft_server(tmp_path_factory.mktemp("server")) as running:
        assert "images" in running.health().features
        yield running


def figures(server: DraftServer) -> tuple[int, int]:
    """Return how many images its requests had, and how many of them were encoded."""
    engine = server.health().engine
    return engine.images, engine.images_encoded


def test_draft_names_what_is_in_an_image(environ: dict[str, str], server: DraftServer) -> None:
    run = sarai(environ, "draft", "--temperature", "0", "--image", str(CIRCLE), WHAT, target=server.target)
    assert (run.returncode, run.stdout, run.stderr) == (0, "a red circle\n", "")
    both = sarai(
        environ, "draft", "--temperature", "0", "--image", str(CIRCLE), "--image", str(SQUARE),
        "What is in the images?", target=server.target,
    )  # fmt: skip
    assert both.stdout == "a red circle and a green square\n"


def test_chat_asks_again_about_an_image_that_is_sent_and_encoded_once(
    environ: dict[str, str], server: DraftServer
) -> None:
    before = figures(server)
    typed = f"/image {TRIANGLE}\n{WHAT}\nWhere is it?\n"
    run = sarai(environ, "chat", "--temperature", "0", "--stats", piped=typed, target=server.target)
    assert run.stdout == "a blue triangle\ntop\n"
    first, second = run.stderr.splitlines()
    assert "are images" in first
    assert "are images" in second
    after = figures(server)
    assert (after[0] - before[0], after[1] - before[1]) == (2, 1)


@pytest.mark.parametrize("user", BOTH)
def test_clients_send_an_image_once_and_the_answer_is_the_same(user: User, server: DraftServer) -> None:
    request = GenReq(messages=[user_turn(WHAT, images=[SQUARE])], temperature=0)
    with replicas(server.target) as made, user(made) as client:
        answers = [client.ask(request) for _ in range(2)]
        answers.append(client.ask(GenReq(messages=request.messages, temperature=0)))
    assert {answer.text for answer in answers} == {"a green square"}
    assert answers[0].image_tokens > 0
    assert answers[1].cached_tokens > answers[1].image_tokens


def test_large_photo_is_scaled_down_before_it_travels_and_read_all_the_same(server: DraftServer) -> None:
    with Image.open(CIRCLE) as sample:
        large = sample.convert("RGB").resize((2400, 2400), Image.Resampling.NEAREST)
    file = io.BytesIO()
    large.save(file, "BMP")
    turn = user_turn(WHAT, images=[file.getvalue()], max_tokens=36)
    assert len(turn.parts[0].image.data) < 200_000 < len(file.getvalue())
    with replicas(server.target) as made, sync_user(made) as client:
        assert client.ask(GenReq(messages=[turn], temperature=0)).text == "a red circle"


def test_loop_sees_the_image_in_every_iteration_and_encodes_it_once(server: DraftServer) -> None:
    before = figures(server)
    config = PoolConfig(targets={"SARAI_DRAFT_TARGET": server.target})
    with ModelPool(config) as pool:
        loop = OmniLoop(LoopConfig(confidence_threshold=None, max_iterations=2, max_tokens=12), pool=pool)
        result = loop.run(WHAT, images=[SAMPLES / "yellow-triangle-left.png"])
    assert result.iterations[0].text == "a yellow triangle"
    calls = [iteration.figures for iteration in result.iterations]
    assert all(figure.image_tokens == calls[0].image_tokens > 0 for figure in calls)
    after = figures(server)
    assert after[1] - before[1] == 1
    assert after[0] - before[0] >= 2


def test_server_that_was_replaced_is_sent_the_image_again(tmp_path: Path) -> None:
    request = GenReq(messages=[user_turn(WHAT, images=[CIRCLE])], temperature=0)
    with (
        draft_server(tmp_path) as first, draft_server(tmp_path) as second,
        replicas(first.target, second.target) as made, sync_user(made) as client,
    ):  # fmt: skip
        assert client.ask(request).text == "a red circle"
        home, other = (first, second) if figures(first)[0] else (second, first)
        home.process.kill()
        home.process.wait(10)
        assert client.ask(request).text == "a red circle"
        assert figures(other)[0] == 1
        assert made.stats.calls == 2


def test_answer_about_an_image_goes_on_at_another_replica_with_the_same_bits(
    tmp_path: Path, server: DraftServer
) -> None:
    sampled: dict[str, Any] = {"temperature": 4, "top_k": 0, "top_p": 1, "min_p": 0, "seed": 7, "max_tokens": 300}
    request = GenReq(messages=[user_turn(WHAT, images=[CIRCLE])], top_logprobs=3, **sampled)
    known = GenReq(messages=request.messages)
    known.messages[0].parts[0].image.sha256 = hashlib.sha256(CIRCLE.read_bytes()).digest()
    slow: dict[str, Any] = {"module": SLOW, "environment": {"SLOW_ROW_MS": "5"}}
    undisturbed = server.stub.Generate(request, timeout=60)
    assert len(undisturbed.token_ids) > 100
    with (
        draft_server(tmp_path, **slow) as first, draft_server(tmp_path, **slow) as second,
        replicas(first.target, second.target) as made, sync_user(made) as client,
    ):  # fmt: skip
        for replica in (first, second):
            with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
                replica.stub.Generate(known, timeout=10)
        stream = client.begin(request)
        chunks = [next(stream) for _ in range(30)]
        home, other = (first, second) if first.health().active_requests else (second, first)
        home.process.kill()
        chunks += stream
        assert (made.stats.attempts, made.stats.failovers) == (2, 1)
        assert figures(other) == (1, 1)
        assert other.stub.Generate(known, timeout=10).text, "it was sent the bytes"
    assert [id_ for chunk in chunks for id_ in chunk.token_ids] == list(undisturbed.token_ids)
    assert [number for chunk in chunks for number in chunk.token_logprobs] == list(undisturbed.token_logprobs)
    assert "".join(chunk.text for chunk in chunks) == undisturbed.text


def test_errors_of_a_real_server_are_clear(server: DraftServer) -> None:
    unknown = GenReq(messages=[Message(role="user", parts=[
        skills_pb2.Part(image=skills_pb2.Image(sha256=bytes(32))), skills_pb2.Part(text=WHAT)])])  # fmt: skip
    broken = GenReq(messages=[user_turn(WHAT, images=[CIRCLE.read_bytes()[:200]])])
    with replicas(server.target) as made, sync_user(made) as client:
        with pytest.raises(UnknownImageError, match="send its bytes"):
            client.ask(unknown)
        with pytest.raises(InvalidRequestError, match="broken or cut off") as caught:
            client.ask(broken)
    assert caught.value.field_violations[0].field.startswith("messages[0].parts[0].image")
