"""Two hundred drawn images, named by the tiny model over gRPC: alone, and eight at once among text."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skills import skills_pb2
from tests.drawings import Drawing, draw
from tests.servers import TINY, DraftServer, draft_server

MMPROJ = TINY.with_name("tiny-qwen3vl-mmproj.gguf")
NUMBER, LEAST_RIGHT = 200, 190
COUNT = skills_pb2.GenReq(prompt="Count to twenty.", temperature=0, max_tokens=64)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DraftServer]:
    options = ("--n-ctx", "1024", "--threads", "1", "--mmproj", str(MMPROJ))
    with draft_server(tmp_path_factory.mktemp("server"), *options) as running:
        yield running


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    random_ = random.Random(200)
    return [draw(random_) for _ in range(NUMBER)]


def about(*pngs: bytes, question: str = "What is in the image?") -> skills_pb2.GenReq:
    images = [skills_pb2.Part(image=skills_pb2.Image(data=png)) for png in pngs]
    message = skills_pb2.Message(role="user", parts=[*images, skills_pb2.Part(text=question)])
    return skills_pb2.GenReq(messages=[message], temperature=0, max_tokens=16)


def names(server: DraftServer, drawings: list[Drawing], *, at_once: int) -> list[skills_pb2.GenResp]:
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda drawing: server.stub.Generate(about(drawing.png), timeout=60), drawings))


def num_right(answers: list[skills_pb2.GenResp], drawings: list[Drawing]) -> int:
    return sum(answer.text == drawing.name for answer, drawing in zip(answers, drawings, strict=True))


def test_drawn_images_are_named_right_alone_and_with_the_same_bits_in_company(
    server: DraftServer, drawings: list[Drawing]
) -> None:
    alone = names(server, drawings, at_once=1)
    assert num_right(alone, drawings) >= LEAST_RIGHT
    with ThreadPoolExecutor(4) as others:
        counts = [others.submit(server.stub.Generate, COUNT, timeout=60) for _ in range(40)]
        together = names(server, drawings, at_once=8)
        texts = {future.result().text for future in counts}
    assert len(texts) == 1
    for one, other in zip(alone, together, strict=True):
        assert (one.token_ids, one.token_logprobs) == (other.token_ids, other.token_logprobs)


def test_two_images_of_one_size_in_a_row_are_two_images(server: DraftServer, drawings: list[Drawing]) -> None:
    pairs = [(one, other) for one, other in zip(drawings[::2], drawings[1::2], strict=True) if one.name != other.name]
    right = 0
    for one, other in pairs[:20]:
        question = "What is in the images?"
        answer = server.stub.Generate(about(one.png, other.png, question=question), timeout=60)
        right += answer.text == f"{one.name} and {other.name}"
    assert right >= 18


@pytest.fixture(scope="module")
def questions(server: DraftServer) -> list[tuple[skills_pb2.GenReq, str]]:
    """Return questions about one or two images of one size that no two share a name, and their right answers."""
    random_ = random.Random(18)
    by_name = {drawing.name: drawing for drawing in (draw(random_, side=96) for _ in range(200))}
    singles = list(by_name.values())
    pairs = [random_.sample(singles, 2) for _ in range(60)]
    asked = [(about(one.png), one.name) for one in singles] + [
        (about(one.png, other.png, question="What is in the images?"), f"{one.name} and {other.name}")
        for one, other in pairs
    ]
    right = [(request, name) for request, name in asked if server.stub.Generate(request, timeout=60).text == name]
    assert len(right) > 50
    return right


def test_no_answer_shows_an_image_of_another_request_whatever_is_preempted_parked_cancelled_or_dies(
    questions: list[tuple[skills_pb2.GenReq, str]], tmp_path: Path
) -> None:
    # Eight requests of about fifty cells each: some are preempted.
    options = ("--n-ctx", "128", "--kv-cells", "128", "--prefixes", "2", "--mmproj", str(MMPROJ), "--threads", "1")
    random_ = random.Random(19)
    wrong, done = [], 0
    with draft_server(tmp_path, *options) as small, ThreadPoolExecutor(8) as callers:

        def ask(number: int) -> tuple[str, str] | None:
            request, name = questions[number]
            if number % 5:
                return small.stub.Generate(request, timeout=60).text, name
            stream = small.stub.GenerateStream(request, timeout=60)
            next(stream)
            stream.cancel()
            return None

        for module in ("engine", "vision", "engine", "vision"):
            answers = [callers.submit(ask, random_.randrange(len(questions))) for _ in range(60)]
            answers[20].result()
            os.kill(children(small)[module], signal.SIGKILL)
            found = [answer for call in answers if (answer := call.result())]
            wrong += [(text, name) for text, name in found if text != name]
            done += len(found)
        engine = small.health().engine
    assert (wrong, engine.restarts) == ([], 2)
    assert done > 150
    assert engine.cached_tokens > 500, "few images came from the cache: the test shows nothing"


def children(server: DraftServer) -> dict[str, int]:
    """Return the process ids of the engine and the vision process."""
    pids = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return {
        name: int(pid)
        for pid in pids
        for name in ("engine", "vision")
        if f"skill_draft.{name}" in Path(f"/proc/{pid}/cmdline").read_text()
    }


def test_the_second_question_about_an_image_encodes_nothing(server: DraftServer) -> None:
    drawing = draw(random.Random(7))
    first = server.stub.Generate(about(drawing.png), timeout=60)
    encoded = server.health().engine.images_encoded
    second = server.stub.Generate(about(drawing.png, question="Where is it?"), timeout=60)
    assert (first.text, second.text) == (drawing.name, drawing.place)
    assert second.image_tokens == first.image_tokens == 9
    assert second.cached_tokens >= second.image_tokens
    assert server.health().engine.images_encoded == encoded
