"""A child process that follows instructions, for tests of `skills.runtime.child`.

`python -m tests.obedient_child FD`
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from skills.runtime.child import JSON, link_to_server


def main() -> int:
    """Answer each frame until the server has gone."""
    link = link_to_server(JSON)
    while (frame := link.receive()) is not None:
        values, data = frame
        match values["do"]:
            case "echo":
                link.send((values, data))
            case "end":
                return int(values["code"])
            case "be killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "tell":
                link.send(({"adj": Path("/proc/self/oom_score_adj").read_text(), "path": sys.path}, b""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
