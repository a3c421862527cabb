"""Realistic Pydantic models, whose schemas constrain answers."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class Colour(enum.Enum):
    RED = "red"
    QUOTED = 'the "quoted" one'
    PATH = "C:\\temp\\new"
    LINES = "two\nlines\tand a tab"
    HEART = "❤️ 🙂 é"
    MARKUP = "<|im_end|></s>"
    EMPTY = ""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Address(Strict):
    street: str
    zip_code: Annotated[str, Field(pattern=r"^\d{5}$")]
    country: Literal["DE", "AT", "CH"] = "DE"


class Person(Strict):
    name: Annotated[str, Field(min_length=1, max_length=40)]
    age: Annotated[int, Field(ge=0, le=130)] | None = None
    address: Address | None = None
    favourite: Colour
    tags: list[Annotated[str, Field(max_length=12)]] = Field(default_factory=list, max_length=3)


class Tree(Strict):
    value: int
    left: Tree | None = None
    right: Tree | None = None


class Comment(BaseModel):
    text: Annotated[str, Field(max_length=30)]
    replies: list[Comment] = []


class Cat(Strict):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=0, le=9)]


class Dog(Strict):
    kind: Literal["dog"]
    barks: bool


class Owner(Strict):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    second: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None


class Invoice(Strict):
    number: uuid.UUID
    day: dt.date
    sent: dt.datetime | None = None
    at: dt.time
    lasts: dt.timedelta
    total: decimal.Decimal
    net: Annotated[float, Field(gt=0, lt=1e6)]
    host: ipaddress.IPv4Address
    lines: Annotated[list[tuple[int, str]], Field(min_length=1, max_length=2)]


class Anything(Strict):
    payload: Any
    items: list[Any]
    described: Any = Field(description="only a description")
    table: dict[str, float]
    flags: dict[str, bool] = {}


@dataclasses.dataclass
class Point:
    x: float
    y: float
    label: str | None = None


KINDS: list[Any] = [
    *(Person, Tree, Comment, Owner, Invoice, Anything, Point),
    *(list[Person], Cat | Dog, Colour, int | str | None),
]
MODELS: dict[str, TypeAdapter[Any]] = {str(kind): TypeAdapter(kind) for kind in KINDS}
