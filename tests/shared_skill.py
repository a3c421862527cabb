"""`tests.stub_skill` as a process that many users share, and that may end slowly (`--linger-s 1`)."""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial

from tests import stub_skill


def main() -> int:
    """Serve until `--linger-s` seconds after the end of standard input."""
    parser = argparse.ArgumentParser(prog="python -m tests.shared_skill")
    parser.add_argument("--linger-s", type=float, default=0.0)
    own, rest = parser.parse_known_args()
    stub_skill._follow_parent = partial(_follow_lifeline, own.linger_s)
    return stub_skill.main(rest)


def _follow_lifeline(linger_s: float) -> None:
    while os.read(0, 4096):
        pass
    time.sleep(linger_s)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
