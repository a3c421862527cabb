"""Images in requests over real sockets, with the tiny model: what is answered, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import struct
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from PIL import Image as Picture

from skills import skills_pb2
from skills.skills_pb2 import Image
from skills.wire import IMAGE_RESOURCE, Feature
from tests.drawings import draw
from tests.pictures import animated, encoded, gif_frame, gradient, png_header, quarters, turned
from tests.servers import TINY, DraftServer, draft_server
from tests.vision import MMPROJ, SAMPLES, sample

GenReq, Message, Part = skills_pb2.GenReq, skills_pb2.Message, skills_pb2.Part
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
NAMES = sorted(path.stem for path in SAMPLES.glob("*.png"))
WHAT = "What is in the image?"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DraftServer]:
    with draft_server(tmp_path_factory.mktemp("server"), "--n-ctx", "1024", "--threads", "1") as running:
        yield running


def turn(*parts: bytes | str | Image, role: str = "user") -> skills_pb2.Message:
    made = [
        Part(text=part) if isinstance(part, str) else Part(image=Image(data=part) if isinstance(part, bytes) else part)
        for part in parts
    ]
    return Message(role=role, parts=made)


def ask(*parts: bytes | str | Image, **fields: Any) -> skills_pb2.GenReq:
    return GenReq(**{"messages": [turn(*parts)], "temperature": 0, "max_tokens": 24, **fields})


def named(data: bytes, **fields: Any) -> Image:
    """An image by its hash."""
    return Image(sha256=hashlib.sha256(data).digest(), **fields)


def fails(server: DraftServer, request: skills_pb2.GenReq) -> tuple[grpc.StatusCode, str, status_pb2.Status]:
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.Generate(request, timeout=60)
    trailers: Any = caught.value.trailing_metadata() or ()
    details = dict(trailers).get("grpc-status-details-bin", b"")
    return caught.value.code(), caught.value.details() or "", status_pb2.Status.FromString(details)


def violated(status: status_pb2.Status) -> str:
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    return str(bad.field_violations[0].field)


def child(server: DraftServer, module: str) -> int | None:
    """The process id of the engine or the vision process."""
    for pid in Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split():
        if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return int(pid)
    return None


def serves_on(server: DraftServer) -> bool:
    return server.stub.Generate(ask("Say hello."), timeout=20).text == "hello"


# --- what is refused ---


def zip_file() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.png", sample(NAMES[0]))
    return out.getvalue()


def bmp_bomb() -> bytes:
    """A BMP of a few bytes, run-length encoded, that claims 20,000 x 20,000 pixels."""
    head = struct.pack("<IiiHHIIiiII", 40, 20_000, 20_000, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1100, 0, 0, 54 + 1024) + head + bytes(1024) + b"\0\1"


BAD = {
    "empty": (b"", "data", "is empty"),
    "text": (b"hello", "", "is none of"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "", "is none of"),
    "a zip": (zip_file(), "", "is none of"),
    "TIFF": (encoded(quarters(), "TIFF"), "", "is none of"),
    "cut off PNG": (sample(NAMES[0])[:-30], "", "cut off"),
    "cut off JPEG": (encoded(gradient(600, 400), "JPEG")[:2000], "", "cut off"),
    "a line": (encoded(Picture.new("1", (1, 100_000))), "", "at most 200 times the other"),
    "huge": (png_header(20_000, 20_000), "", "more than 40000000 pixels"),
    "BMP bomb": (bmp_bomb(), "", "more than 40000000 pixels"),
    "GIF with a huge frame": (gif_frame(30_000, 30_000), "", "40000000 pixels"),
    "PNG bomb": (encoded(Picture.new("1", (30_000, 30_000))), "", "more than 40000000 pixels"),
    "no pixels": (png_header(0, 0), "", "has a broken header"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_image_is_refused_with_its_field_and_the_server_serves_on(server: DraftServer, name: str) -> None:
    data, below, says = BAD[name]
    request = GenReq(messages=[turn("Say hello."), turn("Look: ", Image(data=data), role="user")])
    code, message, status = fails(server, request)
    assert (code, violated(status)) == (INVALID, "messages[1].parts[1].image" + (below and f".{below}"))
    assert says in message
    assert serves_on(server)


def test_bad_fields_are_refused_with_their_paths(server: DraftServer) -> None:
    good = sample(NAMES[0])
    for request, path, says in (
        (ask(Image()), "messages[0].parts[0].image.data", "empty"),
        (ask(Image(sha256=b"short")), "messages[0].parts[0].image.sha256", "has 5 bytes"),
        (ask(Image(data=good, max_tokens=7)), "messages[0].parts[0].image.max_tokens", "from 8 to 1024"),
        (ask(Image(data=good, max_tokens=1025)), "messages[0].parts[0].image.max_tokens", "from 8 to 1024"),
        (GenReq(messages=[turn(good, role="assistant")]), "messages[0].parts[0].image", "turn of the assistant"),
        (GenReq(messages=[Message(role="user", content="x", parts=turn(good).parts)]), "messages[0].content", "both"),
        (GenReq(messages=[Message(role="user", parts=[Part(), *turn(good).parts])]), "messages[0].parts[0]", "kind"),
        (ask(*[good] * 17, WHAT), "messages", "has 17 images; at most 16"),
        # No more is decoded than what is too much: the third one, which is none, is not looked at.
        (ask(*[Image(data=encoded(gradient(1024, 1024)), max_tokens=1024)] * 2, b"x"), "messages", "context has 1024"),
    ):
        code, message, status = fails(server, request)
        assert (code, violated(status)) == (INVALID, path), message
        assert says in message or says == "both"
    assert serves_on(server)


def test_unknown_hashes_are_told_each_once(server: DraftServer) -> None:
    known, one, other = sample(NAMES[0]), b"never sent", b"nor this"
    request = ask(named(one), known, named(other), named(one), WHAT)
    code, message, status = fails(server, request)
    assert (code, "2 of the images" in message) == (NOT_FOUND, True)
    found = []
    for detail in status.details:
        info = error_details_pb2.ResourceInfo()
        assert detail.Unpack(info)
        found.append((info.resource_type, info.resource_name))
    assert found == [(IMAGE_RESOURCE, hashlib.sha256(data).hexdigest()) for data in (one, other)]


def test_health_tells_whether_a_server_reads_images(server: DraftServer, tmp_path: Path) -> None:
    assert Feature.IMAGES in server.health().features
    with draft_server(tmp_path, "--mmproj", "off") as text_only:
        assert Feature.IMAGES not in text_only.health().features
        code, message, _ = fails(text_only, ask(sample(NAMES[0]), WHAT))
        assert (code, "SKILL_DRAFT_MMPROJ is off" in message) == (grpc.StatusCode.FAILED_PRECONDITION, True)
        assert serves_on(text_only)


def test_text_model_names_one_that_reads_images(tmp_path: Path) -> None:
    with draft_server(tmp_path, model="smollm2-135m-instruct-q8_0") as text_only:
        code, message, _ = fails(text_only, ask(sample(NAMES[0]), WHAT))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "reads text alone; qwen3-vl-4b-instruct-iq4_nl reads images" in message
        assert not text_only.health().message


# --- what is answered ---


@pytest.mark.parametrize("name", NAMES)
def test_image_is_named(server: DraftServer, name: str) -> None:
    colour, shape, place = name.split("-")
    answer = server.stub.Generate(ask(sample(name), WHAT), timeout=60)
    assert (answer.text, answer.image_tokens) == (f"a {colour} {shape}", 9)
    assert answer.prompt_tokens > 9 + 2
    assert server.stub.Generate(ask(sample(name), "Where is it?"), timeout=60).text == place


def test_two_images_are_named_in_their_order(server: DraftServer) -> None:
    one, other = sample("red-circle-left"), sample("green-square-right")
    for first, second, says in (
        (one, other, "a red circle and a green square"),
        (other, one, "a green square and a red circle"),
    ):
        assert server.stub.Generate(ask(first, second, "What is in the images?"), timeout=60).text == says


def test_second_question_encodes_nothing_and_needs_no_bytes(server: DraftServer) -> None:
    data = encoded(Picture.open(io.BytesIO(sample("blue-triangle-top"))).convert("RGB"), "BMP")
    server.stub.Generate(ask(data, WHAT), timeout=60)
    before = server.health().engine
    answer = server.stub.Generate(ask(named(data), "Where is it?"), timeout=60)
    after = server.health().engine
    assert (answer.text, after.images - before.images, after.images_encoded - before.images_encoded) == ("top", 1, 0)
    assert answer.cached_tokens > 9, "its cells are shared"


def test_image_is_known_by_its_pixels_whatever_its_file(server: DraftServer) -> None:
    picture = Picture.open(io.BytesIO(sample("yellow-circle-bottom"))).convert("RGB")
    server.stub.Generate(ask(sample("yellow-circle-bottom"), WHAT), timeout=60)
    before = server.health().engine.images_encoded
    for other in (encoded(picture, "BMP"), encoded(picture, "WEBP", lossless=True), turned(picture, 6)):
        assert server.stub.Generate(ask(other, WHAT), timeout=60).text == "a yellow circle"
    assert server.health().engine.images_encoded == before


def test_odd_images_are_answered(server: DraftServer) -> None:
    picture = Picture.open(io.BytesIO(sample("red-square-top"))).convert("RGB")
    first_frame = animated("GIF", picture)
    clear = Picture.open(io.BytesIO(sample("red-square-top"))).convert("RGBA")
    for data in (first_frame, encoded(picture.convert("CMYK"), "JPEG", quality=98), encoded(clear)):
        assert server.stub.Generate(ask(data, WHAT), timeout=60).text == "a red square"
    for data in (
        encoded(Picture.new("RGB", (1, 1))),
        encoded(Picture.new("I;16", (90, 90), 40_000)),
        png_like_camera(),
    ):
        assert server.stub.Generate(ask(data, WHAT), timeout=60).finish_reason


def png_like_camera() -> bytes:
    """A JPEG as large as a telephone's."""
    return encoded(gradient(4032, 3024), "JPEG")


