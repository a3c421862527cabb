"""Measure the first token of a known system prompt: cold, restarted with a folder of prefixes, and as a second replica.

`python -m bench.prefixes [--model 135m|4b] [--tokens 1000]`, with the machine quiet. Three servers without the folder
are asked, three that are started again with it, and three that are started next to another one that has it too. Each
gets one question after the system prompt, and all must answer it with the same tokens and log-probabilities.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.containers import open_channel, wait_serving
from bench.prompting import Prompts, vocabulary
from bench.shape_model import shape_model
from skills import skills_pb2, skills_pb2_grpc
from skills.skill_draft.embedded import make_embedded

MODELS = {"135m": make_embedded, "4b": shape_model}
_QUIET_S = 2.0  # the next file is written within this time


class First(NamedTuple):
    """The first token of an answer, and the answer."""

    seconds: float
    cached_tokens: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@contextlib.contextmanager
def server(model: Path, *arguments: str) -> Iterator[str]:
    """Start a server, yield its address once it serves, and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = (sys.executable, "-m", "skills.skill_draft.server", "--listen", address, "--model", str(model))
    process = subprocess.Popen([*command, "--log-level", "warning", *arguments])
    try:
        with open_channel(address) as channel:
            wait_serving(channel)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def ask(address: str, system: str, question: str) -> First:
    """Ask a server, and measure the time to the first piece."""
    request = skills_pb2.GenReq(system=system, prompt=question, max_tokens=16, temperature=0)
    with open_channel(address) as channel:
        wait_serving(channel)
        begin, first, end = time.perf_counter(), 0.0, skills_pb2.GenResp()
        for chunk in skills_pb2_grpc.SkillsServiceStub(channel).GenerateStream(request, timeout=300):
            first = first or time.perf_counter() - begin
            if chunk.HasField("result"):
                end = chunk.result
    return First(first, end.cached_tokens, tuple(end.token_ids), tuple(end.token_logprobs))


def wait_for_files(folder: Path) -> list[Path]:
    """Wait until all files are written, which begins once the model's hash is known."""
    found: list[Path] = []
    while not found or len(found) < len(list(folder.glob("*.kv"))):
        found = list(folder.glob("*.kv"))
        time.sleep(_QUIET_S)
    return found


def measure(model: Path, tokens: int, rounds: int) -> dict[str, list[First]]:
    """Return the measurements of each kind of start."""
    prompts = Prompts(vocabulary(), "prefixes")
    system, question = prompts.system(tokens), prompts.question()
    measured: dict[str, list[First]] = {"cold": [], "restarted": [], "second replica": []}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "prefixes"
        keeping = ("--prefix-dir", str(folder))
        with server(model, *keeping) as address:
            for _ in range(2):
                ask(address, system, prompts.question())
            files = wait_for_files(folder)
        sys.stderr.write(f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB\n")
        for _ in range(rounds):
            for name, arguments in (("cold", ()), ("restarted", keeping)):
                with server(model, *arguments) as address:
                    measured[name].append(ask(address, system, question))
            with server(model, *keeping), server(model, *keeping) as address:
                measured["second replica"].append(ask(address, system, question))
    return measured


def main() -> int:
    """Measure, and print a table; 1 if an answer differs."""
    parser = argparse.ArgumentParser(prog="python -m bench.prefixes", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=tuple(MODELS), default="135m")
    parser.add_argument("--tokens", type=int, default=1000, help="length of the system prompt")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    measured = measure(MODELS[arguments.model](), arguments.tokens, arguments.rounds)
    answers = {(first.token_ids, first.logprobs) for each in measured.values() for first in each}
    cold_s = statistics.median(first.seconds for first in measured["cold"])
    for name, each in measured.items():
        median = statistics.median(first.seconds for first in each)
        worst = max(first.seconds for first in each)
        cached = min(first.cached_tokens for first in each)
        sys.stdout.write(
            f"{name:15} {1000 * median:9,.0f} ms (worst {1000 * worst:,.0f}), {cached} cached tokens, "
            f"{cold_s / median:5.1f} times as soon\n"
        )
    sys.stdout.write("the answers are the same bits\n" if len(answers) == 1 else "THE ANSWERS DIFFER\n")
    return len(answers) != 1


if __name__ == "__main__":
    sys.exit(main())
