"""The image skill over a real socket: what it answers, what it refuses, and that it keeps serving in any case."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from hypothesis import given, settings
from PIL import Image

from core.config import PoolConfig
from core.errors import CallError, InvalidRequestError, RequestTooLargeError
from core.model_pool import ModelPool
from core.pool.rpc_status import call_error
from skills import skills_pb2
from skills.runtime.testing import served
from skills.skill_image import image_pb2
from skills.skill_image.plugin import sarai_skills
from tests.damaged_pictures import damaged_pictures
from tests.pictures import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    animated,
    chunk,
    corners,
    decoded,
    encoded,
    gif_frame,
    gradient,
    png_header,
    quarters,
    turned,
    with_chunks,
    wrong_checksum,
)
from tests.servers import ROOT, alive

(SPEC,) = sarai_skills()
INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED


def ask(image: bytes = b"", **fields: Any) -> image_pb2.NormalizeRequest:
    return image_pb2.NormalizeRequest(image=image, **fields)


@pytest.fixture(scope="module")
def image() -> Iterator[Any]:
    """Return the stub of a server that all tests share."""
    with served(SPEC, "--max-image-mb", "1", "--max-message-mb", "2") as channel:
        yield SPEC.stub(channel)


@contextlib.contextmanager
def own(*options: str) -> Iterator[tuple[Any, psutil.Process]]:
    """Start a server for one test; yield its stub and its process."""
    before = set(psutil.Process().children())
    with served(SPEC, *options) as channel:
        (server,) = set(psutil.Process().children()) - before
        yield SPEC.stub(channel), server


def decoders(server: psutil.Process) -> list[psutil.Process]:
    return [child for child in server.children() if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def fails(call: Any, request: Any, timeout: float = 20) -> CallError:
    with pytest.raises(grpc.RpcError) as failed:
        call(request, timeout=timeout)
    return call_error(failed.value, skill=SPEC.name, target="the test's")


def until(condition: Any, timeout_s: float = 10.0) -> None:
    """Wait for something that another process does."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_picture_comes_back_upright_in_whole_tiles(image: Any) -> None:
    sent = turned(quarters(320, 160), 6)
    answer = image.Normalize(ask(sent), timeout=20)
    assert (answer.width % 32, answer.height % 32, answer.media_type) == (0, 0, "image/png")
    assert answer.tiles == answer.width * answer.height // 1024 >= 64
    assert (answer.source_width, answer.source_height, answer.orientation) == (160, 320, 6)
    assert answer.source_sha256 == hashlib.sha256(sent).digest()
    picture = decoded(answer.image)
    assert picture.size == (answer.width, answer.height)
    assert corners(picture) == [RED, GREEN, BLUE, WHITE]


def test_wishes_are_followed(image: Any) -> None:
    wished = ask(encoded(gradient(640, 480)), max_pixels=100_000, min_pixels=1024, encoding=image_pb2.ENCODING_WEBP)
    answer = image.Normalize(wished, timeout=20)
    assert answer.width * answer.height <= 100_000
    assert (answer.media_type, decoded(answer.image).format) == ("image/webp", "WEBP")


def test_long_picture_is_answered_as_png(image: Any) -> None:
    answer = image.Normalize(ask(encoded(Image.new("L", (20_000, 192))), max_pixels=1 << 23), timeout=20)
    assert (answer.width, answer.height) == (20_000, 192)


def test_whole_picture_is_taken_whatever_other_chunks_it_has(image: Any) -> None:
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000)))
    for part in (text, wrong_checksum(chunk(b"gAMA", bytes(4)))):
        assert corners(decoded(image.Normalize(ask(with_chunks(encoded(quarters()), part)), timeout=20).image)) == [
            RED, GREEN, BLUE, WHITE,
        ]  # fmt: skip


def test_first_frame_of_an_animation_is_taken_and_said_so(image: Any) -> None:
    assert image.Normalize(ask(animated("GIF")), timeout=20).animated


def test_same_bytes_with_the_same_wishes_come_from_the_cache(image: Any) -> None:
    request = ask(encoded(gradient(200, 200)), encoding=image_pb2.ENCODING_WEBP, quality=70)
    first, again = (image.Normalize(request, timeout=20) for _ in range(2))
    assert (first.cached, again.cached) == (False, True)
    assert again.image == first.image
    request.quality = 71
    assert not image.Normalize(request, timeout=20).cached


def test_near_duplicate_is_told_to_who_asks_and_never_served(image: Any) -> None:
    scene = Image.effect_mandelbrot((512, 384), (-1.2, -0.6, 0.6, 1.2), 60)
    one, other = encoded(scene), encoded(scene.resize((400, 300)), "JPEG", quality=70)
    first = image.Normalize(ask(one), timeout=20)
    unasked = image.Normalize(ask(other), timeout=20)
    assert not unasked.similar
    assert (unasked.cached, unasked.source_sha256) == (False, hashlib.sha256(other).digest())
    assert unasked.image != first.image
    (found,) = image.Normalize(ask(other, similar_within=8), timeout=20).similar
    assert found.source_sha256 == hashlib.sha256(one).digest()
    assert found.distance == (first.perceptual_hash ^ unasked.perceptual_hash).bit_count() <= 8


