"""The decoder process: takes pictures from standard input, gives what became of them to standard output.

Pictures come from strangers and decoders are C. A crash ends this process, not the server; so does a picture that takes
too long, whose decoding no thread could be kept from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

from skills.skill_image import frames
from skills.skill_image.errors import BadPictureError
from skills.skill_image.jobs import Job
from skills.skill_image.normalizing import normalize


def main() -> int:
    """Works until standard input ends: the server is gone then."""
    _be_the_one_that_goes()
    warnings.simplefilter("ignore")
    while (frame := frames.read(sys.stdin.buffer)) is not None:
        values, image = frame
        # Nobody would be there to end it if the server was killed meanwhile. CPU time: it may be stopped for longer.
        signal.setitimer(signal.ITIMER_PROF, values.pop("cpu_s"))
        sys.stdout.buffer.write(frames.pack(*_answer(image, Job(**values))))
        sys.stdout.buffer.flush()
        signal.setitimer(signal.ITIMER_PROF, 0)
    return 0


def _answer(image: bytes, job: Job) -> tuple[dict[str, Any], bytes]:
    try:
        picture, encoded = normalize(image, job)
    except BadPictureError as error:
        return {"fault": error.fault, "message": str(error), "field": error.field}, b""
    except MemoryError:
        return {"fault": "too_large", "message": "takes more memory than there is", "field": "image"}, b""
    return dataclasses.asdict(picture), encoded


def _be_the_one_that_goes() -> None:
    """Ctrl-C is the server's business; where memory ends, this process is killed before it; no core files."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


if __name__ == "__main__":
    sys.exit(main())
