"""Images that are damaged anywhere are read or refused, by a process that survives them all."""

from __future__ import annotations

import asyncio
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from skills import skills_pb2
from skills.runtime.resources import anonymous_bytes
from skills.skill_draft.rows_memory import RowsMemory
from skills.skill_draft.vision_process import BadImageError, Vision, VisionConfig
from tests.damaged_pictures import SOUND
from tests.drawings import draw
from tests.servers import TINY, DraftServer, draft_server
from tests.vision import MMPROJ, ROW_WIDTH, SAMPLES

GenReq, Message, Part, Image = skills_pb2.GenReq, skills_pb2.Message, skills_pb2.Part, skills_pb2.Image
WHOLE = [*SOUND.values(), *(path.read_bytes() for path in sorted(SAMPLES.glob("*.png")))]
MANY, FEW = 10_000, 2_000


def damaged(random_: random.Random) -> bytes:
    """Return an image with one to five damages: bytes changed, cut out, repeated, or from another image."""
    image = bytearray(random_.choice(WHOLE))
    for _ in range(random_.randint(1, 5)):
        at, length = random_.randrange(len(image) + 1), random_.choice((1, 1, 2, 4, 30))
        match random_.randrange(5):
            case 0:
                image[at : at + length] = random_.randbytes(length)
            case 1:
                del image[at : at + length]
            case 2:
                image[at:at] = image[at : at + length]
            case 3:
                image[at : at + 4] = random_.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\0\0\xff\xff"))
            case 4:
                other = random_.choice(WHOLE)
                image[at:] = other[at : at + random_.randint(1, 500)]
    return bytes(image)


def test_process_that_reads_images_survives_damage_of_every_kind() -> None:
    async def test() -> None:
        memory = RowsMemory(1)

        async def config() -> VisionConfig:
            return VisionConfig(
                model=str(TINY), mmproj=str(MMPROJ), mmproj_sha256="00" * 32, row_width=ROW_WIDTH,
                rows_path=memory.path, threads=1,
            )  # fmt: skip

        vision = Vision(config, read_timeout_s=20, encode_timeout_s=20, idle_s=60)
        random_, pids, reasons, read, warm = random.Random(1), set[int](), set[str](), 0, 0
        for i in range(FEW):
            try:
                image = await vision.read(damaged(random_), 64)
            except BadImageError as error:
                reasons.add(str(error))
            else:
                read += 1
                assert 8 <= image.n_tokens <= 64
            pids.update(vision.pids)
            if i == FEW // 2:
                warm = anonymous_bytes(vision.pids)
        grown = anonymous_bytes(vision.pids) - warm
        print("GROWN", warm, grown)
        await vision.close()
        memory.close()
        assert len(pids) == 1
        assert FEW / 20 < read < FEW
        assert not [reason for reason in reasons if reason.startswith(("ended", "was given up"))]

    asyncio.run(test())


def held(server: DraftServer) -> tuple[int, int]:
    """Return how many descriptors the server holds, and the bytes of server and engine; vision processes end."""
    pid = server.process.pid
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), anonymous_bytes([pid, server.engine_pid()])


@pytest.mark.timeout(600)
def test_server_answers_or_refuses_damaged_images_and_names_a_whole_one_all_the_while() -> None:
    random_, refusals = random.Random(2), set[tuple[grpc.StatusCode, str]]()
    images = [damaged(random_) for _ in range(MANY)]
    with (
        tempfile.TemporaryDirectory() as folder, draft_server(Path(folder), "--uploads-mb", "1") as server,
        ThreadPoolExecutor(4) as callers,
    ):  # fmt: skip
        engine = server.engine_pid()

        def ask(image: bytes, tokens: int) -> str:
            parts = [Part(image=Image(data=image, max_tokens=64)), Part(text="What is in the image?")]
            messages = [Message(role="user", parts=parts)]
            return server.stub.Generate(
                GenReq(messages=messages, temperature=0, max_tokens=tokens), timeout=60
            ).text  # fmt: skip

        def one(i: int) -> None:
            try:
                ask(images[i], 1)
            except grpc.RpcError as error:
                refusals.add((error.code(), (error.details() or "").partition(":")[0]))
            if i % 20 == 0:
                drawn = draw(random.Random(i % 200))
                assert ask(drawn.png, 20) == drawn.name

        list(callers.map(one, range(MANY // 4)))
        warm = held(server)
        list(callers.map(one, range(MANY // 4, MANY)))
        assert refusals == {(grpc.StatusCode.INVALID_ARGUMENT, "messages[0].parts[0].image")}
        assert server.engine_pid() == engine, server.log.read_text()
        assert not server.health().engine.restarts
        descriptors, memory = held(server)
        assert descriptors <= warm[0] + 2
        assert memory - warm[1] < 1024 * MANY
