"""Random pairs of requests: their answers have the same key exactly where they must be equal."""

from __future__ import annotations

import random

from skills import skills_pb2
from skills.skill_draft.answer_key import Server, answer_keys
from skills.skill_draft.request_images import has_images, image_parts
from skills.skill_draft.requests import to_request
from skills.skills_pb2 import GenReq, Image, Message, Part

SERVER = Server(identity=b"i" * 32, image_identity=b"v" * 32, exact=True, n_ctx=4096)
PAIRS = 10_000


def some_turns(draw: random.Random) -> list[Message]:
    """Return a short conversation from few words, so that equal ones are frequent."""
    turns = []
    for _ in range(draw.choice((1, 1, 2))):
        role, text = draw.choice(("user", "system")), draw.choice(("a", "b", "ab"))
        parts = [Part(text=piece) for piece in (text if draw.random() < 0.5 else (text,))]
        if draw.random() < 0.3:
            parts.append(Part(image=Image(data=draw.choice((b"1", b"2")), max_tokens=draw.choice((64, 576)))))
            turns.append(Message(role=role, parts=parts))
        else:
            turns.append(Message(role=role, parts=parts) if draw.random() < 0.5 else Message(role=role, content=text))
    return turns


def some_request(draw: random.Random) -> GenReq:
    request = GenReq(
        temperature=draw.choice((0, 0, 1)), seed=draw.choice((1, 2)), top_k=draw.choice((40, 5)),
        repeat_penalty=draw.choice((1, 1, 2)), max_tokens=draw.choice((5, 6)), stop=draw.choice(([], ["x"])),
        close_json=draw.choice((0, 9)), priority=skills_pb2.Priority.ValueType(draw.randrange(2)),
        lookup=draw.choice((True, False)),
        top_logprobs=draw.choice((0, 2)), time_budget_ms=draw.choice((0, 100)),
    )  # fmt: skip
    match draw.randrange(4):
        case 0:
            request.prompt = draw.choice(("a", "b"))
            request.raw = draw.random() < 0.5
        case _:
            request.messages.extend(some_turns(draw))
    if draw.random() < 0.2 and not request.raw:
        request.system = draw.choice(("a", "b"))
    if draw.random() < 0.3:
        setattr(request, *draw.choice((("regex", "a"), ("grammar", "a"), ("json_object", True))))
    return request


def decides(request: GenReq) -> object:
    """Return, written independently of the key, what determines the tokens of a request's answer."""
    turns = [("system", request.system)] if request.system else []
    turns += [("user", request.prompt)] if request.prompt and not request.raw else []
    for turn in request.messages:
        if any(part.HasField("image") for part in turn.parts):
            kinds = [(p.text, p.image.data, p.image.max_tokens) for p in turn.parts]
            turns.append((turn.role, str(kinds)))
        else:
            turns.append((turn.role, turn.content or "".join(part.text for part in turn.parts)))
    kind = request.WhichOneof("constraint")
    drawn = (request.temperature, request.top_k, request.seed) if request.temperature else ()
    closes = (request.close_json, request.max_tokens) if kind == "json_object" and request.close_json else ()
    constraint = (kind, str(getattr(request, kind))) if kind else ()
    return request.raw and request.prompt, turns, drawn, request.repeat_penalty, constraint, closes


def key(request: skills_pb2.GenReq) -> bytes:
    images = image_parts(request) if has_images(request) else []
    return answer_keys(to_request(request, id_=1, n_ctx=4096, deadline=None), images, SERVER)[0]


def test_keys_are_equal_exactly_where_answers_must_be() -> None:
    draw, equal = random.Random(18), 0
    for _ in range(PAIRS):
        one = some_request(draw)
        other = GenReq()
        other.CopyFrom(one)
        if draw.random() < 0.5:
            other = some_request(draw)
        else:  # a near one
            changed = some_request(draw)
            name = draw.choice([field.name for field, _ in changed.ListFields() if not field.message_type])
            if name not in ("prompt", "raw", "system"):
                other.ClearField(name)  # type: ignore[arg-type]
                other.MergeFrom(GenReq(**{name: getattr(changed, name)}))
        same = decides(one) == decides(other)
        assert (key(one) == key(other)) == same, f"{one}\n---\n{other}"
        equal += same
    assert PAIRS / 10 < equal < PAIRS * 0.9, "both kinds of pairs are frequent"
