"""Settings: one dataclass, one table in README, the same names everywhere."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from skills.skill_draft import settings
from skills.skill_draft.settings import Settings, SettingsError

README = Path(__file__).parents[3] / "README.md"


def test_flag_beats_environment_beats_default() -> None:
    environment = {"SKILL_DRAFT_N_CTX": "512", "SKILL_DRAFT_THREADS": "3"}
    loaded, lifeline = settings.load(["--n-ctx", "1024", "--lifeline"], environment)
    assert (loaded.n_ctx, loaded.threads, loaded.slots, lifeline) == (1024, 3, 16, True)


def test_an_empty_variable_is_no_value() -> None:
    assert settings.load([], {"SKILL_DRAFT_N_CTX": ""})[0].n_ctx == 0


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["--n-ctx", "many"], {}, "--n-ctx is 'many'; it must be a whole number"),
        ([], {"SKILL_DRAFT_SLOTS": "0"}, "SKILL_DRAFT_SLOTS is 0; it must be from 1 to 128"),
        ([], {"SKILL_DRAFT_GAP_MS": "nan"}, "SKILL_DRAFT_GAP_MS is nan; it must be from 1 to 60000"),
        (["--numerics", "sloppy"], {}, "--numerics is 'sloppy'; it must be one of exact, fast"),
    ],
)
def test_a_wrong_setting_is_named_as_it_was_written(
    arguments: list[str], environment: dict[str, str], says: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(says)):
        settings.load(arguments, environment)


def test_the_documented_table_is_the_settings() -> None:
    documented = set(re.findall(r"^\| `(SKILL_DRAFT_[A-Z_]+)`", README.read_text(), re.MULTILINE))
    assert documented == {settings.variable(field.name) for field in dataclasses.fields(Settings)}


def test_help_names_every_variable() -> None:
    text = settings.parser().format_help()
    for field in dataclasses.fields(Settings):
        assert f"[{settings.variable(field.name)}]" in re.sub(r"\s+", "", text)
