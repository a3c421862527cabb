"""The key of an answer has all that determines its tokens, and nothing else."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from skills.skill_draft.answer_key import KEYED, UNKEYED, Server, answer_keys, repeats
from skills.skill_draft.request_images import has_images, image_parts
from skills.skill_draft.requests import to_request
from skills.skills_pb2 import CacheControl, Continuation, GenReq, Image, Message, Part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.descriptor import Descriptor

SERVER = Server(identity=b"i" * 32, image_identity=b"v" * 32, exact=True, n_ctx=4096)


def key(message: GenReq, server: Server = SERVER, *, tenant: str = "") -> bytes:
    """Return the key of a message's first answer."""
    return keys(message, server, tenant=tenant)[0]


def keys(message: GenReq, server: Server = SERVER, *, tenant: str = "") -> tuple[bytes, ...]:
    request = to_request(message, id_=1, n_ctx=4096, deadline=None)
    images = image_parts(message) if has_images(message) else []
    return answer_keys(dataclasses.replace(request, tenant=tenant), images, server)


def paths(kind: Descriptor, prefix: str = "") -> Iterator[str]:
    """Yield the paths of all fields of a message."""
    for field in kind.fields:
        yield prefix + field.name
        if field.message_type:
            yield from paths(field.message_type, f"{prefix}{field.name}.")


def chat(*turns: Message, **fields: object) -> GenReq:
    return GenReq(messages=turns, temperature=1, seed=7, **fields)  # type: ignore[arg-type]


def seen(data: bytes = b"a picture", **fields: int) -> GenReq:
    picture = Part(image=Image(data=data, **fields))  # type: ignore[arg-type]
    return chat(Message(role="user", parts=[Part(text="what is it?"), picture]))


PLAIN = GenReq(prompt="Hello", temperature=1, seed=7)
ANSWERED = Message(role="assistant", content="yes", token_ids=[1, 2])


def changed(name: str, value: object) -> Callable[[], tuple[GenReq, GenReq]]:
    """Return a message, and another one with this field changed."""

    def make() -> tuple[GenReq, GenReq]:
        other = GenReq()
        other.CopyFrom(PLAIN)
        setattr(other, name, value)
        return PLAIN, other

    return make


CHANGES: dict[str, Callable[[], tuple[GenReq, GenReq]]] = {
    "prompt": changed("prompt", "Hello "),
    "system": changed("system", "You are brief."),
    "raw": changed("raw", True),
    "temperature": changed("temperature", 0.5),
    "top_p": changed("top_p", 0.5),
    "top_k": changed("top_k", 7),
    "min_p": changed("min_p", 0.5),
    "seed": changed("seed", 8),
    "repeat_penalty": changed("repeat_penalty", 1.5),
    "presence_penalty": changed("presence_penalty", 1.5),
    "frequency_penalty": changed("frequency_penalty", 1.5),
    "grammar": changed("grammar", 'root ::= "a"'),
    "json_schema": changed("json_schema", "{}"),
    "regex": changed("regex", "a"),
    "lark": changed("lark", "start: /a/"),
    "json_object": changed("json_object", True),
    "allow_weaker_schema": lambda: (
        GenReq(prompt="a", json_schema="{}"),
        GenReq(prompt="a", json_schema="{}", allow_weaker_schema=True),
    ),
    "messages": lambda: (PLAIN, chat(Message(role="user", content="Hello"), Message(role="user", content=""))),
    "messages.role": lambda: (chat(Message(role="user", content="a")), chat(Message(role="system", content="a"))),
    "messages.content": lambda: (chat(Message(role="user", content="a")), chat(Message(role="user", content="b"))),
    "messages.token_ids": lambda: (chat(ANSWERED), chat(Message(role="assistant", content="yes", token_ids=[12]))),
    "messages.parts": lambda: (seen(), chat(Message(role="user", content="what is it?"))),
    "messages.parts.text": lambda: (
        chat(Message(role="user", parts=[Part(text="a")])),
        chat(Message(role="user", parts=[Part(text="b")])),
    ),
    "messages.parts.image": lambda: (
        seen(),
        chat(Message(role="user", parts=[*seen().messages[0].parts, Part(image=Image(data=b"a picture"))])),
    ),
    "messages.parts.image.data": lambda: (seen(), seen(b"another picture")),
    "messages.parts.image.sha256": lambda: (
        chat(Message(role="user", parts=[Part(image=Image(sha256=b"1" * 32))])),
        chat(Message(role="user", parts=[Part(image=Image(sha256=b"2" * 32))])),
    ),
    "messages.parts.image.max_tokens": lambda: (seen(), seen(max_tokens=64)),
}


