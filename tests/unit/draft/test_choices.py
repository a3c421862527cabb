"""Costs, threads and lookup: what the engine learns from its measurements."""

from __future__ import annotations

import random

import pytest

from skills.skill_draft.engine.contention import LOOK_EVERY_S, Reading
from skills.skill_draft.engine.costs import StepCosts
from skills.skill_draft.engine.lookup import AcceptanceRates, Lookup
from skills.skill_draft.engine.seeds import candidate_seed, uniform
from skills.skill_draft.engine.threads import Threads


def test_costs_follow_what_is_measured() -> None:
    costs = StepCosts()
    for i in range(20):
        costs.observe(1, 50.0, i * 0.05)
        costs.observe(64, 800.0, i * 0.05)
    assert costs.ms(1) == pytest.approx(50, rel=0.01)
    assert costs.ms(64) == pytest.approx(800, rel=0.01)
    assert 100 < costs.ms(8) < 400, "an unmeasured size is estimated from the nearest measured one"


def test_an_old_cost_counts_for_little() -> None:
    costs = StepCosts()
    costs.observe(1, 500.0, 0.0)
    costs.observe(1, 10.0, 60.0)
    assert costs.ms(1) == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize("slower", [1, 3])
def test_how_sizes_compare_is_remembered_when_what_they_cost_is_not_believed_any_more(slower: int) -> None:
    costs, now = StepCosts(), 0.0
    for _ in range(30):
        for rows, ms in ((1, 6.5), (4, 22.5)):
            now += ms / 1000
            costs.observe(rows, ms, now)
    for _ in range(100):
        now += 0.1
        costs.observe(1, 6.5 * slower, now)
    assert costs.recent_ms(4) == pytest.approx(22.5 * slower, rel=0.15)


def test_a_size_that_was_slow_once_is_tried_again() -> None:
    costs = StepCosts()
    costs.observe(8, 900.0, 0.0)  # there was CPU contention, or memory was touched for the first time
    rows = 0
    for i in range(30):
        rows = costs.rows_within(250, 512)
        costs.observe(rows, 5 + 10 * rows, i * 0.2)
    assert rows >= 20


@pytest.mark.parametrize("ms_per_row", [0.5, 3.0, 16.0])
def test_chunks_keep_to_the_gap_once_it_is_known(ms_per_row: float) -> None:
    costs = StepCosts()
    rows = 0
    for i in range(30):
        rows = costs.rows_within(250, 512)
        costs.observe(rows, 5 + ms_per_row * rows, i * 0.2)
    assert 5 + ms_per_row * rows <= 260
    assert rows == 512 or 5 + ms_per_row * rows > 110, "chunks use the time that they have"


@pytest.mark.parametrize(("tile_ms", "row_ms", "ms", "wanted"), [(100, 70, 320, 8), (80, 20, 255, 11)])
def test_a_chunk_has_the_number_of_rows_at_which_a_row_costs_least(
    tile_ms: int, row_ms: int, ms: int, wanted: int
) -> None:
    """Whole tiles where each row of an incomplete tile costs extra; as many rows as possible where costs are smooth."""
    costs = StepCosts()
    for rows in (*range(1, 17), 64):
        tiles, others = divmod(rows, 4)
        costs.observe(rows, 30 + tiles * tile_ms + others * row_ms, rows / 1000)
    assert costs.rows_within(ms, 512) == wanted


def test_chunks_shrink_as_a_prompt_grows_longer_and_grow_again_with_the_next_one() -> None:
    costs, now = StepCosts(), 0.0
    for _prompt in range(3):
        depth, chunks = 0, []
        while depth < 3000:
            rows = costs.rows_within(250, 512)
            ms = rows * (1.3 + 0.002 * depth)
            chunks.append((rows, ms))
            depth, now = depth + rows, now + ms / 1000
            costs.observe(rows, ms, now)
        assert max(ms for _, ms in chunks[1:]) < 300
        assert min(ms for _, ms in chunks[2:-1]) > 180, "chunks use the time that they have"
        assert chunks[2][0] > 1.5 * chunks[-1][0]


