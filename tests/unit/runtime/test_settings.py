"""Settings: one dataclass per skill, the same names everywhere; tested with the draft skill's."""

from __future__ import annotations

import dataclasses
import re

import pytest

from skills.runtime.settings import SettingsError, load, variable
from skills.skill_draft.settings import NAME, Settings


def test_flag_beats_environment_beats_default() -> None:
    environment = {"SKILL_DRAFT_N_CTX": "512", "SKILL_DRAFT_THREADS": "3"}
    loaded, lifeline = load(Settings, NAME, ["--n-ctx", "1024", "--lifeline"], environment)
    assert (loaded.n_ctx, loaded.threads, loaded.slots, lifeline) == (1024, 3, 16, True)


def test_an_empty_variable_is_no_value() -> None:
    assert load(Settings, NAME, [], {"SKILL_DRAFT_N_CTX": ""})[0].n_ctx == 0


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["--n-ctx", "many"], {}, "--n-ctx is 'many'; it must be a whole number"),
        ([], {"SKILL_DRAFT_SLOTS": "0"}, "SKILL_DRAFT_SLOTS is 0; it must be from 1 to 128"),
        ([], {"SKILL_DRAFT_GAP_MS": "nan"}, "SKILL_DRAFT_GAP_MS is nan; it must be from 1 to 60000"),
        (["--numerics", "sloppy"], {}, "--numerics is 'sloppy'; it must be one of exact, fast"),
        (["--listen", "here"], {}, "--listen is 'here'; it must be HOST:PORT or unix:/PATH"),
        (["--listen", "127.0.0.1:99999"], {}, "--listen is '127.0.0.1:99999'; it must be HOST:PORT or unix:/PATH"),
        (["--metrics", "unix:/tmp/m"], {}, "--metrics is 'unix:/tmp/m'; it must be HOST:PORT"),
    ],
)
def test_a_wrong_setting_is_named_as_it_was_written(
    arguments: list[str], environment: dict[str, str], says: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(says)):
        load(Settings, NAME, arguments, environment)


def test_help_names_every_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(Settings, NAME, ["--help"])
    text = re.sub(r"\s+", "", capsys.readouterr().out)
    for field in dataclasses.fields(Settings):
        assert f"[{variable(NAME, field.name)}]" in text
