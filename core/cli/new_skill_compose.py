"""Adds a service to a compose file as a person would: at the end of `services`, and nothing else is touched."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pathlib import Path

_ANCHOR = "&skill"


def add_service(file: Path, name: str, service: str) -> str:
    """The file's text with the service in it; as it is, where it has one of this name already.

    A YAML library would lose the comments, and the order and the anchors with them.

    Args:
        file: a compose file with the anchor `&skill`, which the service refers to.
        name: the service's name.
        service: its entry, indented by two spaces, with an empty line before it.

    Raises:
        click.UsageError: the file is not there, or is not of this kind.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise click.UsageError(f"{file} is not there; the new skill would be a service of it") from None
    section = re.search(r"^services:[ \t]*(#.*)?\n", text, re.MULTILINE)
    if section is None or _ANCHOR not in text:
        raise click.UsageError(f"{file} has no `services:`, or no `x-skill: {_ANCHOR}` that a service can refer to")
    # The section ends where a line begins at the margin again, comments at the margin before that included.
    after = re.compile(r"^(?:(?:#.*|[ \t]*)\n)*^[^\s#]", re.MULTILINE).search(text, section.end())
    end = after.start() if after else len(text)
    if re.search(rf"^  {re.escape(name)}:", text[section.end() : end], re.MULTILINE):
        return text
    body = text[:end].rstrip("\n") + "\n" + service
    return body + ("\n" + text[end:].lstrip("\n") if after else "")
