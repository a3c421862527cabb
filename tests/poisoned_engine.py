"""An engine that certain requests end, as some end llama.cpp, for tests of the server's reaction.

`python -m tests.poisoned_engine FD` is the engine, `python -m tests.poisoned_engine serve …` a server that uses it.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from skills.skill_draft.engine import __main__ as engine_main
from skills.skill_draft.engine import sequence
from skills.skill_draft.engine.messages import Piece, Request
from skills.skill_draft.engine.prepare import Preparer
from skills.skill_draft.engine.sampling import Choice


def _poison() -> None:
    """Make `KILL` in a prompt end the engine on arrival, `LATER` at the third token, and `HANG` stop the intake."""
    build = Preparer.prepare

    def prepare(self: Preparer, request: Request) -> object:
        text = " ".join(turn.content for turn in request.turns)
        if "KILL" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if "HANG" in text:
            time.sleep(1000)
        return build(self, request)

    take = sequence.Sequence.take

    def deadly_take(self: sequence.Sequence, choice: Choice) -> Piece | None:
        if self.n_answered >= 2 and any("LATER" in turn.content for turn in self.request.turns):
            os.kill(os.getpid(), signal.SIGKILL)
        return take(self, choice)

    Preparer.prepare = prepare  # type: ignore[assignment, method-assign]
    sequence.Sequence.take = deadly_take  # type: ignore[method-assign]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        from skills.skill_draft.server import main

        sys.exit(main(sys.argv[2:], engine_module="tests.poisoned_engine"))
    _poison()
    sys.exit(engine_main.main())
