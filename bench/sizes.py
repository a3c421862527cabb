"""The sizes of each workload by model: large enough for steady figures, half an hour for all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of the workloads, in tokens unless noted otherwise."""

    rounds: int
    """How often all servers are started in turn."""
    prompt: int = 86
    """Length of ordinary prompts, without SmolLM2's own system prompt and the eleven tokens that ask for a long answer
    in (b)."""
    new: int = 48
    """Length of ordinary answers."""
    one_new: int = 96
    """(a) the answers of the single stream, three in all."""
    concurrency: tuple[int, ...] = (1, 2, 4, 8, 16)
    """(b) requests at once."""
    few_waves: int = 1
    """(b) consecutive requests of each caller, for up to 4 callers; with more callers it is one."""
    system: int = 512
    """(c) the shared system prompt."""
    system_requests: int = 16
    """(c) requests, 8 at once."""
    system_new: int = 32
    stream_new: int = 400
    """(d) the running streams' answers. Without a free slot, a new prompt waits until one ends."""
    long_prompt: int = 1024
    """(d) a prompt that arrives while others are answered."""
    long_prompts: int = 2
    """(d) the number of these prompts, one after the other."""
    loops: int = 5
    """(e) prompts that go through draft, reflection and correction."""
    draft: int = 160
    reflection: int = 48
    candidates_prompt: int = 512
    candidates_new: int = 48
    fields_new: int = 400
    """(h) the answers with a schema, at most."""
    arriving: tuple[int, ...] = (2, 4, 8, 16)
    """(i) callers of a group."""
    arriving_least: int = 8
    """(i) the fewest callers in all for each size of group: small groups are repeated."""
    arriving_prompt: tuple[int, int] = (50, 1000)
    arriving_new: tuple[int, int] = (48, 64)
    arrival_s: float = 0.3
    """(i) mean seconds between two callers who arrive at random."""
    image_sides: tuple[int, ...] = (256, 512, 768)
    """(j) pixels of a side of each square image; 768 is the default limit of 576 tokens."""
    image_new: int = 8
    arriving_side: int = 512
    """(j) the image that arrives while others are answered."""
    neighbours: bool = True
    """(g) whether it is measured."""


SIZES = {
    "135m": Sizes(rounds=2),
    "4b": Sizes(
        rounds=1,
        prompt=48,
        new=24,
        one_new=32,
        system_requests=8,
        system_new=16,
        stream_new=160,
        long_prompts=1,
        loops=1,
        draft=100,
        reflection=32,
        candidates_prompt=256,
        candidates_new=24,
        fields_new=160,
        arriving_least=2,
        arriving_prompt=(50, 500),
        arriving_new=(24, 32),
        arrival_s=4.0,
        neighbours=False,
    ),
}


def quick(sizes: Sizes) -> Sizes:
    """Return sizes that only show that everything runs; the figures mean nothing."""
    return replace(
        sizes,
        rounds=1,
        image_sides=(96, 256),
        arriving_side=96,
        prompt=48,
        new=6,
        one_new=8,
        concurrency=(1, 4),
        system=64,
        system_requests=4,
        system_new=4,
        stream_new=100,
        long_prompt=192,
        long_prompts=1,
        loops=1,
        draft=24,
        reflection=8,
        candidates_prompt=64,
        candidates_new=4,
        fields_new=24,
        arriving=(2, 4),
        arriving_least=2,
        arriving_prompt=(50, 100),
        arriving_new=(4, 6),
        arrival_s=0.1,
    )
