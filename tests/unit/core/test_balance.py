"""Equal requests meet at the same replica, whichever process they come from."""

from __future__ import annotations

from collections import Counter

from core.pool.balance import Affinity, choose, conversation_keys
from core.pool.records import Attempt, Call, Replica
from skills import skills_pb2

TARGETS = [f"10.0.0.{number}:50051" for number in range(1, 5)]
KEYS = [9717448711293619603, 6236182449076832733]
CHOICES = [3, 3, 0, 1, 0, 0, 2, 2, 1, 3]


def call(prompt: str) -> Call:
    keys = conversation_keys(skills_pb2.GenReq(system="Be brief.", prompt=prompt))
    return Call("GenerateStream", 100.0, conversation=keys)


def chosen(prompt: str, replicas: list[Replica]) -> str:
    replica = choose(call(prompt), replicas, Affinity(), 1.0)
    assert replica is not None
    return replica.target


def replicas_at(targets: list[str]) -> list[Replica]:
    return [Replica(target, known=True) for target in targets]


def test_equal_requests_meet_whatever_the_order_of_the_replicas() -> None:
    for number in range(50):
        prompt = f"prompt {number}"
        assert chosen(prompt, replicas_at(TARGETS)) == chosen(prompt, replicas_at(TARGETS[::-1]))


def test_different_requests_are_spread_over_idle_replicas() -> None:
    counts = Counter(chosen(f"prompt {number}", replicas_at(TARGETS)) for number in range(400))
    assert all(counts[target] > 60 for target in TARGETS)


def test_only_what_a_leaving_replica_had_moves() -> None:
    for number in range(200):
        before = chosen(f"prompt {number}", replicas_at(TARGETS))
        after = chosen(f"prompt {number}", replicas_at(TARGETS[1:]))
        assert after == before or before == TARGETS[0]


def test_less_work_goes_before_meeting() -> None:
    replicas = replicas_at(TARGETS)
    busy = next(replica for replica in replicas if replica.target == chosen("prompt", replicas))
    busy.attempts[Attempt(call("other"), busy, 1.0)] = None
    assert chosen("prompt", replicas) != busy.target


def test_a_cached_conversation_goes_before_meeting() -> None:
    replicas, affinity = replicas_at(TARGETS), Affinity()
    request = call("prompt")
    other = next(replica for replica in replicas if replica.target != chosen("prompt", replicas))
    affinity.note(request.conversation, other)
    assert choose(request, replicas, affinity, 1.0) is other


def test_keys_and_choices_are_the_same_in_every_process() -> None:
    """Python's `hash` of a text is another one in each process; these were computed in a process before this one."""
    assert conversation_keys(skills_pb2.GenReq(system="Be brief.", prompt="Hello")) == KEYS
    assert [TARGETS.index(chosen(str(number), replicas_at(TARGETS))) for number in range(10)] == CHOICES
