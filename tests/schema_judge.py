"""Judge JSON-schema constraints by JSON Schema's own test suite: which are accepted, and whether they are right.

`python -m tests.schema_judge` writes the table in `docs/structured.md`. `SARAI_JSON_SCHEMA_SUITE` names the folder of
the suite, github.com/json-schema-org/JSON-Schema-Test-Suite.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skills.skill_draft.engine.constraint import ConstraintError
from skills.skill_draft.engine.matcher import Matcher
from tests.matching import of_schema, writes

VARIABLE = "SARAI_JSON_SCHEMA_SUITE"
WHERE = f"set {VARIABLE} to a clone of github.com/json-schema-org/JSON-Schema-Test-Suite"
DOCUMENT = Path(__file__).parents[1] / "docs" / "structured.md"
BEGIN, END = "<!-- judged: begin -->\n", "<!-- judged: end -->\n"
# In this draft `format` is only an annotation by default. Here it is checked, so optional/format judges it.
_NOT_JUDGED = {"format"}
# Valid documents that cannot be written, as docs/structured.md explains.
NARROWER = {"date-time": r":60", "time": r":60", "hostname": r"(?i)xn--"}


@dataclass
class Verdict:
    """The results of one keyword's schemas."""

    schemas: int = 0
    taken: int = 0
    right: int = 0
    faults: list[str] = field(default_factory=list)


def suite() -> Path | None:
    """Return the folder of the draft's tests, None if it is not there."""
    root = os.environ.get(VARIABLE)
    folder = Path(root) / "tests" / "draft2020-12" if root else None
    return folder if folder and folder.is_dir() else None


def judge(folder: Path) -> dict[str, Verdict]:
    """Return a verdict for each keyword."""
    verdicts: dict[str, Verdict] = {}
    files = [*sorted(folder.glob("*.json")), *sorted((folder / "optional").rglob("*.json"))]
    for path in files:
        if path.stem in _NOT_JUDGED and path.parent == folder:
            continue
        name = f"format: {path.stem}" if path.parent.name == "format" else path.stem
        verdict = verdicts.setdefault(name, Verdict())
        for group in json.loads(path.read_text(encoding="utf-8")):
            verdict.schemas += 1
            try:
                matcher = of_schema(group["schema"])
            except ConstraintError:
                continue
            verdict.taken += 1
            faults = list(_faults(matcher, group["tests"], NARROWER.get(path.stem)))
            verdict.right += not faults
            verdict.faults += [f"{name}: {group['description']}: {fault}" for fault in faults]
    return verdicts


def _faults(matcher: Matcher, tests: list[dict[str, Any]], narrower: str | None) -> Iterator[str]:
    for test in tests:
        written = [text for text in texts(test["data"]) if writes(matcher, text)]
        if written and not test["valid"]:
            yield f"{written[0][:80]} can be written, and does not fit"
        if not written and test["valid"] and not (narrower and re.search(narrower, json.dumps(test["data"]))):
            yield f"{json.dumps(test['data'])[:80]} fits, and cannot be written"


def texts(document: Any) -> Iterator[str]:
    """Yield a document in several styles, with its keys in each order and its numbers in two spellings."""
    for same in itertools.chain.from_iterable((ordered, _whole(ordered)) for ordered in _orders(document)):
        yield json.dumps(same, ensure_ascii=False)
        yield json.dumps(same, ensure_ascii=False, separators=(",", ":"))
        yield json.dumps(same, ensure_ascii=False, indent=2)


def _orders(document: Any) -> Iterator[Any]:
    if isinstance(document, dict) and len(document) <= 5:
        for keys in itertools.permutations(document):
            for values in itertools.product(*(list(_orders(document[key])) for key in keys)):
                yield dict(zip(keys, values, strict=True))
    elif isinstance(document, list):
        yield from map(list, itertools.islice(itertools.product(*map(list, map(_orders, document))), 100))
    else:
        yield document


def _whole(document: Any) -> Any:
    """Return the document with 1.0 as 1, which is the same number in JSON."""
    if isinstance(document, dict):
        return {key: _whole(value) for key, value in document.items()}
    if isinstance(document, list):
        return [_whole(value) for value in document]
    return int(document) if isinstance(document, float) and document.is_integer() else document


def table(verdicts: dict[str, Verdict]) -> str:
    """Return the verdicts as a Markdown table."""
    lines = ["| tests of | schemas | taken | right |", "| --- | --- | --- | --- |"]
    total = Verdict()
    for name, verdict in verdicts.items():
        lines.append(f"| {name} | {verdict.schemas} | {verdict.taken} | {verdict.right} |")
        total.schemas, total.taken, total.right = (
            total.schemas + verdict.schemas, total.taken + verdict.taken, total.right + verdict.right
        )  # fmt: skip
    lines.append(f"| **all** | {total.schemas} | {total.taken} | {total.right} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the table; print the faults, and return 1 if there are any."""
    if (folder := suite()) is None:
        print(f"no test suite: {WHERE}", file=sys.stderr)
        return 2
    verdicts = judge(folder)
    text = DOCUMENT.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}{table(verdicts)}{END}{after}", encoding="utf-8")
    faults = [fault for verdict in verdicts.values() for fault in verdict.faults]
    print("\n".join(faults), file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
