"""What is claimed for the draft skill, what it does on this machine, and what the machine allows.

`python -m bench.claims [--model 135m 4b] [--starts 3]`, on a quiet machine, about two minutes; the 4B is
`shape_model.py`'s. The server is a local process with as many threads as there are CPUs. Each prompt is new, and
lookup is off: a token takes a step. The ceiling is memory bandwidth: a step reads all weights once, whatever the number
of its rows, so the ceiling of eight streams is eight times that of one, and arithmetic comes first.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench.cold_start import evict
from bench.containers import open_channel, wait_serving
from bench.shape_model import shape_model
from bench.sizes import SIZES
from core.models.bandwidth import measure_bandwidth
from core.models.gguf_file import read_gguf
from core.models.needs import needs_of
from skills import skills_pb2, skills_pb2_grpc
from skills.runtime.resources import usable_cpus
from skills.skill_draft.catalog import EMBEDDED, find_model

_ROOT = Path(__file__).parents[1]
_MODELS = {"135m": "SmolLM2-135M-Instruct, Q8_0", "4b": "the shapes of Qwen3-VL-4B-Instruct, IQ4_NL"}
_WORDS = ("river", "stone", "light", "morning", "window", "paper", "garden", "music", "winter", "bread", "silver")
_STREAMS = 8
_ONE_STREAM_ANSWERS = 3
_SAMPLE_S = 0.1
_TIMEOUT_S = 240.0


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    figure: str
    claimed: str
    measured: str
    ceiling: str = ""


class Running:
    """A server, and what its callers see."""

    def __init__(self, channel: grpc.Channel, begin_s: float) -> None:
        self.stub = skills_pb2_grpc.SkillsServiceStub(channel)
        self.serving_s = time.monotonic() - begin_s
        self.answer(1, 1)
        self.first_token_s = time.monotonic() - begin_s

    def answer(self, words: int, tokens: int) -> tuple[float, float, int]:
        """Return the seconds to the first token and to the last one of an answer to a new prompt, and its tokens."""
        prompt = " ".join(random.choices(_WORDS, k=words))  # noqa: S311
        request = skills_pb2.GenReq(
            prompt=f"{prompt}. Write a long story about that.",
            max_tokens=tokens,
            temperature=0,
            lookup=False,
        )
        begin, first, n_tokens = time.monotonic(), 0.0, 0
        for chunk in self.stub.GenerateStream(request, timeout=_TIMEOUT_S):
            first = first or (time.monotonic() - begin if chunk.token_ids else 0.0)
            n_tokens += len(chunk.token_ids)
        return first, time.monotonic() - begin, n_tokens

    def ram_mb(self) -> float:
        """Return the memory that the server's processes hold, MB."""
        return float(self.stub.Health(skills_pb2.HealthReq(), timeout=_TIMEOUT_S).ram_mb)


@contextlib.contextmanager
def running(model: Path) -> Iterator[Running]:
    """Start a server, and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{probe.getsockname()[1]}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SKILL_DRAFT_")}
    command = [sys.executable, "-m", "skills.skill_draft.server", "--listen", target, "--model", str(model)]
    begin = time.monotonic()
    process = subprocess.Popen([*command, "--mmproj", "off"], cwd=_ROOT, env=clean, stderr=subprocess.DEVNULL)
    try:
        with open_channel(target) as channel:
            wait_serving(channel)
            yield Running(channel, begin)
    finally:
        process.terminate()
        process.wait(30)


def starts(model: Path, count: int, *, cold: bool) -> str:
    """Return the medians of the times to SERVING and to the first token."""
    times = []
    for _ in range(count):
        if cold:
            evict(model)
        with running(model) as server:
            times.append((server.serving_s, server.first_token_s))
    serving, first = (statistics.median(each) for each in zip(*times, strict=True))
    return f"{serving:.1f} s to SERVING, {first:.1f} s to the first token"


def rows(name: str, count: int) -> Iterator[Row]:
    """Measure a model."""
    embedded, sizes = name == "135m", SIZES[name]
    model = find_model(EMBEDDED, Path("/nonexistent")) if embedded else shape_model()
    needs, cpus = needs_of(read_gguf(model)), usable_cpus()
    assert needs  # both are text models
    bandwidth = measure_bandwidth(cpus)
    yield Row("file", "" if embedded else "1.8 GB", f"{model.stat().st_size / 1e9:.2f} GB")
    with model.open("rb") as file:  # into the page cache
        while file.read(1 << 24):
            pass
    yield Row("cold start, model in the page cache", "", starts(model, count, cold=False))
    yield Row("cold start, model on the disk", "", starts(model, count, cold=True))
    with running(model) as server, ThreadPoolExecutor(_STREAMS + 1) as callers:
        idle_mb = server.ram_mb()
        alone = [server.answer(sizes.prompt, sizes.one_new) for _ in range(_ONE_STREAM_ANSWERS)]
        speeds = [(tokens - 1) / (whole - first) for first, whole, tokens in alone]
        samples, done = [idle_mb], False

        def sample() -> None:
            while not done:
                samples.append(server.ram_mb())
                time.sleep(_SAMPLE_S)

        sampling = callers.submit(sample)
        begin = time.monotonic()
        together = list(callers.map(lambda _: server.answer(sizes.prompt, sizes.one_new), range(2 * _STREAMS)))
        seconds, done = time.monotonic() - begin, True
        sampling.result()
    bandwidth = max(bandwidth, measure_bandwidth(cpus))  # other programs make it less
    ceiling = needs.ceiling(bandwidth, sizes.prompt + sizes.one_new // 2)
    yield Row("one stream, tok/s", "" if embedded else "52", f"{statistics.median(speeds):.1f}", f"{ceiling:.1f}")
    rate = sum(tokens for *_, tokens in together) / seconds
    yield Row(
        f"{_STREAMS} streams, tok/s, prompts included", "" if embedded else "52", f"{rate:.1f}",
        f"{_STREAMS * ceiling:.0f}",
    )  # fmt: skip
    yield Row(f"{_STREAMS} streams, requests/s", "", f"{len(together) / seconds:.2f}")
    for title, answers in (("one stream", alone), (f"{_STREAMS} streams", together)):
        first, whole = (statistics.median(answer[i] for answer in answers) for i in (0, 1))
        yield Row(f"{title}, p50", "", f"{1000 * first:,.0f} ms to the first token, {whole:.2f} s for the answer")
    yield Row(
        "memory, idle and at most",
        "" if embedded else "a container of 3 GB",
        f"{idle_mb:,.0f} and {max(samples):,.0f} MB",
    )
    yield Row("a plain read of memory", "", f"{bandwidth / 1e9:.1f} GB/s")


def main() -> int:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(prog="python -m bench.claims", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=tuple(_MODELS), nargs="+", default=tuple(_MODELS))
    parser.add_argument("--starts", type=int, default=3)
    arguments = parser.parse_args()
    for name in arguments.model:
        sizes = SIZES[name]
        sys.stdout.write(f"{_MODELS[name]}; prompts of {sizes.prompt} words, answers of {sizes.one_new} tokens\n\n")
        sys.stdout.write("| | claimed | measured | ceiling |\n| --- | --- | --- | --- |\n")
        for row in rows(name, arguments.starts):
            sys.stdout.write(f"| {row.figure} | {row.claimed} | {row.measured} | {row.ceiling} |\n")
            sys.stdout.flush()
        sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