def test_eleven_images_in_a_turn_are_read(server: DraftServer) -> None:
    answer = server.stub.Generate(ask(*[sample(name) for name in NAMES[:11]], "What is in the images?"), timeout=60)
    assert answer.image_tokens == 99


def test_eight_callers_with_and_without_images_get_their_own_answers(server: DraftServer) -> None:
    def call(i: int) -> tuple[str, str]:
        if i % 3 == 2:
            return server.stub.Generate(ask("Say hello."), timeout=120).text, "hello"
        drawn = draw(random.Random(i))
        return server.stub.Generate(ask(drawn.png, WHAT), timeout=120).text, drawn.name

    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(call, range(48)))
    assert [got for got, _ in answers] == [wanted for _, wanted in answers]


@pytest.mark.parametrize("module", ["skills.skill_draft.engine", "skills.skill_draft.vision"])
def test_answer_is_the_same_after_a_death(server: DraftServer, module: str) -> None:
    request = ask(sample("white-circle-top"), "Describe the image.", top_logprobs=3)
    before = server.stub.Generate(request, timeout=60)
    other = ask(encoded(gradient(320, 320)), WHAT)
    server.stub.Generate(other, timeout=60)  # a vision process is there
    pid = child(server, module)
    assert pid
    os.kill(pid, signal.SIGKILL)
    after = server.stub.Generate(request, timeout=60)
    assert (after.text, list(after.token_logprobs)) == (before.text, list(before.token_logprobs))


