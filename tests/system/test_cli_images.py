"""Images on the command line: real processes and terminals, and a stub skill that answers with what it received."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import subprocess
from pathlib import Path

import grpc
import pytest

from core.loop.events import CallProgress
from core.loop.result import Stage
from skills import skills_pb2
from tests.stub_skill import Failure, Reply, StubSkill, images_of, text_of
from tests.system.test_cli import ROOT, SARAI, converse, environ, on_terminal, sarai

__all__ = ["environ"]

NOT_SURE = -1.0
SAMPLE = b"\x89PNG\r\n\x1a\n" + random.Random(3).randbytes(200_000)
"""A file that begins like a PNG. The client leaves PNGs that Pillow refuses to the skill."""
OTHER = SAMPLE + b"."


def hex_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def photo(tmp_path: Path) -> str:
    (path := tmp_path / "a photo.png").write_bytes(SAMPLE)
    return str(path)


@pytest.fixture
def other(tmp_path: Path) -> str:
    (path := tmp_path / "other.png").write_bytes(OTHER)
    return str(path)


def saw(request: skills_pb2.GenReq) -> Reply:
    """Return an answer that repeats the last turn."""
    return Reply(text=f"saw {text_of(request.messages[-1])}", logprob=NOT_SURE)


def bytes_in(skill: StubSkill) -> list[int]:
    """Return the size of each request."""
    return [request.ByteSize() for request in skill.requests]


def test_draft_asks_about_images(environ: dict[str, str], photo: str, other: str) -> None:
    with StubSkill(saw) as skill:
        run = sarai(
            environ, "draft", "--image", photo, "--image", other, "--image-tokens", "64", "What is this?",
            target=skill.target,
        )  # fmt: skip
        (request,) = skill.requests
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == f"saw [{hex_of(SAMPLE)[:8]}][{hex_of(OTHER)[:8]}]What is this?\n"
    assert [image.max_tokens for image in images_of(request)] == [64, 64]
    assert not request.prompt


def test_image_from_standard_input(environ: dict[str, str], photo: str) -> None:
    with StubSkill(saw) as skill, Path(photo).open("rb") as file:
        run = subprocess.run(
            [*SARAI, "draft", "--image", "-", "What?"], env=environ | {"SARAI_DRAFT_TARGET": skill.target}, cwd=ROOT,
            stdin=file, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (run.stdout, run.stderr) == (f"saw [{hex_of(SAMPLE)[:8]}]What?\n", "")


def test_prompt_is_piped_in_next_to_an_image(environ: dict[str, str], photo: str) -> None:
    with StubSkill(saw) as skill:
        run = sarai(environ, "draft", "--image", photo, piped="Some notes", target=skill.target)
    assert run.stdout == f"saw [{hex_of(SAMPLE)[:8]}]Some notes\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--image", "-", "--image", "-", "x"], "standard input can be read once"),
        (["--image", "-", "-", "x"], "standard input can be read once"),
        (["--image", "-"], "there is no prompt"),
        (["--image-tokens", "7", "x"], "not in the range 8 to 1024"),
        (["--raw", "--image", "{photo}", "x"], "leave out --raw or --image"),
        (["--image", "{photo}.jpg", "x"], "a photo.png.jpg: there is no such file"),
        (["--image", ".", "x"], ".: this is a folder; give its files one by one"),
        (["--image", "/dev/null", "x"], "/dev/null: the file is empty"),
        (["--image", "README.md", "x"], "README.md: this is a text; images that are read are PNG, JPEG, WebP, GIF and"),
        (["--image", "-", "x"], "standard input: the file is empty"),
    ],
)
def test_image_that_cannot_be_sent_is_2_and_nothing_is_asked(
    environ: dict[str, str], photo: str, options: list[str], said: str
) -> None:
    with StubSkill(saw) as skill:
        given = [option.replace("{photo}", photo) for option in options]
        run = sarai(environ, "draft", *given, target=skill.target)
        assert skill.requests == []
    assert (run.returncode, run.stdout) == (2, "")
    assert said in run.stderr
    assert "Traceback" not in run.stderr


def test_image_is_not_read_from_a_terminal(environ: dict[str, str]) -> None:
    with StubSkill(saw) as skill:
        seen, code = on_terminal(environ, "draft", "--image", "-", "x", target=skill.target)
    assert code == 2
    assert "standard input is a terminal: pipe an image in, or give --image a file" in seen


def test_refusal_of_a_skill_is_an_error_in_plain_words(environ: dict[str, str], photo: str) -> None:
    blind = Failure(code=grpc.StatusCode.FAILED_PRECONDITION, details="SmolLM2 reads text alone; qwen3-vl reads images")
    with StubSkill(blind) as skill:
        run = sarai(environ, "draft", "--image", photo, "x", target=skill.target)
    assert run.returncode == 2
    assert run.stderr == (
        f"error: skill 'draft' at {skill.target}: FAILED_PRECONDITION: SmolLM2 reads text alone; qwen3-vl reads images "
        "(serve a model that reads images, with enough memory, or ask without images)\n"
    )


@pytest.mark.parametrize("command", ["draft", "loop"])
def test_refusal_of_an_image_names_its_file(environ: dict[str, str], photo: str, other: str, command: str) -> None:
    field = "messages[0].parts[1].image"
    refused = Failure(
        code=grpc.StatusCode.INVALID_ARGUMENT, details=f"{field}: is broken", fields=((field, "is broken"),)
    )
    with StubSkill(refused) as skill:
        run = sarai(environ, command, "--image", photo, "--image", other, "x", target=skill.target)
    assert (run.returncode, run.stderr) == (2, f"error: {other}: is broken\n")


def test_refusal_of_anything_else_is_as_the_skill_says_it(environ: dict[str, str], photo: str) -> None:
    refused = Failure(
        code=grpc.StatusCode.INVALID_ARGUMENT, details="seed: too many", fields=(("messages[0].parts[7].image", "x"),)
    )
    with StubSkill(refused) as skill:
        run = sarai(environ, "draft", "--image", photo, "x", target=skill.target)
    assert run.stderr.startswith("error: skill 'draft' at")
    assert "seed: too many" in run.stderr


def test_loop_sends_an_image_once_and_shows_it_in_every_iteration(environ: dict[str, str], photo: str) -> None:
    with StubSkill(saw) as skill:
        run = sarai(
            environ, "loop", "--image", photo, "--image-tokens", "16", "--stats", "What is this?", target=skill.target
        )
        requests, sizes, uploads = skill.requests, bytes_in(skill), skill.images.uploads
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("saw ")
    assert len(requests) == 5, "a draft, and a reflection and a correction twice"
    assert uploads == [bytes.fromhex(hex_of(SAMPLE))]
    assert len(SAMPLE) < sizes[0] < len(SAMPLE) + 1000
    assert sum(sizes[1:]) < 8000
    by_hash = skills_pb2.Image(sha256=uploads[0], max_tokens=16)
    assert all(images_of(request) == [by_hash] for request in requests[1:])
    for earlier, later in itertools.pairwise(requests[1:]):
        assert list(later.messages[: len(earlier.messages)]) == list(earlier.messages), "the prefix is the same"


@pytest.mark.usefixtures("other")
def test_chat_shows_an_image_with_the_next_turn_alone(environ: dict[str, str], tmp_path: Path, photo: str) -> None:
    saved = tmp_path / "saved.json"
    typed = (
        f"/image {photo}\n/image ~/other.png\nWhat are these?\nAnd now?\n/image {photo}\n/clear\nHi\n/save {saved}\n"
    )
    with StubSkill(saw) as skill:
        run = sarai(environ, "chat", "--image-tokens", "9", piped=typed + f"/image {photo}\nMore?\n/save {saved}\n",
                    target=skill.target)  # fmt: skip
        requests, uploads = skill.requests, skill.images.uploads
    one, two = hex_of(SAMPLE), hex_of(OTHER)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines() == [
        f"saw [{one[:8]}][{two[:8]}]What are these?", "saw And now?", "saw Hi", f"saw [{one[:8]}]More?"
    ]  # fmt: skip
    assert [len(images_of(request)) for request in requests] == [2, 2, 0, 1]
    assert requests[0].messages[0].parts[0].image.max_tokens == 9
    assert len(uploads) == 2, "each travelled once"
    turns = json.loads(saved.read_text())["messages"]
    assert turns[0] == {"role": "user", "content": "Hi"}
    assert turns[2] == {"role": "user", "content": "More?", "images": [one]}


@pytest.mark.parametrize(
    ("line", "said", "code"),
    [("/image /nowhere.png", "/nowhere.png: there is no such file", 2), ("/image", "'/image' is no command", 2)],
)
def test_image_that_cannot_be_shown_ends_a_piped_chat(environ: dict[str, str], line: str, said: str, code: int) -> None:
    with StubSkill(saw) as skill:
        run = sarai(environ, "chat", piped=f"{line}\nWhat is this?\n", target=skill.target)
        assert skill.requests == []
    assert run.returncode == code
    assert said in run.stderr


def test_image_stays_for_the_next_turn_if_its_own_got_no_answer(environ: dict[str, str], photo: str) -> None:
    failing = Failure(code=grpc.StatusCode.INTERNAL, details="its engine has failed")
    with StubSkill([failing, "a red circle"]) as skill:
        converse(
            environ, skill.target,
            ("/help\n", "/image FILE"),
            ("/image missing.png\n", "there is no such file"),
            (f"/image {photo}\n", "photo.png"),
            ("What is this?\n", "its engine has failed"),
            ("What is it?\n", "a red circle"),
        )  # fmt: skip
        assert [len(images_of(request)) for request in skill.requests] == [1, 1]
        assert [len(request.messages) for request in skill.requests] == [1, 1]


def test_chat_names_the_file_of_a_refused_image_and_goes_on_without_it(
    environ: dict[str, str], photo: str, other: str
) -> None:
    field = "messages[2].parts[1].image"
    broken = Failure(
        code=grpc.StatusCode.INVALID_ARGUMENT, details=f"{field}: is broken", fields=((field, "is broken"),)
    )
    blind = Failure(code=grpc.StatusCode.FAILED_PRECONDITION, details="it reads text alone")
    with StubSkill(["Hello", broken, "red", blind, "bye"]) as skill:
        converse(
            environ, skill.target,
            ("Hi\n", "Hello"),
            (f"/image {photo}\n", "photo.png"),
            (f"/image {other}\n", "other.png"),
            ("What is this?\n", "other.png: is broken"),
            ("What is that?\n", "red"),
            (f"/image {photo}\n", "photo.png"),
            ("Or this?\n", "it reads text alone"),
            ("Go away\n", "bye"),
        )  # fmt: skip
        images = [[image.sha256 or image.data for image in images_of(request)] for request in skill.requests]
    one, two = bytes.fromhex(hex_of(SAMPLE)), bytes.fromhex(hex_of(OTHER))
    assert [[hashed(image) for image in turn] for turn in images] == [[], [one, two], [one], [one, one], [one]]


def hashed(image: bytes) -> bytes:
    return image if len(image) == 32 else hashlib.sha256(image).digest()


def test_tab_completes_the_name_of_an_image(environ: dict[str, str], photo: str) -> None:
    with StubSkill(saw) as skill:
        converse(
            environ, skill.target,
            (f"/image {photo.removesuffix('hoto.png')}\t\n", "a photo.png"),
            ("a\tb\n", f"saw [{hex_of(SAMPLE)[:8]}]a"),
            options=("--no-markdown",),
        )  # fmt: skip
        (request,) = skill.requests
        assert request.messages[0].parts[1].text == "a\tb"


@pytest.mark.parametrize("command", ["draft", "loop", "chat"])
@pytest.mark.parametrize("images", [1, 2])
def test_wait_for_an_image_is_shown_on_a_terminal_and_gone_when_the_answer_begins(
    environ: dict[str, str], tmp_path: Path, photo: str, command: str, images: int
) -> None:
    said = f"reading {'the image' if images == 1 else '2 images'}, about 12 s"
    encoding = Reply(text="a red circle", delay_s=0.4, progress=2, images_to_encode=images, logprob=0.0, expected_s=12)
    (typed := tmp_path / "input").write_text(f"/image {photo}\nWhat is this?\n")
    arguments = ["chat"] if command == "chat" else [command, "--image", photo, "What is this?"]
    with StubSkill(encoding) as skill, typed.open() as stdin:
        seen, code = on_terminal(environ | {"NO_COLOR": "1"}, *arguments, target=skill.target, stdin=stdin)
    assert code == 0
    assert f"\r  {said}\x1b[K" in seen
    assert seen.index(said) < seen.rindex("\r\x1b[K") < seen.index("a red circle")


def test_figures_say_what_images_take(environ: dict[str, str], photo: str) -> None:
    with StubSkill(Reply(text="a red circle", prompt_tokens=25, image_tokens=9)) as skill:
        run = sarai(environ, "draft", "--stats", "--image", photo, "What is this?", target=skill.target)
        as_json = sarai(environ, "draft", "--json", "--image", photo, "What is this?", target=skill.target)
    assert "0 of 25 prompt tokens cached, 9 are images" in run.stderr
    assert json.loads(as_json.stdout.splitlines()[-1])["image_tokens"] == 9


def test_progress_of_a_loop_counts_the_images_to_encode(photo: str) -> None:
    from core.config import PoolConfig
    from core.local.progress import report
    from core.model_pool import ModelPool
    from core.omni_loop import LoopConfig, OmniLoop

    encoding = Reply(text="a red circle", delay_s=0.2, progress=1, images_to_encode=1, logprob=0.0)
    with StubSkill(encoding) as skill:
        config = PoolConfig(targets={"SARAI_DRAFT_TARGET": skill.target})
        with ModelPool(config, on_progress=report) as pool:
            events = list(OmniLoop(LoopConfig(progress=True), pool=pool).stream("What is this?", images=[photo]))
    (progress,) = [event for event in events if isinstance(event, CallProgress)]
    assert (progress.stage, progress.images_to_encode) == (Stage.DRAFT, 1)
