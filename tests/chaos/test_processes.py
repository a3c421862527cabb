"""Three replicas in local processes, under load, while they are broken one at a time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from skills.skill_draft.catalog import EMBEDDED
from tests.chaos.replicas import ProcessReplica
from tests.chaos.run import FAULT_AND_RESTART_S, NUM_FAULTS, run
from tests.servers import TINY

# SARAI_CHAOS_MODEL=135m selects the embedded model instead of the one for tests.
MODEL, MAX_TOKENS = (EMBEDDED, 12) if os.environ.get("SARAI_CHAOS_MODEL") == "135m" else (str(TINY), 240)


@pytest.mark.timeout(120 + NUM_FAULTS * FAULT_AND_RESTART_S)
def test_every_call_ends_once_with_its_own_answer_whatever_happens_to_its_replica(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        replicas = [stack.enter_context(ProcessReplica(name, tmp_path, model=MODEL)) for name in "abc"]
        run(replicas, max_tokens=MAX_TOKENS)
