"""The engine process: `python -m skills.skill_draft.engine FD`, started by the server, never by hand.

FD is this process's end of a socket pair shared with the server. The process ends when the server does.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import traceback

from skills.runtime.child import PICKLE, Link, link_to_server

from .binding import ModelError
from .engine import Engine
from .images import OutOfIdsError
from .loading import load
from .messages import (
    Cancel,
    EngineConfig,
    Failed,
    FailureKind,
    Finish,
    Forget,
    Hurry,
    Identity,
    NotReady,
    Ready,
    Request,
    Rows,
    UseCpus,
)
from .prepare import Preparer
from .sampling import Scratch

# Above the server's 0. Of the vision process's 1000 it stays 800 short: the engine has up to four fifths of the memory
# more, and yet goes last of the two, as all requests wait while another one loads the model.
_OOM_SCORE_ADJ = 200


def take_in(link: Link, engine: Engine, preparer: Preparer) -> None:
    """Prepare requests while steps run, and hand them to the engine: the body of the intake thread."""
    while True:
        frame = link.receive()
        match frame:
            case None:
                os._exit(0)
            case Cancel() | Hurry() | UseCpus() | Rows() | Forget():
                engine.inbox.put(frame)
            case Identity(digest=digest):
                engine.keeping.identify(digest)
            case Finish():
                engine.inbox.put(None)
            case Request():
                engine.intake_busy_since = time.monotonic()
                try:
                    engine.inbox.put(preparer.prepare(frame))
                except OutOfIdsError as error:  # the server starts another engine, which continues all requests
                    sys.stderr.write(f"{error}\n")
                    sys.stderr.flush()
                    os._exit(1)
                except Exception as error:  # noqa: BLE001 - one bad request must not affect the others
                    traceback.print_exc()
                    message = f"preparing the request failed: {type(error).__name__}: {error}"
                    engine.inbox.put(Failed(id=frame.id, kind=FailureKind.INTERNAL, message=message))
                engine.intake_busy_since = None


def main() -> int:
    """Load the model, then run until the server goes."""
    link = link_to_server(PICKLE, oom_score_adj=_OOM_SCORE_ADJ)
    config = link.receive()
    if not isinstance(config, EngineConfig):
        return 0
    try:
        loaded = load(config)
    except ModelError as error:
        link.send([NotReady(message=str(error))])
        return 1
    engine = Engine(loaded, config, send=link.send)
    preparer = Preparer(
        loaded.model, Scratch(loaded.model.vocab.n_tokens), keeping=engine.keeping, n_ctx=loaded.sizes.n_ctx,
        max_image=loaded.max_image,
    )  # fmt: skip
    ready = Ready(
        model=loaded.model.path.stem, numerics=loaded.numerics, notes=loaded.notes, sizes=loaded.sizes,
        row_width=loaded.row_width,
    )  # fmt: skip
    link.send([ready])
    gc.freeze()  # what exists now is permanent: spares each collection a walk through the vocabulary
    threading.Thread(target=take_in, args=(link, engine, preparer), daemon=True, name="intake").start()
    engine.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
