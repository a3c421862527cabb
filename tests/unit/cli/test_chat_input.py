from __future__ import annotations

from collections.abc import Sequence

import pytest

from core.cli.chat_input import ReadLine, Turn, read_turns


def lines(*typed: str) -> ReadLine:
    left = list(typed)

    def read_line(_: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    return read_line


@pytest.mark.parametrize(
    ("typed", "turns"),
    [
        (["a", "b"], ["a", "b"]),
        (["", "  ", "a"], ["a"]),
        (["a\\", "b\\", "c", "d"], ["a\nb\nc", "d"]),
        (['"""a', "", 'b"""', "c"], ["a\n\nb", "c"]),
        (['"""', "a", '"""'], ["a"]),
        (['"""one line"""', "b"], ["one line", "b"]),
        (['"""a', "b"], ["a\nb"]),
        (["a\\"], ["a\n"]),
        ([], []),
    ],
)
def test_turns_may_have_several_lines(typed: Sequence[str], turns: list[str]) -> None:
    assert [turn.text for turn in read_turns(lines(*typed))] == turns


def test_turn_knows_whether_it_was_quoted() -> None:
    turns = read_turns(lines("/a", ' """/b"""', " /c"))
    assert list(turns) == [Turn("/a"), Turn("/b", quoted=True), Turn(" /c")]


def test_prompt_shows_that_a_turn_goes_on() -> None:
    shown = []
    left = ["a\\", "b", '"""', "c", '"""']

    def read_line(prompt: str) -> str:
        shown.append(prompt)
        if not left:
            raise EOFError
        return left.pop(0)

    assert [turn.text for turn in read_turns(read_line)] == ["a\nb", "c"]
    assert shown == ["> ", ". ", "> ", ". ", ". ", "> "]