def test_a_tile_is_filled_where_that_was_measured_to_be_cheaper() -> None:
    for three, four, best in ((147, 110, 4), (22, 26, 3)):  # a 4B model, and a 135M one
        costs, now, tried = StepCosts(), 0.0, []
        for _ in range(200):
            rows = costs.padded(3)
            ms = three if rows == 3 else four
            now += ms / 1000
            costs.observe(rows, ms, now)
            tried.append(rows)
        assert set(tried) == {3, 4}, "both sizes are measured occasionally"
        assert tried[50:].count(best) > 0.8 * len(tried[50:])
    assert StepCosts().padded(3) == 3
    assert StepCosts().padded(99) == 99


class Machine:
    """A simulated machine: another program takes a core while it is `busy`; the kernel reports that if it `counts`."""

    def __init__(self, limit: int, *, counts: bool = True) -> None:
        self.counts, self.now, self.busy, self.looked = counts, 0.0, False, 0.0
        self.hidden = False
        self.threads = Threads(limit, self)

    def look(self, now: float) -> Reading | None:
        """Return the kernel's reading, as for two cores."""
        if not self.counts or now - self.looked < LOOK_EVERY_S:
            return None
        self.looked = now
        if self.hidden:
            return Reading(waited=0.0, idle=1.0)
        wanted = self.threads.current + self.busy
        return Reading(waited=max(0.05, wanted - 2.0), idle=max(0.0, 1.9 - wanted))

    def run(self, seconds: float) -> float:
        """Run for a while; return the number of steps a second."""
        end, begin, steps = self.now + seconds, self.now, 0
        while self.now < end:
            n = self.threads.for_next_step(self.now)
            ms = 16.0 / n if not self.busy or n == 1 else 60.0
            self.now += ms / 1000
            self.threads.observe(n, 1, ms, self.now)
            steps += 1
        return steps / (self.now - begin)


@pytest.mark.parametrize("counts", [True, False])
def test_threads_follow_a_neighbour_that_comes_and_goes(counts: bool) -> None:
    machine = Machine(2, counts=counts)
    machine.run(5)
    assert machine.threads.current == 2
    machine.busy = True
    machine.run(2)
    assert machine.threads.current == 1
    assert machine.run(20) > 0.88 * (1000 / 16), "trying two threads costs little time"
    machine.busy = False
    machine.run(3 if counts else 6)
    assert machine.threads.current == 2


def test_on_a_quiet_machine_nothing_is_tried() -> None:
    machine = Machine(2)
    machine.run(1)
    assert machine.run(60) == pytest.approx(1000 / 8, rel=0.001)


def test_where_the_kernel_does_not_count_trying_costs_little() -> None:
    machine = Machine(2, counts=False)
    machine.run(1)
    assert machine.run(60) > 0.95 * (1000 / 8)


def test_more_threads_that_do_not_help_are_tried_less_and_less() -> None:
    """The kernel may not report CPU contention, for example under a quota: cores look idle, two threads are slow."""
    machine = Machine(2)
    machine.busy = True
    machine.run(2)
    machine.hidden = True
    machine.run(30)
    assert machine.threads.current == 1
    assert machine.run(60) > 0.98 * (1000 / 16)


def test_a_new_limit_is_followed_at_once_and_what_was_learned_is_kept() -> None:
    machine = Machine(1)
    machine.run(5)
    machine.threads.set_limit(2)
    assert machine.threads.for_next_step(machine.now) == 2
    assert machine.threads.costs.ms(1) == pytest.approx(16, rel=0.1), "a measured cost must be kept"
    assert machine.run(5) == pytest.approx(1000 / 8, rel=0.1)
    machine.threads.set_limit(1)
    assert machine.run(60) == pytest.approx(1000 / 16, rel=0.001)


def test_one_thread_is_never_exceeded() -> None:
    machine = Machine(1)
    machine.busy = True
    machine.run(3)
    assert machine.threads.current == 1


