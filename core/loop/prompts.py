"""The loop's prompts, in English and Spanish, and how it reads the answers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

Language = Literal["en", "es"]

NOTHING_TO_CORRECT: Mapping[Language, str] = MappingProxyType(
    {"en": "NOTHING TO CORRECT", "es": "NADA QUE CORREGIR"},
)
"""What the model is asked to say if its answer can stay as it is."""

# Short on purpose: small models mistake long instructions for the subject, and answer those.
_REFLECTION: Mapping[Language, str] = MappingProxyType(
    {
        "en": "Is anything in your answer wrong or missing? Say what, briefly. If not, say: {phrase}",
        "es": "¿Hay algo incorrecto en tu respuesta, o falta algo? Di qué, brevemente. Si no, di: {phrase}",
    }
)
_CORRECTION: Mapping[Language, str] = MappingProxyType(
    {
        "en": "Write your answer again, corrected and complete, and nothing else",
        "es": "Escribe de nuevo tu respuesta, corregida y completa, y nada más",
    }
)
_REPEATED_CHARACTERS = 1000
"""A question up to this length is repeated for the correction; a longer one would cost more than it helps."""


def reflection_prompt(language: Language) -> str:
    """Return the prompt that asks the model to review its answer."""
    return _REFLECTION[language].format(phrase=NOTHING_TO_CORRECT[language])


def correction_prompt(language: Language, question: str) -> str:
    """Return the prompt that asks the model to write its answer again after a reflection.

    Args:
        language: `en` or `es`.
        question: What to answer. Unless it is repeated, small models repeat the reflection.
    """
    words = _CORRECTION[language]
    return f"{words}: {question}" if len(question) <= _REPEATED_CHARACTERS else f"{words}."


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.casefold())


# The most common words that do not exist in the other language, as "a", "me", "he" and "no" do.
_ENGLISH = frozenset(
    _words(
        "the of and to in is are was that it for on with as what how why when where who which this be by at from or an "
        "does do can will would should explain write tell about your you i my their have has not"
    )
)
_SPANISH = frozenset(
    _words(
        "el la los las de del y en que es un una por para con como cómo qué cuál cuándo dónde quién porque al lo se su "
        "sus este esta más pero sobre hay está están fue muy ser tiene explica escribe dime cuenta mi tu"
    )
)


def detect_language(text: str) -> Language:
    """Return Spanish if the text has more Spanish words and signs than English words, or else English."""
    words = _words(text)
    spanish = sum(word in _SPANISH for word in words) + sum(text.casefold().count(sign) for sign in "¿¡ñ")
    english = sum(word in _ENGLISH for word in words)
    return "es" if spanish > english else "en"


_VERDICT = re.compile(
    r"(?:(?:there is|there s|i find|i found|i see|i have|verdict|result|answer"
    r"|no hay|no encuentro|no veo|no tengo|veredicto|resultado|respuesta) )?"
    r"(?:nothing (?:else |more )?(?:to correct|needs correction|needs to be corrected)"
    r"|no corrections? (?:is |are )?needed|nada (?:mas )?(?:que|por|para) corregir|ninguna correccion)"
    r"(?: \w+){0,5}"
)
_CONTRAST = re.compile(r"\b(?:but|except|however|unless|if|pero|salvo|excepto|aunque|sin embargo|si)\b")


def finds_nothing(reflection: str) -> bool:
    """Return whether a reflection states that there is nothing to correct, or has no words at all.

    One of its sentences must be that verdict, in either language, regardless of case, accents and punctuation: small
    models add a full stop, quotation marks or a sentence of praise. "Nothing to correct, except …" is not a verdict,
    nor is the phrase inside another sentence, such as the repeated instruction.
    """
    if not any(character.isalnum() for character in reflection):
        return True
    sentences = [_plain(sentence) for sentence in re.split(r"[.!?:;\n]+", reflection)]
    return any(_VERDICT.fullmatch(s) and not _CONTRAST.search(s) for s in sentences) and not any(
        _CONTRAST.match(s) for s in sentences
    )


def _plain(text: str) -> str:
    """Return the text in lower case, without accents, with one space in place of all but letters and digits."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return " ".join(re.findall(r"\w+", "".join(c for c in letters if not unicodedata.combining(c)).replace("_", " ")))
