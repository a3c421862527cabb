from __future__ import annotations

from tools.gen_cli_docs import PATH, generate


def test_docs_hold_the_help_as_it_is() -> None:
    assert PATH.read_text() == generate(), "run: python -m tools.gen_cli_docs"
