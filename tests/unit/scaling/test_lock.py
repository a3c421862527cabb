from __future__ import annotations

import subprocess
import sys
import time
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


def test_what_an_ended_one_has_started_is_waited_for(tmp_path: Path) -> None:
    killed = (
        "import os, subprocess, sys; from pathlib import Path; from core.scaling.lock import only_one\n"
        "with only_one(Path(sys.argv[1])) as lock:\n"
        "    subprocess.Popen(('sleep', '0.5'), pass_fds=(lock,), start_new_session=True); os._exit(9)\n"
    )
    begin_s = time.monotonic()
    assert subprocess.run([sys.executable, "-c", killed, str(tmp_path)], check=False).returncode == 9
    with only_one(tmp_path):
        assert time.monotonic() > begin_s + 0.5
