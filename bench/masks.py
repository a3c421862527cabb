"""Measure the cost of a constraint: of compiling it, and of a mask of the tokens that may come next.

`python -m bench masks`. Answers are walked through token by token, as in the engine. Milliseconds to compile a new
constraint, and microseconds a mask at the median.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

from bench.run import model_path
from skills.skill_draft.engine.binding import Model, ModelParams
from skills.skill_draft.engine.matcher import Matchers
from skills.skill_draft.engine.messages import Constraint, ConstraintKind

_SCHEMA = json.dumps({
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["person", "place", "thing"]}, "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age", "kind", "tags"], "additionalProperties": False,
})  # fmt: skip
_ANSWER = '{"name": "Ada Lovelace", "age": 36, "kind": "person", "tags": ["mathematics", "poetry"]}'
_CASES = {
    "JSON schema": (ConstraintKind.JSON_SCHEMA, _SCHEMA, _ANSWER),
    "regular expression": (ConstraintKind.REGEX, "(yes|no), because [a-z ]{5,60}\\.", "yes, because water wets all."),
    "GBNF": (ConstraintKind.GRAMMAR, 'root ::= ("red" | "blue" | " ")+', "red blue red blue"),
    "GBNF with recursion": (ConstraintKind.GRAMMAR, 'root ::= [a-z ] root | "."', "red blue red blue."),
}
_ROUNDS = 5


def masks() -> int:
    """Print a table for both models."""
    sys.stdout.write("| model | constraint | compile, ms | mask, µs |\n| --- | --- | --- | --- |\n")
    for name in ("135m", "4b"):
        _of_model(name, model_path(name))
    return 0


def _of_model(name: str, path: Path) -> None:
    model = Model(path, ModelParams(mmap=True, repack=False))
    warm = Matchers(model.vocab)
    warm.start(Constraint(kind=ConstraintKind.REGEX, text="warm up"))
    for label, (kind, text, answer) in _CASES.items():
        constraint = Constraint(kind=kind, text=text)
        begin = time.perf_counter()
        warm.start(constraint)
        compiling = time.perf_counter() - begin
        times: list[float] = []
        for _ in range(_ROUNDS):
            matcher = warm.start(constraint)
            for token in model.vocab.tokenize(answer, add_special=False, parse_special=False):
                begin = time.perf_counter()
                allowed = matcher.allowed()
                times.append(time.perf_counter() - begin)
                if not allowed[token]:
                    raise AssertionError(f"{answer!r} does not fit the {label}")
                matcher.accept(token)
        sys.stdout.write(f"| {name} | {label} | {compiling * 1e3:.1f} | {statistics.median(times) * 1e6:.0f} |\n")