BAD: dict[str, tuple[image_pb2.NormalizeRequest, grpc.StatusCode, str]] = {
    "empty": (ask(), INVALID, "image"),
    "text": (ask(b"hello"), INVALID, "image"),
    "html": (ask(b"<html>" * 100), INVALID, "image"),
    "cut off": (ask(encoded(gradient())[:-30]), INVALID, "image"),
    "broken": (ask(encoded(gradient())[:60] + bytes(500)), INVALID, "image"),
    "bomb": (ask(png_header(50_000, 50_000)), EXHAUSTED, "image"),
    "no pixels": (ask(png_header(0, 0)), INVALID, "image"),
    "a line": (ask(png_header(1, 1000)), INVALID, "image"),
    "a frame that is a bomb": (ask(gif_frame(30_000, 30_000)), EXHAUSTED, "image"),
    "too long for WebP": (
        ask(encoded(Image.new("L", (20_000, 192))), max_pixels=1 << 23, encoding=image_pb2.ENCODING_WEBP),
        INVALID,
        "encoding",
    ),
    "too long for WebP without loss": (
        ask(encoded(Image.new("L", (192, 20_000))), max_pixels=1 << 23, encoding=image_pb2.ENCODING_WEBP_LOSSLESS),
        INVALID,
        "encoding",
    ),
    "too many bytes": (ask(bytes(1_100_000)), EXHAUSTED, "image"),
    "min_pixels": (ask(b"x", min_pixels=-1), INVALID, "min_pixels"),
    "max_pixels": (ask(b"x", max_pixels=2**31 - 1), INVALID, "max_pixels"),
    "min above max": (ask(b"x", min_pixels=9999, max_pixels=2000), INVALID, "min_pixels"),
    "quality": (ask(b"x", quality=101), INVALID, "quality"),
    "similar_within": (ask(b"x", similar_within=65), INVALID, "similar_within"),
    "encoding": (ask(b"x", encoding=9), INVALID, "encoding"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_request_is_refused_with_the_fields_path_and_the_server_goes_on(image: Any, name: str) -> None:
    request, code, field = BAD[name]
    error = fails(image.Normalize, request)
    assert error.code() is code, error.details()
    (violation,) = error.field_violations
    assert violation.field == field
    assert violation.description
    assert image.Normalize(ask(encoded(quarters())), timeout=20).tiles


def test_message_over_the_limit_is_refused(image: Any) -> None:
    assert fails(image.Normalize, ask(bytes(3 << 20))).code() is EXHAUSTED
    assert image.Health(skills_pb2.HealthReq(), timeout=5).status == "SERVING"


def test_many_callers_get_their_own_pictures(image: Any) -> None:
    shades = range(0, 250, 10)

    def shade(value: int) -> object:
        answer = image.Normalize(ask(encoded(Image.new("RGB", (96, 96), (value, 0, 0)))), timeout=60)
        return decoded(answer.image).getpixel((5, 5))

    with ThreadPoolExecutor(8) as callers:
        assert list(callers.map(shade, shades)) == [(value, 0, 0) for value in shades]


def test_picture_that_ends_its_decoder_fails_alone() -> None:
    with own("--workers", "1") as (stub, server), ThreadPoolExecutor(1) as caller:
        (decoder,) = decoders(server)
        decoder.suspend()
        call = caller.submit(stub.Normalize, ask(encoded(quarters())), timeout=20)
        until(lambda: stub.Health(skills_pb2.HealthReq(), timeout=5).active_requests == 1)
        decoder.kill()
        error = call.exception(20)
        assert isinstance(error, grpc.RpcError)
        assert error.code() is grpc.StatusCode.INTERNAL
        assert stub.Normalize(ask(encoded(quarters())), timeout=20).tiles == 72
        assert len(decoders(server)) == 1


def test_damaged_pictures_are_answered_or_refused_by_the_same_decoder() -> None:
    with own("--workers", "1", "--cache-mb", "0") as (stub, server):
        (decoder,) = decoders(server)

        @settings(max_examples=500, deadline=None, derandomize=True, database=None)
        @given(damaged_pictures())
        def answered_or_refused(picture: bytes) -> None:
            code, details = grpc.StatusCode.OK, ""
            try:
                stub.Normalize(ask(picture), timeout=20)
            except grpc.RpcError as error:
                code, details = error.code(), error.details() or ""
            assert code in (grpc.StatusCode.OK, INVALID, EXHAUSTED), details
            assert decoders(server) == [decoder]

        answered_or_refused()
        assert stub.Normalize(ask(encoded(quarters())), timeout=20).tiles == 72


@pytest.mark.parametrize("bomb", [png_header(50_000, 50_000), gif_frame(25_000, 25_000)], ids=["PNG", "frame of a GIF"])
def test_bomb_is_refused_before_there_is_memory_for_it(bomb: bytes) -> None:
    with own("--workers", "1") as (stub, server):
        (decoder,) = decoders(server)
        assert fails(stub.Normalize, ask(bomb)).code() is EXHAUSTED
        (peak_kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{decoder.pid}/status").read_text(encoding="ascii"))
        assert int(peak_kib) < 200 << 10


def test_picture_that_takes_more_memory_than_there_is_is_too_large_and_not_broken() -> None:
    with own("--workers", "1") as (stub, server):
        (decoder,) = decoders(server)
        for kind in ("PNG", "JPEG", "GIF"):
            assert stub.Normalize(ask(encoded(quarters(), kind)), timeout=20).tiles == 72
        most = decoder.memory_info().vms + (20 << 20)
        decoder.rlimit(psutil.RLIMIT_AS, (most, most))
        for kind in ("PNG", "JPEG", "GIF"):
            error = fails(stub.Normalize, ask(encoded(Image.new("RGB", (4_000, 4_000)), kind)))
            assert (error.code(), "more memory" in str(error.details())) == (EXHAUSTED, True), (kind, error.details())
        assert stub.Normalize(ask(encoded(gradient())), timeout=20).tiles
        assert decoders(server) == [decoder]


def test_deadline_holds_and_nobody_goes_on_with_the_picture() -> None:
    with own("--workers", "1") as (stub, server):
        (decoder,) = decoders(server)
        decoder.suspend()
        assert fails(stub.Normalize, ask(encoded(quarters())), timeout=0.3).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: decoder not in decoders(server))
        assert stub.Normalize(ask(encoded(quarters())), timeout=20).tiles == 72


def test_picture_that_takes_too_long_is_given_up() -> None:
    with own("--workers", "1", "--decode-timeout-s", "0.2") as (stub, server):
        (decoder,) = decoders(server)
        decoder.suspend()
        error = fails(stub.Normalize, ask(encoded(quarters())))
        assert (error.code(), "longer to decode" in str(error.details())) == (EXHAUSTED, True)


def test_one_call_too_many_is_turned_away_with_a_wait() -> None:
    with own("--workers", "1", "--queue", "0") as (stub, server), ThreadPoolExecutor(1) as caller:
        (decoder,) = decoders(server)
        decoder.suspend()
        first = caller.submit(stub.Normalize, ask(encoded(quarters())), timeout=20)
        until(lambda: stub.Health(skills_pb2.HealthReq(), timeout=5).active_requests == 1)
        error = fails(stub.Normalize, ask(encoded(gradient())))
        assert error.code() is EXHAUSTED
        assert error.retry_after_s
        decoder.resume()
        assert first.result(20).tiles == 72


def test_running_call_is_answered_after_sigterm() -> None:
    with own("--workers", "1") as (stub, server), ThreadPoolExecutor(1) as caller:
        (decoder,) = decoders(server)
        decoder.suspend()
        call = caller.submit(stub.Normalize, ask(encoded(quarters())), timeout=20)
        until(lambda: stub.Health(skills_pb2.HealthReq(), timeout=5).active_requests == 1)
        server.terminate()
        until(lambda: stub.Health(skills_pb2.HealthReq(), timeout=5).status == "DRAINING")
        decoder.resume()
        assert call.result(20).tiles == 72
        assert server.wait(10) in (0, None)


def test_killed_server_leaves_no_decoder() -> None:
    with own() as (_, server):
        (decoder,) = decoders(server)
        server.send_signal(signal.SIGKILL)
        until(lambda: not alive(decoder.pid), timeout_s=2.0)


def test_pool_serves_it_as_a_local_process_and_its_errors_say_whose_fault_it_is() -> None:
    with ModelPool(PoolConfig()) as pool:
        client = pool.get_skill_client("image")
        assert client.Normalize(ask(encoded(quarters())), timeout=20).tiles == 72
        assert client.Health().version == SPEC.version
        with pytest.raises(InvalidRequestError) as refused:
            client.Normalize(ask(b"no picture"), timeout=20)
        assert [violation.field for violation in refused.value.field_violations] == ["image"]
        with pytest.raises(RequestTooLargeError):
            client.Normalize(ask(png_header(50_000, 50_000)), timeout=20)


def test_command_line_tells_its_health() -> None:
    with ModelPool(PoolConfig()) as pool:
        target = pool.get_skill_client("image").target
        done = subprocess.run(
            [sys.executable, "-m", "sarai", "health", "image", "--target", target, "--json"],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"status": "SERVING"' in done.stdout


def test_metrics_tell_of_the_cache() -> None:
    import urllib.request

    from tests.servers import free_port

    port = free_port()
    with own("--metrics", f"127.0.0.1:{port}") as (stub, _):
        for _ in range(2):
            stub.Normalize(ask(encoded(quarters())), timeout=20)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            text = page.read().decode()
    assert "sarai_image_requests_total 2.0" in text
    assert "sarai_image_cache_hits_total 1.0" in text
    assert "gen_ai_server_request_duration_seconds_count 2.0" in text
