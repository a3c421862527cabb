"""Replay requests to the memory of kept answers: hit rates of ours, of the usual policy, and of the best possible.

`python -m bench.zipf`. A few prompts are asked for often and most rarely (Zipf), answers differ in size (lognormal),
and the cache has room for a tenth of all of them. Once all requests are of that kind, and once every second one comes
only once. The best fixed set is the one that gives most hits if all counts are known beforehand: computed at each
prompt's first request, as every cache has to, or there from the beginning.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections import Counter
from collections.abc import Sequence

from skills.runtime.answer_cache.kept import Entry
from skills.runtime.answer_cache.memory import LeastRecentlyUsed, Memory, TinyLfu, weight

PROMPTS = 1000
REQUESTS = 10_000
SHARE = 0.1
MEDIAN_BYTES = 2000.0  # an answer of 150 tokens, as it is kept
SPREAD = 1.0
SEEDS = range(1, 6)
LRU_MARGIN, ONE_OFF_MARGIN, BEST_MARGIN = 10.0, 8.0, 5.0

Requests = Sequence[tuple[bytes, int]]


def requests_of(seed: int, *, skew: float, one_offs: float) -> tuple[Requests, int]:
    """Return keys with the sizes of their answers, bytes, and the bound of the cache."""
    drawn = random.Random(seed)  # noqa: S311  # a workload, no secret
    sizes = [int(MEDIAN_BYTES * drawn.lognormvariate(0, SPREAD)) for _ in range(PROMPTS)]
    weights = [1 / rank**skew for rank in range(1, PROMPTS + 1)]
    often = drawn.choices(range(PROMPTS), weights, k=REQUESTS)
    requests = []
    for place, prompt in enumerate(often):
        if drawn.random() < one_offs:
            requests.append((b"once %d" % place, int(MEDIAN_BYTES * drawn.lognormvariate(0, SPREAD))))
        else:
            requests.append((b"prompt %d" % prompt, sizes[prompt]))
    return requests, int(SHARE * sum(weight(bytes(size)) for size in sizes))


def hit_rate(memory: Memory, requests: Requests) -> float:
    """Return the share of requests that find their answer, per cent; the others put it there."""
    hits = 0
    for key, size in requests:
        if memory.get(key) is not None:
            hits += 1
        else:
            memory.put(key, Entry(bytes(size), 0.0))
    return 100 * hits / len(requests)


def best_fixed_set(bound: int, requests: Requests, *, first_hits: bool) -> float:
    """Return the hit rate of the best set that never changes, per cent.

    Args:
        bound: the weight of the set, bytes.
        requests: all of them.
        first_hits: whether the first request of each key is a hit too.
    """
    sizes, counts = dict(requests), Counter(key for key, _ in requests)
    hits_of = {key: count - (not first_hits) for key, count in counts.items()}
    hits = room = 0
    for key in sorted(counts, key=lambda key: hits_of[key] / weight(bytes(sizes[key])), reverse=True):
        if room + weight(bytes(sizes[key])) <= bound:
            room += weight(bytes(sizes[key]))
            hits += hits_of[key]
    return 100 * hits / len(requests)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the hit rates; return 1 if ours is below its target."""
    parser = argparse.ArgumentParser(prog="python -m bench.zipf", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--skew", type=float, default=1.0, help="the n-th most frequent prompt has 1/n^SKEW. Default: 1"
    )
    arguments = parser.parse_args(argv)
    print(f"{REQUESTS:,} requests, {PROMPTS:,} prompts, skew {arguments.skew:g}, room for {SHARE:.0%} of the bytes, "
          f"means of {len(SEEDS)} runs\n")  # fmt: skip
    print(
        "| hits, % | ours (TinyLFU) | LRU | best fixed set | there from the beginning | ours above LRU | below best |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    well = True
    for name, one_offs, margin in (("all repeat", 0.0, LRU_MARGIN), ("half come once", 0.5, ONE_OFF_MARGIN)):
        runs = [requests_of(seed, skew=arguments.skew, one_offs=one_offs) for seed in SEEDS]
        ours = statistics.mean(hit_rate(TinyLfu(bound), requests) for requests, bound in runs)
        lru = statistics.mean(hit_rate(LeastRecentlyUsed(bound), requests) for requests, bound in runs)
        best, perfect = (
            statistics.mean(best_fixed_set(bound, requests, first_hits=first_hits) for requests, bound in runs)
            for first_hits in (False, True)
        )
        print(
            f"| {name} | {ours:.1f} | {lru:.1f} | {best:.1f} | {perfect:.1f} | {ours - lru:.1f} | {best - ours:.1f} |"
        )
        well &= ours - lru >= margin and (one_offs > 0 or best - ours <= BEST_MARGIN)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
