"""The callers' requests, and an undisturbed replica's answers to them."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from skills import skills_pb2, skills_pb2_grpc

PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request, whether its answer is streamed, and the right answer."""

    nonce: str
    request: skills_pb2.GenReq
    streamed: bool
    answer: skills_pb2.GenResp


def questions(
    rng: random.Random, stub: skills_pb2_grpc.SkillsServiceStub, *, number: int, max_tokens: int
) -> list[Question]:
    """Return `number` questions, each with its own nonce, with the answers of a replica that nothing disturbs.

    Args:
        rng: chooses the questions.
        stub: that replica's stub.
        number: how many questions.
        max_tokens: the length of the longest answers. Most are long, so that faults hit them while they are running.
    """
    nonces = [f"{nonce:08d}" for nonce in rng.sample(range(10**8), number)]
    requests = [_request(rng, nonce, rng.randrange(4), max_tokens) for nonce in nonces]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda request: stub.Generate(request, timeout=PATIENCE_S), requests))
    return [
        Question(nonce=nonce, request=request, streamed=rng.random() < 0.5, answer=answer)
        for nonce, request, answer in zip(nonces, requests, answers, strict=True)
    ]


def _request(rng: random.Random, nonce: str, kind: int, max_tokens: int) -> skills_pb2.GenReq:
    request = skills_pb2.GenReq(
        prompt=f"{nonce}: {rng.choice(('Count to twenty.', 'Who are you?', 'Say hello.'))}",
        max_tokens=rng.randrange(max_tokens // 2, max_tokens + 1),
        temperature=0,
        hard_deadline=True,  # a whole answer, or an error, which is checked
    )
    # Such an answer never ends by itself.
    endless = f'root ::= "{nonce}" rest\nrest ::= [a-z ] rest'
    match kind:
        case 0:  # greedy
            request.grammar = endless
        case 1:  # seeded, at a high temperature: other random numbers would give another answer
            _heat(rng, request)
        case 2:  # two candidates, seeded and with a grammar
            _heat(rng, request)
            request.num_candidates, request.grammar = 2, endless
        case _:  # greedy, as short as the model likes
            pass
    return request


def _heat(rng: random.Random, request: skills_pb2.GenReq) -> None:
    request.seed = rng.randrange(1 << 32)
    request.temperature, request.top_k, request.top_p, request.min_p = rng.choice((0.9, 4.0)), 0, 1, 0
