"""A model that fills its container as the 4B fills 3 GB: nothing is killed; if it were, callers would not notice."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bench.shape_model import write
from core.pool.client import SkillClient
from core.testing import SkillContainer, SkillContainers
from skills import skills_pb2
from tests.docker.asking import CALL_S, MARKS, OwnTiny, endless, exhaust_memory, greedy, threads

pytestmark = MARKS
# The 4B with 8 of its 36 blocks: same vocabulary and rows, 0.8 GB of weights, as many cells in the remaining memory.
BLOCKS, LIMIT_MB = 8, 1060
WORDS = ("river", "stone", "light", "morning", "window", "paper", "garden", "music")


@pytest.fixture(scope="module")
def full(
    skill_container: SkillContainers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[SkillClient, SkillContainer]]:
    path = tmp_path_factory.mktemp("models") / "shape.gguf"
    write(path, n_blocks=BLOCKS)
    path.parent.chmod(0o755)
    limits = {"mem_limit": f"{LIMIT_MB}m", "memswap_limit": f"{LIMIT_MB}m", "volumes": [f"{path.parent}:/models:ro"]}
    with skill_container.own("draft", service=limits) as pair:
        yield pair
    path.unlink()


def of_words(rng: random.Random, n: int, **fields: Any) -> skills_pb2.GenReq:
    return greedy(" ".join(rng.choices(WORDS, k=n)), **{"max_tokens": 8, **fields})


@pytest.mark.parametrize("callers", [4, 1, 16])  # four first: the first callers find memory that is not touched yet
def test_nothing_is_killed_with_a_full_cache_long_prompts_and_a_grammar(
    full: tuple[SkillClient, SkillContainer], callers: int
) -> None:
    client, container = full
    rng, health = random.Random(callers), client.Health()
    longest = health.engine.kv_cells // max(4, callers) - 32
    requests = [of_words(rng, longest) for _ in range(callers)]
    requests += [of_words(rng, 9, grammar="root ::= [a-z ]+", num_candidates=2) for _ in range(callers)]

    def ask(i: int) -> skills_pb2.GenResp:
        time.sleep(rng.choice((0.0, 0.02, 0.3)))  # callers arrive irregularly
        return client.Generate(requests[i], timeout=CALL_S)

    with threads(callers) as pool:
        answers = list(pool.map(ask, range(len(requests))))
    assert all(answer.text for answer in answers)
    assert client.Health().engine.restarts == 0, container.logs()
    assert client.Health().ram_mb < 0.96 * LIMIT_MB * 1.048576
    assert "MB weights" in container.logs()
    assert "killed" not in container.logs()


def test_a_kill_for_memory_is_not_the_requests_fault_and_the_next_engine_is_smaller(own_tiny: OwnTiny) -> None:
    limits: dict[str, object] = {"mem_limit": "400m", "memswap_limit": "400m"}
    with own_tiny(service=limits) as (client, container):
        undisturbed = client.Generate(endless(), timeout=CALL_S).text
        stream = client.GenerateStream(endless(), timeout=CALL_S)
        pieces = [next(stream).text for _ in range(3)]
        over = threading.Event()

        def eat() -> None:
            """Exhaust the memory repeatedly, so that engines die while the request is the only one on trial."""
            while not over.is_set() and client.Health(timeout=30).engine.memory_kills < 3:
                exhaust_memory(container)

        with threads(1) as pool:
            eating = pool.submit(eat)
            text = "".join([*pieces, *(piece.text for piece in stream)])
            over.set()
            eating.result(CALL_S)
        assert text == undisturbed
        container.wait_serving()
        assert client.Generate(greedy(), timeout=CALL_S).text
        health = client.Health()
        assert (health.status, container.inspect().restarts) == ("SERVING", 0)
        assert health.engine.memory_kills >= 1
        assert "memory ran out" in health.message
