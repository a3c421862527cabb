"""Answers as objects, with a real model: the embedded model, both clients, the loop, the command line."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter, field_validator

from core.config import PoolConfig
from core.errors import CutAnswerError, InvalidAnswerError, InvalidRequestError
from core.model_pool import ModelPool
from core.omni_loop import LoopConfig, OmniLoop
from skills.skill_draft.catalog import EMBEDDED
from tests.servers import ROOT, DraftServer, draft_server

PROMPT = "My friend Ana, who is 31 years old, lives in Seville with her dog Toby. Answer in JSON."
Short = Annotated[str, Field(max_length=40)]


class Colour(enum.Enum):
    RED = "red"
    ODD = 'a "quoted" \\ 😀'


class Town(BaseModel):
    name: Short
    inhabitants: int | None


class Person(BaseModel):
    name: Short
    age: Annotated[int, Field(ge=0, le=150)]
    town: Town
    favourite: Colour
    born: dt.date | None = None


class Family(BaseModel):
    name: Short
    children: Annotated[list[Family], Field(max_length=1)]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    name: Short


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


@dataclass
class Point:
    x: Annotated[int, Field(ge=-9, le=9)]
    label: Short
    optional: bool = False


class Shouted(BaseModel):
    word: Literal["yes", "no"]

    @field_validator("word")
    @classmethod
    def is_loud(cls, word: str) -> str:
        if not word.isupper():
            raise ValueError("must be loud")
        return word


TYPES: list[Any] = [
    Person,
    Family,
    Owner,
    Point,
    Annotated[list[Point], Field(max_length=3)],
    Colour,
    Literal["yes", "no"],
    Annotated[dict[str, bool], Field(max_length=2)],
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DraftServer]:
    with draft_server(tmp_path_factory.mktemp("server"), "--threads", "1", model=EMBEDDED) as running:
        yield running


@pytest.fixture(scope="module")
def pool(server: DraftServer) -> Iterator[ModelPool]:
    with ModelPool(PoolConfig(targets={"SARAI_DRAFT_TARGET": server.target})) as opened:
        yield opened


def settings(seed: int) -> dict[str, Any]:
    return {"max_tokens": 300, "seed": seed, "temperature": 0 if seed == 0 else 1.0, "close_json": 100, "timeout": 100}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("type_", TYPES)
def test_answers_are_valid_objects_of_their_type(pool: ModelPool, type_: Any, seed: int) -> None:
    answer: Any = pool.get_skill_client("draft").generate_json(PROMPT, type_, **settings(seed))
    again = TypeAdapter[Any](type_)
    assert again.validate_python(answer, strict=True) == answer


def test_async_client_gives_the_same_object(pool: ModelPool) -> None:
    async def ask() -> Person:
        client = await pool.get_async_skill_client("draft")
        person: Person = await client.generate_json(PROMPT, Person, **settings(0))
        return person

    assert asyncio.run(ask()) == pool.get_skill_client("draft").generate_json(PROMPT, Person, **settings(0))


def test_answer_of_a_json_schema_is_plain(pool: ModelPool) -> None:
    schema = {"type": "array", "items": {"enum": ["a", 1, None]}, "minItems": 2, "maxItems": 2}
    answer = pool.get_skill_client("draft").generate_json(PROMPT, schema, temperature=0)
    assert len(answer) == 2
    assert set(answer) <= {"a", 1, None}


def test_answer_that_is_cut_off_holds_what_was_written(pool: ModelPool) -> None:
    draft = pool.get_skill_client("draft")
    with pytest.raises(CutAnswerError, match="LENGTH") as caught:
        draft.generate_json(PROMPT, Person, max_tokens=8, temperature=0)
    assert caught.value.text.startswith("{")
    closed = draft.generate_json(PROMPT, Person, max_tokens=8, close_json=100, temperature=0)
    assert isinstance(closed, Person)


def test_validator_that_says_no_is_heard(pool: ModelPool) -> None:
    with pytest.raises(InvalidAnswerError, match="word: Value error, must be loud"):
        pool.get_skill_client("draft").generate_json(PROMPT, Shouted, **settings(0))


def test_keyword_that_is_not_supported_is_named_with_its_path(pool: ModelPool) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "contains": {"type": "string"}}}}
    with pytest.raises(InvalidRequestError, match="/properties/a uses 'contains'"):
        pool.get_skill_client("draft").generate_json(PROMPT, schema)


@pytest.mark.parametrize("type_", [Person, Point])
def test_loop_gives_an_object_and_reflects_in_free_text(pool: ModelPool, type_: Any) -> None:
    config = LoopConfig(json_schema=type_, max_iterations=2, confidence_threshold=None, reflection_max_tokens=32)
    result = OmniLoop(config, pool=pool).run(PROMPT)
    assert isinstance(result.parsed, type_)
    reflections = [i.reflection for i in result.iterations if i.reflection] + [result.closing_reflection]
    assert any(reflection and not reflection.text.lstrip().startswith("{") for reflection in reflections)


def sarai(server: DraftServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SARAI_DRAFT_TARGET": server.target}
    command = [sys.executable, "-m", "sarai", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("command", ["draft", "loop"])
def test_schema_that_is_refused_is_explained_on_the_command_line(server: DraftServer, command: str) -> None:
    schema = json.dumps({"properties": {"a": {"items": {"not": {"type": "string"}}}}})
    done = sarai(server, command, "--json-schema", schema, PROMPT)
    assert (done.returncode, done.stdout) == (2, "")
    assert "json_schema: /properties/a/items uses 'not'" in done.stderr


@pytest.mark.parametrize(
    ("option", "fits"),
    [
        (("--regex", "[0-9]{3}"), r"[0-9]{3}\n"),
        (("--json-schema", '{"const": {"a": [1]}}'), r'\{\s*"a"\s*:\s*\[\s*1\s*\]\s*\}\n'),
        (("--json-object", "--max-tokens", "8", "--close-json", "100"), r"(?s)\{.*\}\n"),
    ],
)
@pytest.mark.parametrize("command", ["draft", "loop"])
def test_answer_on_the_command_line_fits(server: DraftServer, command: str, option: tuple[str, ...], fits: str) -> None:
    done = sarai(server, command, *option, "--temperature", "0", PROMPT)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(fits, done.stdout)


PAGE = (ROOT / "docs" / "structured_python.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_python_of_the_document_runs_as_written(server: DraftServer) -> None:
    environment = {**os.environ, "SARAI_DRAFT_TARGET": server.target}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks("python"))],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    person = r"name='.*' age=\d+ city='.*'"
    told = ["(?s).+ is \\d+", "(positive|negative)", "so far: '\\{.*", person, rf"{person} \w+"]
    assert re.fullmatch("\n".join(told) + "\n", done.stdout), done.stdout


def test_commands_of_the_document_run_as_written(server: DraftServer, tmp_path: Path) -> None:
    environment = {**os.environ, "SARAI_DRAFT_TARGET": server.target, "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", "\n".join(blocks("sh"))],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    verdict, *colours = done.stdout.split("\n", 1)
    assert verdict in {"yes", "no"}
    assert set(json.loads("".join(colours))) <= {"red", "blue"}
    assert isinstance(json.loads((tmp_path / "ana.json").read_text()), dict)