def test_every_field_of_a_request_is_in_the_key_or_has_a_reason_why_not() -> None:
    assert sorted(KEYED | UNKEYED.keys()) == sorted(set(paths(GenReq.DESCRIPTOR)))
    assert not KEYED & UNKEYED.keys()
    assert set(CHANGES) == KEYED


@pytest.mark.parametrize("field", sorted(CHANGES))
def test_another_value_of_a_field_is_another_key(field: str) -> None:
    one, other = CHANGES[field]()
    assert key(one) != key(other)


def test_a_change_of_model_vision_tower_numerics_or_tenant_is_another_key() -> None:
    same = key(PLAIN)
    assert key(PLAIN) == same
    others = [
        key(PLAIN, dataclasses.replace(SERVER, identity=b"j" * 32)),
        key(PLAIN, dataclasses.replace(SERVER, exact=False)),
        key(PLAIN, tenant="another"),
    ]
    assert len({same, *others}) == 4
    blind = dataclasses.replace(SERVER, image_identity=b"w" * 32)
    assert key(PLAIN, blind) == same, "a text's answer does not depend on it"
    assert key(seen(), blind) != key(seen())


def test_what_only_cuts_or_asks_differently_is_the_same_key() -> None:
    same = key(PLAIN)
    for fields in (
        {"max_tokens": 9}, {"stop": ["x"]}, {"top_logprobs": 3}, {"time_budget_ms": 9}, {"priority": 1},
        {"lookup": False}, {"cache": CacheControl(mode=2, max_age_ms=1)}, {"hard_deadline": True},  # type: ignore[arg-type]
        {"progress": True}, {"continuations": [Continuation(token_ids=[1])]}, {"close_json": 5}, {"top_k": 40},
    ):  # fmt: skip
        other = GenReq(**fields)
        other.MergeFrom(PLAIN)
        assert key(other) == same, fields
    turn = Message(role="user", parts=[Part(text="Hel"), Part(text="lo")])
    assert key(chat(turn)) == same


def test_a_greedy_answer_has_no_seed_and_no_filters() -> None:
    greedy = key(GenReq(prompt="a", temperature=0))
    assert key(GenReq(prompt="a", temperature=-0.0, seed=3, top_k=1, top_p=0.1, min_p=0.5)) == greedy
    assert key(GenReq(prompt="a", temperature=0, repeat_penalty=2)) != greedy


def test_candidates_share_keys_whatever_their_number() -> None:
    three = keys(GenReq(prompt="Hello", temperature=1, seed=7, num_candidates=3))
    assert len(set(three)) == 3
    assert keys(GenReq(prompt="Hello", temperature=1, seed=7, num_candidates=2)) == three[:2]
    assert key(PLAIN) == three[0]
    fast = dataclasses.replace(SERVER, exact=False)
    assert keys(GenReq(prompt="a", temperature=0, num_candidates=2), fast)[0] != key(
        GenReq(prompt="a", temperature=0), fast
    )


def test_limits_are_in_the_key_where_tokens_depend_on_them() -> None:
    def closing(n: int, close: int = 9) -> bytes:
        return key(GenReq(prompt="a", temperature=0, json_object=True, max_tokens=n, close_json=close))

    assert len({closing(5), closing(6), closing(5, 8)}) == 3
    assert closing(5, 0) == closing(6, 0)
    fast = dataclasses.replace(SERVER, exact=False)
    whole = [GenReq(prompt="a", temperature=0, max_tokens=n, stop=stop) for n in (5, 6) for stop in ([], ["x"])]
    assert len({key(message, fast) for message in whole}) == 4


def test_what_is_not_understood_or_drawn_at_random_is_not_looked_up() -> None:
    def known(message: GenReq) -> bool:
        return repeats(message, to_request(message, id_=1, n_ctx=4096, deadline=None).sampling)

    assert known(PLAIN)
    assert known(GenReq(prompt="a", temperature=0))
    assert not known(GenReq(prompt="a"))
    newer = PLAIN.SerializeToString() + b"\xfa\x3f\x01x"  # field 1023
    assert not known(GenReq.FromString(newer))
    nested = chat(Message.FromString(ANSWERED.SerializeToString() + b"\xfa\x3f\x01x"))
    assert not known(nested)
