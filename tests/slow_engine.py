"""An engine as slow as with a large model: each row of a step takes `SLOW_ROW_MS` milliseconds longer.

`python -m tests.slow_engine FD` is the engine, `python -m tests.slow_engine serve …` a server that uses it.
"""

from __future__ import annotations

import os
import sys
import time

from skills.skill_draft.engine import __main__ as engine_main
from skills.skill_draft.engine.binding import Context
from skills.skill_draft.engine.tokens import Floats

SLOW = ("-m", "tests.slow_engine", "serve")


def _slow_down(row_s: float) -> None:
    decode = Context.decode

    def slow_decode(self: Context, n_rows: int) -> Floats:
        end = time.monotonic() + row_s * n_rows
        # Some of that time is spent computing: the engine takes a step without CPU time for one that was stopped.
        busy_until = time.process_time() + row_s * n_rows / 10
        while time.process_time() < busy_until:
            pass
        time.sleep(max(0.0, end - time.monotonic()))
        return decode(self, n_rows)

    Context.decode = slow_decode  # type: ignore[method-assign]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        from skills.skill_draft.server import main

        sys.exit(main(sys.argv[2:], engine_module="tests.slow_engine"))
    _slow_down(float(os.environ["SLOW_ROW_MS"]) / 1000)
    sys.exit(engine_main.main())
