"""The last message of an answer is complete, whatever a server leaves out of it."""

from __future__ import annotations

import pytest

from core.pool.answer_so_far import AnswerSoFar
from skills.skills_pb2 import Candidate, Continuation, GenChunk, GenReq, GenResp

PIECES = (GenChunk(text="one", token_ids=[1], token_logprobs=[-0.5]), GenChunk(text=" two", token_ids=[2, 3]))


def last_of(request: GenReq, *chunks: GenChunk) -> GenResp:
    """Return the result after a caller has received the chunks."""
    answer, last = AnswerSoFar(request), GenChunk()
    last.CopyFrom(chunks[-1])
    for chunk in (*chunks[:-1], last):
        answer.take(chunk)
    return last.result


def test_result_is_given_what_its_pieces_held() -> None:
    result = last_of(GenReq(), *PIECES, GenChunk(result=GenResp(tokens_generated=3)))
    assert result == GenResp(text="one two", token_ids=[1, 2, 3], token_logprobs=[-0.5], tokens_generated=3)


def test_result_in_the_last_piece_is_given_what_its_pieces_held() -> None:
    end = GenChunk(text="!", token_ids=[4], result=GenResp(latency_ms=5))
    assert last_of(GenReq(), *PIECES, end).text == "one two!"


def test_each_candidate_is_given_its_own() -> None:
    pieces = (GenChunk(text="a", token_ids=[1]), GenChunk(text="b", token_ids=[2], candidate=1))
    end = GenChunk(result=GenResp(candidates=[Candidate(mean_logprob=-1), Candidate(mean_logprob=-2)]))
    result = last_of(GenReq(num_candidates=2), *pieces, end)
    assert (result.text, *result.token_ids) == ("a", 1)
    assert [(each.text, *each.token_ids) for each in result.candidates] == [("a", 1), ("b", 2)]


@pytest.mark.parametrize("request_", [GenReq(), GenReq(continuations=[Continuation(token_ids=[0])])])
def test_what_a_server_repeats_stays_as_it_is(request_: GenReq) -> None:
    whole = GenResp(text="zero one two", token_ids=[0, 1, 2, 3], token_logprobs=[-1, -2, -3, -4], latency_ms=7)
    assert last_of(request_, *PIECES, GenChunk(result=whole)) == whole


def test_figures_stay_the_servers() -> None:
    figures = GenResp(tokens_generated=3, continued_tokens=2, latency_ms=7, tokens_per_second=9)
    result = last_of(GenReq(), *PIECES, GenChunk(result=figures))
    for field in ("tokens_generated", "continued_tokens", "latency_ms", "tokens_per_second"):
        assert getattr(result, field) == getattr(figures, field)