def test_lookup_proposes_what_followed_last_time() -> None:
    tokens = [1, 2, 3, 4, 5, 6, 7, 8, 99, 1, 2]
    lookup = Lookup(tokens, AcceptanceRates())
    assert lookup.propose(4) == []
    tokens.append(3)
    lookup.push()
    assert lookup.propose(4) == [4, 5, 6, 7]
    tokens.append(4)
    lookup.push()
    assert lookup.propose(3) == [5, 6, 7]


def test_lookup_goes_round_in_a_loop() -> None:
    tokens = [1, 2, 3, 4]
    lookup = Lookup(tokens, AcceptanceRates())
    for token in (1, 2, 3):
        tokens.append(token)
        lookup.push()
    assert lookup.propose(9) == [4, 1, 2, 3, 4, 1, 2, 3, 4]


def test_lookup_expects_more_the_longer_it_was_right() -> None:
    tokens = [*range(100, 160), 0, *range(100, 103)]
    lookup = Lookup(tokens, AcceptanceRates())
    tokens.append(103)
    lookup.push()
    before = lookup.expected(7)
    for token in range(104, 140):
        tokens.append(token)
        lookup.push()
    assert lookup.expected(7) > before + 1
    assert lookup.expected(7) <= 7


def test_lookup_goes_on_behind_an_exchanged_token() -> None:
    draft = [*range(100, 140)]
    tokens = [*draft, 0, *draft[:12], 7]
    lookup = Lookup(tokens, AcceptanceRates())
    for token in (draft[13], 8, *draft[15:30], 9):
        tokens.append(token)
        lookup.push()
    assert lookup.propose(3) == draft[31:34]


def test_lookup_trusts_a_long_match_more_than_a_short_one() -> None:
    long = Lookup(tokens := [*range(100, 120), 0, *range(100, 111)], AcceptanceRates())
    short = Lookup(others := [*range(100, 120), 0, 1, 2, 109, 110], AcceptanceRates())
    for lookup, list_ in ((long, tokens), (short, others)):
        list_.append(111)
        lookup.push()
        assert lookup.propose(1) == [112]
    assert long.expected(3) > short.expected(3)


def test_a_sequence_begins_with_what_was_learned_from_others() -> None:
    shared = AcceptanceRates()
    before = Lookup(text := [1, 2, 3, 4, 5, 6, 1, 2, 3], shared)
    text.append(4)
    before.push()
    for _ in range(40):  # three tokens as before, then another one
        tokens = [1, 2, 3, 4, 9, 1, 2]
        lookup = Lookup(tokens, shared)
        for token in (3, 8):
            tokens.append(token)
            lookup.push()
    after = Lookup(text := [1, 2, 3, 4, 5, 6, 1, 2], shared)
    text.append(3)
    after.push()
    assert after.propose(1) == before.propose(1) or after.propose(1) == [4]
    assert after.expected(3) < 0.5 * AcceptanceRates().expected(3, 3)


def test_lookup_that_is_always_wrong_gives_up() -> None:
    source = random.Random(1)
    tokens: list[int] = []
    lookup = Lookup(tokens, AcceptanceRates())
    for _ in range(400):
        for token in (1, 2, 3, source.randrange(10, 10_000)):
            tokens.append(token)
            lookup.push()
    for token in (1, 2, 3):
        tokens.append(token)
        lookup.push()
    assert lookup.propose(3)
    assert lookup.expected(3) < 1.5


def test_random_numbers_are_a_function_of_seed_and_place() -> None:
    numbers = [uniform(seed, k) for seed in range(50) for k in range(50)]
    assert numbers == [uniform(seed, k) for seed in range(50) for k in range(50)]
    assert all(0 <= u < 1 for u in numbers)
    assert sum(numbers) / len(numbers) == pytest.approx(0.5, abs=0.02)
    assert len(set(numbers)) == len(numbers)
    assert len({candidate_seed(7, i) for i in range(8)}) == 8
    assert candidate_seed(7, 0) == 7
