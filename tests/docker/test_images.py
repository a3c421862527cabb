"""Images in a container: named right by the tiny model, next to text, also after the vision process was killed."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from core.testing import SkillContainer
from skills import skills_pb2
from tests.docker.asking import COUNTED, MARKS, OwnTiny, greedy
from tests.drawings import Drawing, draw

pytestmark = MARKS
NUMBER, LEAST_RIGHT = 200, 190


def about(drawing: Drawing) -> skills_pb2.GenReq:
    parts = [
        skills_pb2.Part(image=skills_pb2.Image(data=drawing.png)),
        skills_pb2.Part(text="What is in the image?"),
    ]
    return greedy("", messages=[skills_pb2.Message(role="user", parts=parts)], max_tokens=16)


def kill_vision(container: SkillContainer) -> None:
    """Kill the vision process from inside, as the kernel would."""
    program = (
        "import os, pathlib, signal\n"
        "for p in pathlib.Path('/proc').glob('[0-9]*/cmdline'):\n"
        "    if b'draft.' + b'vision' in p.read_bytes():\n"  # in two parts: this program has a command line too
        "        os.kill(int(p.parent.name), signal.SIGKILL)\n"
    )
    container.exec("python3", "-c", program)


def test_images_are_named_in_the_container_among_text_and_after_a_death(own_tiny: OwnTiny) -> None:
    random_ = random.Random(200)
    drawings = [draw(random_) for _ in range(NUMBER)]
    with own_tiny() as (client, container), ThreadPoolExecutor(8) as pool:
        assert "images" in client.Health().features, container.logs()
        counts = [pool.submit(client.Generate, greedy(), timeout=60) for _ in range(40)]
        answers = list(pool.map(lambda drawing: client.Generate(about(drawing), timeout=60), drawings))
        assert sum(a.text == d.name for a, d in zip(answers, drawings, strict=True)) >= LEAST_RIGHT
        assert {count.result().text for count in counts} == {COUNTED}
        kill_vision(container)
        after = draw(random.Random(41))
        assert client.Generate(about(after), timeout=60).text == after.name
        assert client.Health().engine.restarts == 0
