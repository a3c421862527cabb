"""Call the draft skill without a pause, and print a line of JSON for each call. Runs inside the scaler's image.

Ends with the calls that are running once its standard input ends.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time

from sarai import GenReq, get_model_pool

CALLERS = 6
# Drawn at random and never at its end: each token costs a step, so that there is always a call to disturb.
REQUESTS = [
    GenReq(prompt="Say hello.", grammar="root ::= [a-z] root", max_tokens=900, temperature=5, top_k=0, top_p=1, min_p=0,
           seed=seed)
    for seed in range(CALLERS)
]  # fmt: skip

over, printing = threading.Event(), threading.Lock()
draft = get_model_pool().get_skill_client("draft")


def call(number: int) -> dict[str, object]:
    """Make one call; every second one is a stream. Return what came of it."""
    seed, begin_s = number % CALLERS, time.monotonic()
    told: dict[str, object] = {"seed": seed}
    try:
        if number // CALLERS % 2:
            *pieces, last = draft.GenerateStream(REQUESTS[seed], timeout=120)
            text, result = "".join(piece.text for piece in pieces), last.result
        else:
            result = draft.Generate(REQUESTS[seed], timeout=120)
            text = result.text
        told |= {"answer": hashlib.sha256(text.encode()).hexdigest(), "continued": result.continued_tokens}
    except Exception as error:  # noqa: BLE001  # whatever it is, the test is to see it
        told["error"] = repr(error)
    return told | {"took_s": round(time.monotonic() - begin_s, 3)}


def keep_calling(first: int) -> None:
    """Call until it is over."""
    number = first
    while not over.is_set():
        line = json.dumps(call(number))
        with printing:
            print(line, flush=True)
        number += CALLERS


threads = [threading.Thread(target=keep_calling, args=(first,)) for first in range(CALLERS)]
for thread in threads:
    thread.start()
sys.stdin.read()
over.set()
for thread in threads:
    thread.join()
