"""A skill that uses `skills.runtime.text_skill` and does what the prompt says: `python -m tests.obedient_skill`."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Iterator

from skills import skills_pb2
from skills.runtime.status import RefusedError
from skills.runtime.text_skill import serve_text

LOAD_S = 0.3


class Obedient:
    """The skill's function; making it takes a moment, as loading a model does."""

    def __init__(self) -> None:
        time.sleep(LOAD_S)

    def __call__(self, request: skills_pb2.GenReq) -> str | Iterator[str]:
        said = request.prompt or request.messages[-1].content
        match said:
            case "hang":
                threading.Event().wait()
            case "refuse":
                raise RefusedError("is not wanted", field="prompt")
            case "fail":
                raise ValueError("secret")
            case "stop":
                return next(iter(()))  # StopIteration, which asyncio's futures cannot hold
            case "count":
                return (f"{number} " for number in range(5))
            case "count slowly":
                return _count(every_s=0.3)
            case "count for ever":
                return (f"{number} " for number in itertools.count())
            case "count and fail":
                return (str(1 // (3 - number)) for number in range(5))
        return f"did {said}"


def _count(every_s: float) -> Iterator[str]:
    for number in range(5):
        yield f"{number} "
        time.sleep(every_s)


if __name__ == "__main__":
    sys.exit(serve_text("obedient", Obedient, port=50999, version="1.2.3"))
