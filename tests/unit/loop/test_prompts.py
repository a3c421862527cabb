from __future__ import annotations

import pytest

from core.loop.prompts import (
    NOTHING_TO_CORRECT,
    Language,
    correction_prompt,
    detect_language,
    finds_nothing,
    reflection_prompt,
)

LANGUAGES: tuple[Language, ...] = ("en", "es")


@pytest.mark.parametrize(
    ("prompt", "language"),
    [
        ("Explain how a rainbow forms", "en"),
        ("Write a haiku", "en"),
        ("Hello", "en"),
        ("2 + 2", "en"),
        ("", "en"),
        ("What does the Spanish word «el» mean?", "en"),
        ("Explica cómo se forma un arco iris", "es"),
        ("¿Quién?", "es"),
        ("Niña", "es"),
        ("Escribe un poema sobre el mar", "es"),
        ("¿Qué significa la palabra inglesa «the»?", "es"),
    ],
)
def test_language_is_that_of_the_prompt(prompt: str, language: str) -> None:
    assert detect_language(prompt) == language


@pytest.mark.parametrize(
    "reflection",
    [
        "NOTHING TO CORRECT",
        "Nothing to correct.",
        '"NOTHING TO CORRECT"',
        "**Nothing to correct!**",
        "NOTHING_TO_CORRECT",
        "There is nothing to correct.",
        "There's nothing to correct in this answer.",
        "The answer is right and complete. NOTHING TO CORRECT",
        "Verdict: nothing to correct",
        "No corrections needed.",
        "NADA QUE CORREGIR",
        "No hay nada que corregir en la respuesta.",
        "Nada más que corregir",
        "",
        " \n ",
        "...",
    ],
)
def test_verdict_is_recognised(reflection: str) -> None:
    assert finds_nothing(reflection)


@pytest.mark.parametrize(
    "reflection",
    [
        "The capital is wrong.",
        "There is nothing to correct except the date.",
        "Nothing to correct, but the date is missing.",
        "NOTHING TO CORRECT. However, the date is missing.",
        "If it is right and complete, reply with exactly: NOTHING TO CORRECT",
        "I would not say that there is nothing to correct here at all, since the date is wrong.",
        "No hay nada que corregir salvo la fecha.",
        "Nada que corregir, pero falta la fecha.",
        "Si es correcta, responde exactamente: NADA QUE CORREGIR",
        "1. Correct the date.",
        "nothing",
    ],
)
def test_points_to_correct_are_no_verdict(reflection: str) -> None:
    assert not finds_nothing(reflection)


@pytest.mark.parametrize("language", LANGUAGES)
def test_phrase_that_is_asked_for_is_the_phrase_that_is_understood(language: Language) -> None:
    assert NOTHING_TO_CORRECT[language] in reflection_prompt(language)
    assert finds_nothing(NOTHING_TO_CORRECT[language])


@pytest.mark.parametrize("language", LANGUAGES)
def test_our_own_words_repeated_are_no_verdict(language: Language) -> None:
    assert not finds_nothing(reflection_prompt(language))
    assert not finds_nothing(correction_prompt(language, "2 + 2"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_prompts_are_in_their_language(language: Language) -> None:
    assert detect_language(reflection_prompt(language)) == language
    assert detect_language(correction_prompt(language, "2 + 2")) == language


@pytest.mark.parametrize("language", LANGUAGES)
def test_short_question_is_asked_again_and_a_long_one_is_not(language: Language) -> None:
    assert correction_prompt(language, "What is it?").endswith(": What is it?")
    assert "x" * 1001 not in correction_prompt(language, "x" * 1001)
