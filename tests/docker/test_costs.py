"""What the container saves its host. The figures and their commands are in the skill's README."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

from core.pool.client import SkillClient
from core.testing import SkillContainer
from tests.docker.asking import CALL_S, MARKS
from tests.servers import ROOT

pytestmark = MARKS


def run(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=2 * CALL_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_process_that_runs_the_loop_stays_below_60_mb(draft: tuple[SkillClient, SkillContainer]) -> None:
    _, container = draft
    said = run("bench.host_memory", SARAI_DRAFT_TARGET=container.target)
    resident = re.search(r"([\d.]+) MB at most", said)
    assert resident is not None, said
    assert 10 < float(resident[1]) < 60


def test_cold_start_has_a_figure_for_each_part(draft: tuple[SkillClient, SkillContainer]) -> None:
    del draft  # the fixture builds the image
    figures = json.loads(run("bench.cold_start", "-n", "1", "--json"))
    start = figures["start"]
    # On an idle machine it takes at most 1.5 s; this machine may be busy.
    assert start["SERVING is seen"] < 8000
    assert start["engine is started"] < start.pop("server says that it serves"), "the log comes after the status"
    marks = list(start.values())[1:]
    assert marks == sorted(marks), "the events are in the wrong order"
    assert figures["standby"]["first token after `docker unpause`"] < 4000
