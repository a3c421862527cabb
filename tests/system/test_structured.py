"""Answers as objects, against a skill with scripted answers."""

from __future__ import annotations

import asyncio
import enum
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, assert_type

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from typing_extensions import TypedDict

from core.errors import AnswerError, ConfigError, CutAnswerError, InvalidAnswerError
from core.pool.aio import AsyncSkillClient
from core.pool.client import SkillClient
from core.pool.structured import shape_of
from skills import skills_pb2
from tests.servers import ROOT
from tests.stub_plugin import client_of
from tests.stub_skill import Reply, StubSkill
from tests.system.test_aio import with_client


class Mood(enum.Enum):
    HAPPY = "happy"
    ODD = 'a "quoted" \\ 😀'


class Town(BaseModel):
    name: str


class Person(BaseModel):
    name: str
    age: Annotated[int, Field(ge=0)]
    mood: Mood = Mood.HAPPY
    town: Town | None = None
    friends: list[Person] = []


@dataclass
class Point:
    x: int
    tags: list[str] = field(default_factory=list)


class Book(TypedDict):
    title: str


class Even(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def is_even(cls, number: int) -> int:
        if number % 2:
            raise ValueError("must be even")
        return number


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


ANSWERS: list[tuple[Any, str, object]] = [
    (
        Person,
        '{"name": "Ana", "age": 3, "mood": "happy", "town": {"name": "Lugo"}, "friends": [{"name": "B", "age": 0}]}',
        Person(name="Ana", age=3, town=Town(name="Lugo"), friends=[Person(name="B", age=0)]),
    ),
    (Point, '{"x": 1, "tags": ["a"]}', Point(1, ["a"])),
    (Book, '{"title": "t"}', {"title": "t"}),
    (list[Point], '[{"x": 1}]', [Point(1)]),
    (Mood, json.dumps(Mood.ODD.value), Mood.ODD),
    (Literal["a", "b"], '"b"', "b"),
    (int | None, "null", None),
    ({"type": "array"}, "[1, 2]", [1, 2]),
    ('{"type": "array"}', "[1, 2]", [1, 2]),
]
SCHEMA = {"type": "object", "properties": {"ñ": {"type": "string"}}}

Ask = Callable[..., Any]


def ask_sync(target: str, *arguments: Any, **settings: Any) -> Any:
    with client_of(target) as client:
        return client.generate_json(*arguments, **settings)


def ask_async(target: str, *arguments: Any, **settings: Any) -> Any:
    return with_client(target, lambda client: client.generate_json(*arguments, **settings))


@pytest.fixture(params=[ask_sync, ask_async])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Return a function that asks by one of the two clients."""
    chosen: Ask = request.param
    return chosen


def refused(text: str, schema: object, *, reason: int = skills_pb2.FINISH_REASON_STOP, **fields: Any) -> AnswerError:
    reply = Reply(text=text, finish_reason=skills_pb2.FinishReason.ValueType(reason))
    with StubSkill(reply) as skill, pytest.raises(AnswerError) as caught:
        ask_sync(skill.target, "x", schema, **fields)
    return caught.value


@pytest.mark.parametrize(("schema", "text", "answer"), ANSWERS)
def test_answer_is_an_object_of_the_type(ask: Ask, schema: Any, text: str, answer: object) -> None:
    with StubSkill(text) as skill:
        assert ask(skill.target, "Who?", schema) == answer
        (request,) = skill.requests
    assert request.prompt == "Who?"
    assert isinstance(json.loads(request.json_schema), dict)


def test_schema_goes_out_as_it_is(ask: Ask) -> None:
    with StubSkill("{}") as skill:
        ask(skill.target, "x", SCHEMA)
        ask(skill.target, "x", json.dumps(SCHEMA))
        assert [request.json_schema for request in skill.requests] == [
            '{"type":"object","properties":{"ñ":{"type":"string"}}}'
        ] * 2


def test_further_arguments_are_fields_of_the_request(ask: Ask) -> None:
    turns = [skills_pb2.Message(role="user", content="Hi"), skills_pb2.Message(role="user", content="Who?")]
    with StubSkill("{}") as skill:
        ask(skill.target, turns, {}, timeout=30, max_tokens=7, temperature=0, seed=3, system="s", close_json=9)
        (call,) = skill.calls
    expected = skills_pb2.GenReq(
        messages=turns, json_schema="{}", max_tokens=7, temperature=0, seed=3, system="s", close_json=9
    )
    assert call.request == expected
    assert call.time_remaining_s is not None
    assert 20 < call.time_remaining_s <= 30.2  # gRPC rounds timeouts up


@pytest.mark.parametrize("type_", [Town, Point, Book])
def test_fields_are_all_the_keys_that_there_are(type_: Any) -> None:
    assert json.loads(shape_of(type_).json_schema)["additionalProperties"] is False


def test_type_that_allows_more_keys_keeps_them() -> None:
    assert json.loads(shape_of(Open).json_schema)["additionalProperties"] is True
    assert json.loads(shape_of(dict[str, int]).json_schema)["additionalProperties"] == {"type": "integer"}


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        (skills_pb2.FINISH_REASON_LENGTH, "max_tokens"),
        (skills_pb2.FINISH_REASON_TIME_BUDGET, "time_budget_ms"),
        (skills_pb2.FINISH_REASON_CONTEXT_FULL, "shorter prompt"),
        (skills_pb2.FINISH_REASON_STOP_STRING, "stop strings"),
    ],
)
def test_answer_that_was_cut_off_says_what_to_do_and_what_there_is(reason: int, advice: str) -> None:
    for fields in ({}, {"close_json": 1}):
        error = refused('{"name": "An', Person, reason=reason, **fields)
        assert isinstance(error, CutAnswerError)
        assert error.caller_fault
        assert advice in str(error)
        assert error.text == error.response.text == '{"name": "An'


def test_number_that_was_cut_off_is_not_taken_for_whole() -> None:
    assert isinstance(refused("12", int, reason=skills_pb2.FINISH_REASON_LENGTH), CutAnswerError)


def test_answer_that_was_brought_to_its_end_is_whole(ask: Ask) -> None:
    with StubSkill(Reply(text='{"name": "An"}', finish_reason=skills_pb2.FINISH_REASON_LENGTH)) as skill:
        assert ask(skill.target, "x", Town, close_json=8) == Town(name="An")
        with pytest.raises(CutAnswerError):
            ask(skill.target, "x", Town)


def test_what_no_schema_can_say_is_validated() -> None:
    error = refused('{"number": 3}', Even)
    assert isinstance(error, InvalidAnswerError)
    assert isinstance(error.error, ValidationError)
    assert error.__cause__ is error.error
    assert str(error) == "the answer is no valid Even: number: Value error, must be even"
    assert error.text == '{"number": 3}'


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
@pytest.mark.parametrize("schema", [{}, Person])
def test_answer_of_a_skill_that_holds_to_no_schema_is_invalid(schema: object, text: str) -> None:
    assert isinstance(refused(text, schema), InvalidAnswerError)


@pytest.mark.parametrize(
    "error",
    [
        refused('{"number": 3}', Even),
        refused("{", {}),
        refused("{", {}, reason=skills_pb2.FINISH_REASON_LENGTH),
    ],
)
def test_errors_come_through_pickle_whole(error: AnswerError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.text, copy.response) == (type(error), str(error), error.text, error.response)
    assert str(vars(copy).get("error")) == str(vars(error).get("error"))


@pytest.mark.parametrize("schema", ["{", "Person", {"enum": {1}}, {"enum": [b""]}, print, 3])
def test_schema_that_is_none_is_refused_before_anything_is_sent(ask: Ask, schema: object) -> None:
    with StubSkill() as skill:
        with pytest.raises(ConfigError):
            ask(skill.target, "x", schema)
        assert skill.requests == []


@pytest.mark.parametrize("fields", [{"grammar": 'root ::= "a"'}, {"regex": "a"}, {"json_object": True}])
def test_another_constraint_in_addition_to_the_schema_is_refused(ask: Ask, fields: dict[str, Any]) -> None:
    with StubSkill() as skill, pytest.raises(ConfigError, match=next(iter(fields))):
        ask(skill.target, "x", Person, **fields)


def test_field_that_there_is_not_is_named(ask: Ask) -> None:
    with StubSkill() as skill, pytest.raises(ValueError, match="max_token_s"):
        ask(skill.target, "x", Person, max_token_s=3)


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_json_schema_needs_no_pydantic() -> None:
    code = "import sys, core.pool.client, core.pool.aio, core.omni_loop; from core.pool.structured import shape_of; "
    code += "print(shape_of({}).read('[1]'), [name for name in sys.modules if name.startswith('pydantic')])"
    assert run_python(code) == "[1] []\n"


def test_a_type_without_pydantic_is_an_error_that_names_it() -> None:
    code = "import sys; sys.modules['pydantic'] = None\n"
    code += "from core.pool.structured import shape_of\nfrom core.errors import ConfigError\n"
    code += "try:\n    shape_of(list[int])\nexcept ConfigError as error:\n    print(error)"
    assert "pip install pydantic" in run_python(code)


def types_are_known_to_the_checker(client: SkillClient) -> None:
    assert_type(client.generate_json("x", Person), Person)
    assert_type(client.generate_json("x", Point, temperature=0), Point)
    assert_type(client.generate_json("x", list[Person]), list[Person])
    assert_type(client.generate_json("x", {"type": "object"}), Any)


async def types_are_known_to_the_checker_of_async_code(client: AsyncSkillClient) -> None:
    assert_type(await client.generate_json("x", Person), Person)
    assert_type(await client.generate_json("x", "{}"), Any)
    await asyncio.sleep(0)