def test_out_of_memory_the_vision_process_goes_before_the_engine_and_both_before_the_server(
    server: DraftServer,
) -> None:
    server.stub.Generate(ask(encoded(gradient(300, 300)), WHAT), timeout=60)  # a vision process is there
    engine, vision = (child(server, f"skills.skill_draft.{name}") for name in ("engine", "vision"))
    ours, engines, visions = (
        int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (server.process.pid, engine, vision)
    )
    assert ours + 100 <= engines <= visions - 800, "an engine may have 0.8 of the memory more than the vision process"


def test_stream_tells_how_many_images_are_still_to_be_encoded(server: DraftServer) -> None:
    request = ask(encoded(gradient(1000, 900)), encoded(gradient(900, 1000)), WHAT, progress=True)
    for part in request.messages[0].parts[:2]:
        part.image.max_tokens = 300
    told = [
        c.progress.images_to_encode for c in server.stub.GenerateStream(request, timeout=60) if c.HasField("progress")
    ]
    assert 2 in told
    assert 1 in told


def test_tower_of_another_model_is_refused_at_the_start(tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.servers import ROOT, SERVER, free_port

    for mmproj, says in ((TINY, "is no vision tower"), (tmp_path / "none.gguf", "cannot read")):
        command = [sys.executable, *SERVER, "--listen", f"127.0.0.1:{free_port()}", "--model", str(TINY)]
        done = subprocess.run(
            [*command, "--mmproj", str(mmproj)], cwd=ROOT, capture_output=True, timeout=60, check=False
        )
        assert (done.returncode, says in done.stderr.decode()) == (1, True), done.stderr.decode()


def test_idle_vision_process_ends_and_the_next_image_starts_another(tmp_path: Path) -> None:
    with draft_server(tmp_path, "--vision-idle-s", "0.3", "--mmproj", str(MMPROJ)) as server:
        assert child(server, "skills.skill_draft.vision") is None
        server.stub.Generate(ask(sample(NAMES[0]), WHAT), timeout=60)
        end = time.monotonic() + 10
        while child(server, "skills.skill_draft.vision"):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert server.stub.Generate(ask(sample(NAMES[1]), WHAT), timeout=60).text == "a black triangle"
