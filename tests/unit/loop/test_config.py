from __future__ import annotations

import math
from typing import Any

import pytest

from core.errors import ConfigError
from core.loop.config import LoopConfig
from core.omni_loop import OmniLoop


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_iterations", 0),
        ("max_iterations", 4),
        ("confidence_threshold", 0.0),
        ("confidence_threshold", 1.1),
        ("confidence_threshold", math.nan),
        ("timeout_s", 0.0),
        ("timeout_s", math.inf),
        ("time_budget_s", -1.0),
        ("time_budget_s", math.nan),
        ("language", "fr"),
        ("max_tokens", 0),
        ("reflection_max_tokens", 0),
    ],
)
def test_setting_out_of_its_range_is_named(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=setting):
        LoopConfig(**{setting: value})


def test_grammar_and_schema_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="json_schema"):
        LoopConfig(grammar="root ::= [a]", json_schema="{}")
    with pytest.raises(ConfigError, match="regex"):
        LoopConfig(regex="a", json_schema="{}")


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_empty_prompt_is_refused_before_anything_starts(prompt: str) -> None:
    loop = OmniLoop()
    with pytest.raises(ValueError, match="prompt is empty"):
        loop.run(prompt)
    with pytest.raises(ValueError, match="prompt is empty"):
        loop.stream(prompt)
