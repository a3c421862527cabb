"""What the vision process answers is checked, as an image may have taken it over."""

from __future__ import annotations

import pytest

from skills.skill_draft.engine.messages import Image
from skills.skill_draft.vision_process import VisionError, _image

KEY = "ab" * 32


def test_answer_becomes_an_image() -> None:
    assert _image({"key": KEY, "across": 4, "down": 2}, 8) == Image(key=b"\xab" * 32, across=4, down=2)


@pytest.mark.parametrize(
    "changes",
    [
        {"across": 5}, {"across": 0}, {"across": -4, "down": -2}, {"down": 2.0}, {"down": None}, {"key": "ab"},
        {"key": KEY.upper()}, {"key": 7}, {"across": 10**30},
    ],
)  # fmt: skip
def test_answer_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(VisionError, match="no valid answer"):
        _image({"key": KEY, "across": 4, "down": 2, **changes}, 8)
