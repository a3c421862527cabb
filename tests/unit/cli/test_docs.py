from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from core.cli.app import cli
from tools.gen_cli_docs import PATH, generate

ROOT = Path(__file__).parents[3]
DOCUMENTS = [path for path in (*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("skills/*/README.md"))
             if ".venv" not in path.parts]  # fmt: skip


def test_docs_hold_the_help_as_it_is() -> None:
    assert PATH.read_text() == generate(), "run: python -m tools.gen_cli_docs"


def written_commands(text: str) -> Iterator[list[str]]:
    """Return the arguments of each `sarai …` in the code of a document."""
    fenced = [line for block in re.findall(r"^```(?:sh|text)\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for line in
              block.replace("\\\n", "").splitlines()]  # fmt: skip
    indented = re.findall(
        r"^ {4}(\S.*)", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    inline = re.findall(r"`((?:\.venv/bin/)?sarai [^`]+)`", text)
    for line in (*fenced, *indented, *inline):
        words = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
        words.whitespace_split = True
        found: list[str] | None = None
        begins = True
        with contextlib.suppress(ValueError):  # prose with an apostrophe
            for word in (*words, ";"):
                ends = set(word) <= set("|&;<>()")
                if found is not None and ends:
                    yield found
                    found = None
                elif found is not None:
                    found.append(word)
                elif begins and word in ("sarai", ".venv/bin/sarai"):
                    found = []
                begins = ends or (begins and ("=" in word or word in ("until", "timeout", "$")))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_options_in_documents_are_those_that_there_are(document: Path) -> None:
    for words in written_commands(document.read_text(encoding="utf-8")):
        command: click.Command = cli
        arguments = list(words)
        while isinstance(command, click.Group) and arguments and arguments[0][0] not in "-…[":
            found = command.get_command(click.Context(command), arguments.pop(0))
            assert found is not None, f"there is no command in `sarai {shlex.join(words)}`"
            command = found
        if isinstance(command, click.Group):
            continue
        # A file that is only an example is no fault, an option that does not exist is.
        with contextlib.suppress(click.BadParameter, click.BadOptionUsage, click.exceptions.Exit):
            command.make_context("sarai", arguments)
