"""What a constraint allows the tiny model to write, token by token."""

from __future__ import annotations

import functools
import json

from skills.skill_draft.engine.binding import Model, ModelParams
from skills.skill_draft.engine.constraint import ConstraintError
from skills.skill_draft.engine.matcher import Matcher, Matchers
from skills.skill_draft.engine.messages import Constraint, ConstraintKind
from tests.engine.harness import TINY


@functools.cache
def model() -> Model:
    return Model(TINY, ModelParams())


@functools.cache
def matchers() -> Matchers:
    return Matchers(model().vocab)


def start(kind: ConstraintKind, text: str, *, allow_weaker: bool = False) -> Matcher:
    return matchers().start(Constraint(kind=kind, text=text, allow_weaker=allow_weaker))


def of_schema(schema: object, *, allow_weaker: bool = False) -> Matcher:
    return start(ConstraintKind.JSON_SCHEMA, json.dumps(schema), allow_weaker=allow_weaker)


def refusal(kind: ConstraintKind, text: str) -> str:
    """Return why a constraint is refused; empty if it is not."""
    try:
        start(kind, text)
    except ConstraintError as error:
        return str(error)
    return ""


def writes(beginning: Matcher, text: str) -> bool:
    """Return whether the masks allow each token of the text, and the end of the answer after it."""
    matcher, vocab = beginning.copy(), model().vocab
    for token in vocab.tokenize(text, add_special=False, parse_special=False):
        try:
            if not matcher.allowed()[token]:
                return False
            matcher.accept(token)
        except ConstraintError:
            return False
    return bool(matcher.allowed()[sorted(vocab.eog)].all())
