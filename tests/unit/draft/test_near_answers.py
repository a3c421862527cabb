"""Near-equal prompts: what is near, whose answers are found, and in what bounds."""

from __future__ import annotations

import dataclasses
import random

import pytest

from skills.skill_draft.engine.messages import Constraint, ConstraintKind, Image, Request, Tokens, Turn
from skills.skill_draft.flight import Flight
from skills.skill_draft.near_answers import ENTRY_BYTES, MOST_ENTRIES, MOST_TOKENS, SHARE, NearAnswers, sketch_of
from skills.skill_draft.trajectory import End, Trajectory

IDENTITY = b"a model, a build, a kind of CPU"
CARD = "Write a short birthday card for my friend {}, who is {} years old. Mention that we met at school."


def document(seed: int, n: int = 400) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(n))


def asked(prompt: str, **fields: object) -> Request:
    values = {"id": 1, "turns": (Turn(role="user", content=prompt),), **fields}
    return Request(**values)  # type: ignore[arg-type]


def answer_of(*ids: int) -> bytes:
    n = len(ids)
    tokens = Tokens(token_ids=ids, logprobs=(-1.0,) * n, spelling=(b"a",) * n)
    return Trajectory(tokens=tokens, end=End.ENDED, prompt_tokens=9).encode()


class Kept:
    """Answers in memory, and the sketches of their prompts."""

    def __init__(self, max_bytes: int = 64 << 20) -> None:
        self.values: dict[bytes, bytes] = {}
        self.near = NearAnswers(max_bytes, self.values.get)

    def keep(self, request: Request, *ids: int) -> bytes:
        key = b"key of %d" % len(self.values)
        self.values[key] = answer_of(*ids)
        self.near.add(sketch_of(request, IDENTITY), key)
        return key

    def found(self, request: Request, identity: bytes = IDENTITY) -> tuple[int, ...]:
        return self.near.look(request, identity)[1]


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (CARD.format("Alice", 30), CARD.format("Bob", 41)),
        (f"Summarise: {document(1)}", f"Summarise: {document(1).replace('ab', 'ba')}"),
        (document(2) + " What is it about?", document(2) + " Who wrote it?"),
        (document(3), document(3, 390)),
        ("你能告诉我今天北京的天气怎么样吗。我想知道。", "你能告诉我今天上海的天气怎么样吗。我想知道。"),
        ("a" * 900_000, "a" * 900_001),
        ("Hi", "Hi"),
    ],
    ids=["template", "edited", "another question", "shorter", "Chinese", "huge", "tiny"],
)
def test_what_is_near(before: str, now: str) -> None:
    kept = Kept()
    kept.keep(asked(before), 5, 6, 7)
    assert kept.found(asked(now)) == (5, 6, 7)


def test_what_is_not_near() -> None:
    kept = Kept()
    system = Turn(role="system", content=document(9))
    asked_about = "What is the capital of France, and how many people live there?"
    for prompt in (CARD.format("Alice", 30), document(1), "", "Hello", asked_about):
        kept.keep(asked(prompt), 1)
    kept.keep(asked("", turns=(system, Turn(role="user", content=asked_about))), 2)
    for prompt in (document(2), "What is a rainbow?", "x", "Name the largest river in each country of Asia."):
        assert kept.found(asked(prompt)) == ()
        assert kept.found(asked("", turns=(system, Turn(role="user", content=prompt)))) == ()


def test_the_nearest_is_found_and_of_equally_near_ones_the_newest() -> None:
    kept = Kept()
    kept.keep(asked(f"{document(1)} What is it about?"), 1)
    kept.keep(asked(f"{document(1)} Which animals occur in it, and how often?"), 2)
    kept.keep(asked(f"{document(2)} What is it about?"), 3)
    assert kept.found(asked(f"{document(1, 399)} kongo. What is it about?")) == (1,)
    kept.keep(asked(f"{document(1)} What is it about?"), 4)
    assert kept.found(asked(f"{document(1)} What is it about?")) == (4,)


