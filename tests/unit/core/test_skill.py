from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from core.skill import Resources
from tests.stub_plugin import stub_spec


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "Draft"), ("name", ""), ("name", "a/b"), ("port", 0), ("port", 65536), ("serve", ()), ("serve", "x")],
)
def test_skill_names_the_field_that_is_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field}"):
        dataclasses.replace(stub_spec(), **{field: value})


@pytest.mark.parametrize(("cpus", "memory_bytes"), [(0.0, 1), (float("nan"), 1), (1.0, 0)])
def test_resources_must_be_more_than_none(cpus: float, memory_bytes: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        Resources(cpus=cpus, memory_bytes=memory_bytes)


def test_target_variable_is_the_name_in_capitals() -> None:
    assert stub_spec("draft").target_variable == "SARAI_DRAFT_TARGET"
    assert stub_spec("my-skill").target_variable == "SARAI_MY_SKILL_TARGET"
