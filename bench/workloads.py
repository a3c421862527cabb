"""The workloads (a) to (h) and their figures; (i) is in `arrivals.py`, (j) in `images.py`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import difflib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

from bench.arrivals import arrivals
from bench.images import images
from bench.prompting import WRITE_ON
from bench.servers import client, end_group
from bench.site import Figures, Site
from bench.streams import STREAMS, four_streams, gaps_s
from bench.wire import Answer, Ask, Client, Turn, ask
from core.loop.prompts import correction_prompt, reflection_prompt

AT_ONCE = 8
CANDIDATES = 4
_COPIED_WORDS = 4
_CONTENDED_S = 60.0  # a server with a busy neighbour can take minutes for a paragraph


async def warm_up(site: Site) -> None:
    """Send short and longer prompts, so that every server has touched its memory and measured its own speed."""
    await site.client.ask(ask(site.prompts.of_length(64), 8))
    await asyncio.gather(*(site.client.ask(ask(site.prompts.of_length(128), 8)) for _ in range(2)))
    await asyncio.sleep(0.5)


# --- (a) one stream ---


async def one_stream(site: Site) -> Figures:
    """Measure decode speed and time to first token of a single stream."""
    sizes = site.sizes
    answers = [await site.client.ask(ask(site.prompts.of_length(sizes.prompt), sizes.one_new)) for _ in range(3)]
    return {
        "decode_tok_s": statistics.median([a.decode_rate for a in answers]),
        "first_token_ms": statistics.median([1000 * a.first_token_s for a in answers]),
    }


# --- (b) many streams ---


async def concurrent(site: Site) -> Figures:
    """Measure different prompts at once."""
    figures: Figures = {}
    for n in site.sizes.concurrency:
        for name, value in (await _wave(site, n)).items():
            figures[f"{name}@{n}"] = value
    return figures


async def _wave(site: Site, callers: int) -> Figures:
    sizes = site.sizes
    waves = sizes.few_waves if callers <= 4 else 1
    asks = [ask(f"{site.prompts.of_length(sizes.prompt)} {WRITE_ON}", sizes.new) for _ in range(callers * waves)]
    start = time.perf_counter()
    answers = await _by_callers(site.client, asks, callers)
    wall = time.perf_counter() - start
    return {
        "tok_s": sum(a.num_tokens for a in answers) / wall,
        "latencies_ms": [1000 * a.latency_s for a in answers],
        "tokens": float(sum(a.num_tokens for a in answers)),
        "prompt_tokens": float(sum(a.prompt_tokens for a in answers)),
    }


async def _by_callers(connection: Client, asks: Sequence[Ask], callers: int) -> list[Answer]:
    """Send all requests by `callers` callers, each with its next request after its last answer; return the answers."""
    left, answers = list(reversed(asks)), []

    async def call() -> None:
        while left:
            answers.append(await connection.ask(left.pop()))

    await asyncio.gather(*(call() for _ in range(callers)))
    return answers


# --- (c) one system prompt ---


async def system_prompt(site: Site) -> Figures:
    """Measure simultaneous requests that share a long system prompt, which is new to the server."""
    sizes, system = site.sizes, site.prompts.system(site.sizes.system)
    asks = [ask(site.prompts.question(), sizes.system_new, system=system) for _ in range(sizes.system_requests)]
    start = time.perf_counter()
    answers = await _by_callers(site.client, asks, AT_ONCE)
    wall = time.perf_counter() - start
    prompt, cached = sum(a.prompt_tokens for a in answers), sum(a.cached_tokens for a in answers)
    return {
        "tok_s": sum(a.num_tokens for a in answers) / wall,
        "first_token_ms": statistics.median([1000 * a.first_token_s for a in answers]),
        "cached_share": cached / prompt if prompt else 0.0,
    }


# --- (d) the stall ---


async def stall(site: Site) -> Figures:
    """Measure the gaps between tokens of running streams while long prompts arrive, one after the other."""
    sizes = site.sizes
    async with four_streams(site) as streams:
        start = time.perf_counter()
        arriving = [
            await site.client.ask(ask(site.prompts.of_length(sizes.long_prompt), 4)) for _ in range(sizes.long_prompts)
        ]
        end = arriving[-1].times[0]
        await asyncio.sleep(0.3)
    gaps = gaps_s(streams, start, end)
    return {
        "gaps_ms": [1000 * gap for gap in gaps],
        "longest_gap_ms": 1000 * max(gaps, default=0.0),
        "arriving_first_token_ms": statistics.median([1000 * a.first_token_s for a in arriving]),
    }


# --- (e) the loop ---


async def loop(site: Site) -> Figures:
    """Measure draft, reflection and correction: the calls of `OmniLoop`, always all three."""
    runs = [await _one_loop(site, site.prompts.question()) for _ in range(site.sizes.loops)]
    walls = [wall for wall, _ in runs]
    tokens = sum(sum(a.num_tokens for a in answers) for _, answers in runs)
    corrections = [answers[2] for _, answers in runs]
    correcting = sum(a.latency_s for a in corrections)
    return {
        "tok_s": tokens / sum(walls),
        "correction_tok_s": sum(a.num_tokens for a in corrections) / correcting,
        "loop_s": sum(walls) / len(walls),
        "copied_share": sum(_copied(a[0].text, a[2].text) for _, a in runs) / len(runs),
        "tokens": float(tokens),
    }


async def _one_loop(site: Site, question: str) -> tuple[float, list[Answer]]:
    sizes, answers = site.sizes, []
    turns: tuple[Turn, ...] = ()
    start = time.perf_counter()
    for words, length in (
        (question, sizes.draft),
        (reflection_prompt("en"), sizes.reflection),
        (correction_prompt("en", question), sizes.draft),
    ):
        turns += (Turn(role="user", content=words),)
        answer = await site.client.ask(Ask(turns=turns, max_tokens=length))
        answers.append(answer)
        turns += (Turn(role="assistant", content=answer.text, token_ids=answer.token_ids),)
    return time.perf_counter() - start, answers


def _copied(draft: str, correction: str) -> float:
    """Return the share of the correction's words that also occur in the draft, in order and at least four in a row."""
    a, b = draft.split(), correction.split()
    blocks = difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks if block.size >= _COPIED_WORDS) / max(1, len(b))