def test_a_conversation_is_near_as_a_whole() -> None:
    def talk(first: str, answer: str) -> Request:
        said = (("user", first), ("assistant", answer), ("user", "Say what is wrong with it, briefly."))
        return asked("", turns=tuple(Turn(role=role, content=text) for role, text in said))

    kept = Kept()
    kept.keep(talk(CARD.format("Alice", 30), document(1, 60)), 1)
    kept.keep(talk("What is a rainbow?", document(2, 60)), 2)
    assert kept.found(talk(CARD.format("Bob", 31), document(1, 58))) == (1,)
    assert kept.found(talk("What is a river?", document(3, 60))) == ()


def test_images_and_constraints_count_like_text() -> None:
    def look(number: int, text: str) -> Request:
        image = Image(key=number.to_bytes(32), across=2, down=2)
        return asked("", turns=(Turn(role="user", parts=(image, text)),))

    kept = Kept()
    kept.keep(look(1, "What is in the image? Name it in a word."), 1)
    assert kept.found(look(1, "What is in the image? Name it in two words.")) == (1,)
    kept.keep(asked("List them.", constraint=Constraint(kind=ConstraintKind.JSON_SCHEMA, text=document(1))), 2)
    assert kept.found(asked("List them.")) == ()


def test_nobody_finds_what_another_tenant_or_another_model_has_written() -> None:
    kept, prompt = Kept(), CARD.format("Alice", 30)
    kept.keep(asked(prompt, tenant="a"), 1)
    assert kept.found(asked(prompt, tenant="a")) == (1,)
    assert kept.found(asked(prompt, tenant="b")) == kept.found(asked(prompt)) == ()
    assert kept.found(asked(prompt, tenant="a"), b"another model") == ()
    assert kept.found(asked("", turns=(), raw=prompt, tenant="a")) == ()
    # Not even if the numbers by which contexts are told apart at first were equal.
    kept.near._contexts[:] = kept.near._contexts[0]
    assert kept.found(asked(prompt, tenant="b")) == ()


def test_a_request_without_lookup_looks_for_nothing() -> None:
    kept, prompt = Kept(), CARD.format("Alice", 30)
    kept.keep(asked(prompt), 1)
    assert kept.found(asked(prompt, lookup=False)) == ()


def test_what_memory_has_no_more_is_not_found() -> None:
    kept, request = Kept(), asked(CARD.format("Alice", 30))
    keys = [kept.keep(request, i) for i in range(3)]
    for i in (2, 1, 0):
        assert kept.found(request) == (i,)
        del kept.values[keys[i]]
    assert kept.found(request) == ()
    kept.keep(request, 9)
    kept.near.clear()
    assert kept.found(request) == ()


def test_the_newest_ones_are_remembered_within_a_bound() -> None:
    kept = Kept(1 << 20)
    n = int((1 << 20) * SHARE) // ENTRY_BYTES
    for i in range(n + 9):
        kept.keep(asked(document(i)), i)
    assert len(kept.near._entries) == n < MOST_ENTRIES
    assert kept.found(asked(document(8))) == ()
    assert all(kept.found(asked(document(i))) == (i,) for i in (9, 10, n, n + 8))
    assert NearAnswers(1 << 40, kept.values.get).bytes == MOST_ENTRIES * ENTRY_BYTES
    nothing = Kept(100)
    nothing.keep(asked("Hello there."), 1)
    assert nothing.found(asked("Hello there.")) == ()


def test_an_answer_of_any_length_is_given_up_to_a_bound_and_a_damaged_one_in_part_or_not_at_all() -> None:
    kept, request = Kept(), asked(CARD.format("Alice", 30))
    key = kept.keep(request, *range(MOST_TOKENS + 9))
    assert kept.found(request) == tuple(range(MOST_TOKENS))
    whole = kept.values[key]
    for n in (0, 1, 16, 17, 40, 60, 100):
        kept.values[key] = whole[:n]
        assert len(kept.found(request)) <= n / 4
    kept.values[key] = bytes(len(whole))
    assert kept.found(request) == ()


def test_a_hint_is_in_no_fingerprint_and_goes_to_no_second_engine() -> None:
    request = asked("Hello there.")
    flight, plain = Flight(dataclasses.replace(request, hint=(1, 2, 3))), Flight(request)
    assert flight.fingerprint == plain.fingerprint
    assert flight.resumed().hint == (1, 2, 3)
    flight.lost_engine = True
    assert flight.resumed() == plain.resumed() == request
