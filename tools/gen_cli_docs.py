"""Write docs/cli.md from the help texts and the table of exit codes.

`python -m tools.gen_cli_docs` writes it; with `--check` it fails if it is not up to date.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from core.cli.app import cli
from core.cli.common import ExitCode

PATH = Path(__file__).parents[1] / "docs" / "cli.md"

_HEAD = """\
# The command line

<!-- Written by `python -m tools.gen_cli_docs` from the help texts; do not edit. -->

The answer goes to standard output, everything else (progress, figures, errors) to standard error, so that
`sarai loop "…" > answer.txt` holds only the answer. `--json` turns standard output into JSON, one object per line. On a
terminal `sarai loop` shows drafts, reflections and corrections while they are written; an answer that is already shown
is not printed again.

On a terminal `sarai draft` and `sarai chat` render Markdown as it arrives; `--no-markdown` shows the answer
unrendered, as does `--raw`, which for `sarai draft` also omits the chat template. A pipe, a file and `TERM=dumb` get it
unrendered.

Only terminals get colours, unless `NO_COLOR` or `FORCE_COLOR` is set (`NO_COLOR` takes precedence); `TERM=dumb` gets
none. Ctrl-C cancels the call, stops what was started for it and exits with 130; in a chat it first ends the answer.

A standard stream that the caller has closed is treated as `/dev/null`. If the answer cannot be written, for example to
a full disk, the exit code is 1.

An option takes precedence over its environment variable. `SARAI_<NAME>_TARGET` names the address of a skill, for
example `SARAI_DRAFT_TARGET=localhost:50051`.

## Exit codes

| code | meaning |
| --- | --- |
"""


def generate() -> str:
    """Return the contents of the whole file."""
    os.environ.pop("COLUMNS", None)
    parts = [_HEAD, *(f"| {code.value} | {code.meaning} |\n" for code in ExitCode)]
    root = click.Context(cli, info_name="sarai", max_content_width=100, terminal_width=100)
    parts.append(_section("sarai", cli.get_help(root)))
    return "".join([*parts, *_sections_below(cli, root)])


def _sections_below(group: click.Group, context: click.Context) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        below = click.Context(command, info_name=name, parent=context, terminal_width=100)
        yield _section(below.command_path, command.get_help(below))
        if isinstance(command, click.Group):
            yield from _sections_below(command, below)


def _section(title: str, text: str) -> str:
    return f"\n## {title}\n\n```text\n{text.rstrip()}\n```\n"


def main() -> int:
    """Write the file, or with --check compare it."""
    text = generate()
    if "--check" not in sys.argv[1:]:
        PATH.parent.mkdir(exist_ok=True)
        PATH.write_text(text)
        return 0
    if PATH.exists() and PATH.read_text() == text:
        return 0
    print(f"{PATH} is not up to date: run python -m tools.gen_cli_docs", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
