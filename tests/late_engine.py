"""An engine that starts late: `python -m tests.late_engine serve …`; LATE_S says by how many seconds."""

from __future__ import annotations

import os
import sys
import time

LATE = ("-m", "tests.late_engine", "serve")

if __name__ == "__main__":
    if sys.argv[1] == "serve":
        from skills.skill_draft.server import main

        sys.exit(main(sys.argv[2:], engine_module="tests.late_engine"))
    time.sleep(float(os.environ["LATE_S"]))
    from skills.skill_draft.engine.__main__ import main as run_engine

    sys.exit(run_engine())