# --- (f) candidates ---


async def candidates(site: Site) -> Figures:
    """Measure four answers to one prompt, by one request if the server supports that, else by four at once."""
    sizes = site.sizes
    request = dataclasses.replace(
        ask(site.prompts.of_length(sizes.candidates_prompt), sizes.candidates_new), temperature=0.8
    )
    start = time.perf_counter()
    if site.kind.several:
        answers = [await site.client.ask(dataclasses.replace(request, num_candidates=CANDIDATES))]
    else:
        asks = [dataclasses.replace(request, seed=seed) for seed in range(CANDIDATES)]
        answers = await _by_callers(site.client, asks, CANDIDATES)
    wall = time.perf_counter() - start
    tokens = sum(a.num_tokens for a in answers)
    return {"tok_s": tokens / wall, "wall_s": wall, "tokens": float(tokens)}


# --- (g) neighbours ---


async def neighbours(site: Site) -> Figures:
    """Measure (a) and (b) next to a busy process, and two servers side by side with a stream each."""
    sizes, figures = site.sizes, Figures()

    def stream() -> Ask:
        return ask(site.prompts.of_length(sizes.prompt), sizes.one_new)

    # Started before the measurement, as real neighbours are.
    busy = subprocess.Popen(  # noqa: ASYNC220 - takes a millisecond, and nothing else is running
        [sys.executable, "-c", "while True: pass"], start_new_session=True
    )
    try:
        await asyncio.sleep(1.0)
        # The first request is not measured: the engine finds the best number of threads in it. The same goes for the
        # pairs below.
        await _contended([(site.client, stream())])
        figures["busy_one_tok_s"] = await _contended([(site.client, stream())])
        several = [ask(site.prompts.of_length(sizes.prompt), sizes.new) for _ in range(STREAMS)]
        figures["busy_four_tok_s"] = await _contended([(site.client, request) for request in several])
    finally:
        end_group(busy)
    with site.second() as port:
        other = client(site.kind, port)
        try:
            await _contended([(site.client, stream()), (other, stream())])
            figures["side_by_side_tok_s"] = await _contended([(site.client, stream()), (other, stream())])
        finally:
            await other.close()
    return figures


async def _contended(asks: Sequence[tuple[Client, Ask]]) -> float:
    """Return the tokens a second of simultaneous requests together, cut off after `_CONTENDED_S`."""
    answers = [Answer(start=0.0) for _ in asks]
    start = time.perf_counter()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CONTENDED_S):
            await asyncio.gather(*(to.ask(request, a) for (to, request), a in zip(asks, answers, strict=True)))
    return sum(len(a.times) for a in answers) / (time.perf_counter() - start)


# --- (h) structured answers ---

_FIELDS = [f"{adjective}_{noun}" for adjective in ("first", "second", "average", "expected", "largest")
           for noun in ("temperature", "humidity", "wind_speed", "air_pressure")]  # fmt: skip
# A three-digit reading for each of twenty long names.
_TWENTY_FIELDS = json.dumps(
    {
        "type": "object",
        "properties": {name: {"type": "integer", "minimum": 100, "maximum": 999} for name in _FIELDS},
        "required": _FIELDS,
        "additionalProperties": False,
    }
)
_FREE_TEXT = json.dumps(
    {
        "type": "object",
        # Longer than the answer may be; llama.cpp refuses repetitions above 2,000.
        "properties": {"story": {"type": "string", "minLength": 1500}},
        "required": ["story"],
        "additionalProperties": False,
    }
)


async def structured(site: Site) -> Figures:
    """Measure one stream: an object whose keys are forced, then free text with a schema and without one."""
    sizes, figures = site.sizes, Figures()
    for name, schema in (("fields", _TWENTY_FIELDS), ("text", _FREE_TEXT), ("plain", "")):
        rates = []
        for _ in range(3):
            request = ask(f"{site.prompts.of_length(sizes.prompt)} {WRITE_ON}", sizes.fields_new)
            answer = await site.client.ask(dataclasses.replace(request, json_schema=schema))
            rates.append(answer.num_tokens / (answer.end - answer.times[0]))
        figures[f"{name}_tok_s"] = statistics.median(rates)
    figures["text_by_plain"] = float(figures["text_tok_s"]) / float(figures["plain_tok_s"])  # type: ignore[arg-type]
    return figures


WORKLOADS: dict[str, Callable[[Site], Awaitable[Figures]]] = {
    "a": one_stream,
    "b": concurrent,
    "c": system_prompt,
    "d": stall,
    "e": loop,
    "f": candidates,
    "g": neighbours,
    "h": structured,
    "i": arrivals,
    "j": images,
}
