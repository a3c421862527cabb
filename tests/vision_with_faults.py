"""A vision process with faults: `python -m tests.vision_with_faults FD`, or with `serve …` a server that uses it.

The first byte of an image says which fault it has.

`R` ends the process while it reads, `E` while it encodes, `S` makes reading slow and `L` encoding; `r` and `e` end the
first process that reads or encodes the image, and the next one does not mind. What follows it is an image.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from skills.skill_draft.vision import __main__ as vision
from skills.skill_draft.vision.pixels import Pixels, read_pixels

MODULE = "tests.vision_with_faults"
SLOW_S = 1000.0

_faults: dict[bytes, str] = {}


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _first_time(fault: str) -> bool:
    """Whether no process of this test has had this fault: a file in TMPDIR knows."""
    mark = Path(tempfile.gettempdir(), f"fault-{fault}")
    known = mark.exists()
    mark.touch()
    return not known


def _read(image: bytes, max_tokens: int) -> Pixels:
    fault = chr(image[0])
    if fault in "RrEeSL":
        if fault == "R" or (fault == "r" and _first_time(fault)):
            _die()
        if fault == "S":
            time.sleep(SLOW_S)
        pixels = read_pixels(image[1:], max_tokens)
        _faults[pixels.data] = fault
        return pixels
    return read_pixels(image, max_tokens)


def _spoil_tower() -> None:
    from skills.skill_draft.vision.tower import Tower

    encode = Tower.encode

    def encode_with_faults(self: Tower, pixels: Pixels, into: memoryview) -> None:
        fault = _faults.get(pixels.data)
        if fault == "E" or (fault == "e" and _first_time(fault)):
            _die()
        if fault == "L":
            time.sleep(SLOW_S)
        encode(self, pixels, into)

    Tower.encode = encode_with_faults  # type: ignore[method-assign]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        from skills.skill_draft.server import main

        sys.exit(main(sys.argv[2:], vision_module=MODULE))
    vars(vision)["read_pixels"] = _read
    _spoil_tower()
    sys.exit(vision.main())
