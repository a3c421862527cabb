"""What may be shown: whole characters, and nothing that may still become a stop string."""

from __future__ import annotations

from skills.skill_draft.engine.text import TextAssembler


def run(pieces: list[bytes], stop: tuple[str, ...]) -> tuple[list[tuple[str, int]], TextAssembler, bool]:
    assembler = TextAssembler(stop)
    shown = []
    for piece in pieces:
        if assembler.push(piece):
            shown.append(assembler.release(final=True))
            return shown, assembler, True
        shown.append(assembler.release())
    shown.append(assembler.release(final=True))
    return shown, assembler, False


def test_a_character_is_held_until_it_is_whole() -> None:
    shown, _, _ = run([b"\xf0\x9f", b"\x99", b"\x82", b"!"], ())
    assert [piece for piece, _ in shown] == ["", "", "🙂", "!", ""]


def test_what_may_become_a_stop_string_is_held_and_then_shown() -> None:
    shown, _, _ = run([b"a", b"EN", b"x"], ("END",))
    assert [piece for piece, _ in shown] == ["a", "", "ENx", ""]
