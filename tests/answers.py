"""Answers in a form that tests can compare: all candidates, and the whole of a raw stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from skills import skills_pb2


def candidates_of(answer: skills_pb2.GenResp) -> Sequence[skills_pb2.GenResp | skills_pb2.Candidate]:
    """Return all candidates of an answer; if only one was requested, that is the answer itself."""
    return answer.candidates or [answer]


def whole(chunks: Iterable[skills_pb2.GenChunk]) -> skills_pb2.GenResp:
    """Return the whole answer, joined from the chunks that a stub has received; the last one repeats no piece."""
    chunks = list(chunks)
    assert [chunk.HasField("result") for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    result = chunks[-1].result
    for number, candidate in enumerate(candidates_of(result)):
        _fill(candidate, [chunk for chunk in chunks if chunk.candidate == number])
    if result.candidates:
        _fill(result, [chunk for chunk in chunks if chunk.candidate == 0])
    return result


def _fill(answer: skills_pb2.GenResp | skills_pb2.Candidate, pieces: Sequence[skills_pb2.GenChunk]) -> None:
    for field in ("text", "token_ids", "token_logprobs"):
        assert not getattr(answer, field), "the result repeats the pieces"
    answer.text = "".join(piece.text for piece in pieces)
    answer.token_ids.extend(token for piece in pieces for token in piece.token_ids)
    answer.token_logprobs.extend(value for piece in pieces for value in piece.token_logprobs)
