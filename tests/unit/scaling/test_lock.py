from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import ConfigError
from core.scaling.lock import only_one


def test_a_folder_that_cannot_be_written_is_named_with_what_chooses_another() -> None:
    with pytest.raises(ConfigError, match=r"/proc/nothing.*XDG_STATE_HOME"), only_one(Path("/proc/nothing")):
        pass


def test_there_is_one_at_a_time(tmp_path: Path) -> None:
    with only_one(tmp_path), pytest.raises(ConfigError, match="runs already"), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass
