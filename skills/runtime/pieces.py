"""The messages of a stream: each text once, and few of them for a caller that reads only the whole answer.

The pool reads every answer as a stream, so that another replica can go on with it. But each message costs both sides a
tenth of a millisecond, and nobody looks at the pieces of a unary call: so there they wait for each other.
"""

from __future__ import annotations

import time
from typing import Any

from skills import skills_pb2
from skills.wire import FEW_PIECES

HOLD_S = 0.25
"""How long a piece waits at most while others come: so much of an answer is written again if its replica dies."""


class Pieces:
    """Passes the messages of one stream on, as they are or, where the caller wants few, gathered.

    Args:
        context: of the call.
        request: what the caller asks for.
    """

    def __init__(self, context: Any, request: skills_pb2.GenReq) -> None:
        self._few = FEW_PIECES in (context.invocation_metadata() or ())
        self._hold_all = not request.continuations
        self._sent_s = time.monotonic()
        self._held: dict[int, skills_pb2.GenChunk] = {}

    def put(self, chunk: skills_pb2.GenChunk) -> list[skills_pb2.GenChunk]:
        """Return what is to be sent now that a chunk has come. Each candidate's pieces stay in their order.

        The result loses what the pieces have held, unless the caller has begun with a part of the answer.
        """
        if chunk.HasField("result") and self._hold_all:
            _leave_out_pieces(chunk.result)
        if not self._few:
            return [chunk]
        if chunk.HasField("progress"):  # nobody looks
            return []
        held = self._held.setdefault(chunk.candidate, skills_pb2.GenChunk(candidate=chunk.candidate))
        held.text += chunk.text
        held.token_ids.extend(chunk.token_ids)
        held.token_logprobs.extend(chunk.token_logprobs)
        now = time.monotonic()
        if not chunk.HasField("result") and now - self._sent_s < HOLD_S:
            return []
        self._sent_s = now
        sent = list(self._held.values())
        self._held.clear()
        if chunk.HasField("result"):
            sent[-1].result.CopyFrom(chunk.result)
        return sent


def _leave_out_pieces(result: skills_pb2.GenResp) -> None:
    for answer in (result, *result.candidates):
        answer.ClearField("text")
        answer.ClearField("token_ids")
        answer.ClearField("token_logprobs")
