"""Measure the time from `docker start` to SERVING and to the first token, and its parts: medians of N starts.

`python -m bench.cold_start [-n 5]`, with the image built (`make image`) and the machine quiet. Also measures the first
token of a standby that was paused (`docker pause`) for longer than the engine's step timeout. In milliseconds; the
model is in the page cache. `--model 4b` measures the start alone, of `shape_model.py`'s; with `--cold`, its file is
dropped from the page cache before each start.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from pathlib import Path

import grpc

from bench.containers import container, docker, docker_log, epoch_s, inspect, open_channel, target, wait_serving
from bench.shape_model import shape_model
from skills import skills_pb2, skills_pb2_grpc

_STEP_TIMEOUT_S = 4.0
_PAUSE_S = 5.0
_REQUEST = skills_pb2.GenReq(prompt="Hello", max_tokens=1, temperature=0)
# Run in the container, one interpreter for each process of the skill.
_SERVER = "import time; t = time.perf_counter(); import skills.skill_draft.server; print(time.perf_counter() - t)"
_ENGINE = """
import time; t = time.perf_counter(); marks = {}
def mark(name):
    global t
    marks[name] = time.perf_counter() - t; t = time.perf_counter()
import numpy; mark("engine: import numpy")
import skills.skill_draft.engine.binding; mark("engine: import llama.cpp")
from skills.skill_draft.engine import loading, messages
from skills.skill_draft.catalog import find_model, models_dir
mark("engine: import the rest")
path = find_model("", models_dir())
loaded = loading.load(messages.EngineConfig(model=str(path), n_ctx=0, kv_cells=0, n_batch=512, slots=16, queue=64,
                                            prefixes=32, gap_ms=250.0, exact=True, threads=2))
mark("engine: model and context")
loaded.context.wants_logits[0] = 1
loaded.context.decode(1); mark("engine: first step")
import json; print(json.dumps(marks))
"""


def start_once(name: str) -> dict[str, float]:
    """Start a stopped container; return the events of the start, in milliseconds after the call of `docker start`."""
    begin = time.time()
    docker("start", name)
    started = time.time()
    with open_channel(target(name)) as channel:
        wait_serving(channel)
        serving = time.time()
        first_token(channel)
        answered = time.time()
    begun = inspect(name)["State"]["StartedAt"]
    log = docker_log(name, since=begun)
    written = {
        word: epoch_s(found[1])
        for word in ("listening", "loading", "serving")
        if (found := re.search(rf"^(\S+) .*: {word} (?!the)", log, re.MULTILINE))
    }
    marks = {
        "`docker start` returns": started,
        "first process runs": epoch_s(begun),
        "server listens": written["listening"],
        "engine is started": written["loading"],
        "server says that it serves": written["serving"],
        "SERVING is seen": serving,
        "first token": answered,
    }
    return {name: 1000 * (at - begin) for name, at in marks.items()}


def evict(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def first_token(channel: grpc.Channel) -> None:
    """Generate one token."""
    skills_pb2_grpc.SkillsServiceStub(channel).Generate(_REQUEST, timeout=60)


def unpause_once(name: str) -> float:
    """Return the milliseconds from the call of `docker unpause` to the first token of a paused standby.

    Raises:
        RuntimeError: The engine was replaced, so the measurement is of something else.
    """
    with open_channel(target(name)) as channel:
        first_token(channel)
        docker("pause", name)
        time.sleep(_PAUSE_S)
        begin = time.perf_counter()
        docker("unpause", name)
        first_token(channel)
        took = time.perf_counter() - begin
        time.sleep(1.0)  # the engine would be replaced within this time
        if restarts := skills_pb2_grpc.SkillsServiceStub(channel).Health(skills_pb2.HealthReq()).engine.restarts:
            raise RuntimeError(f"the engine was replaced {restarts} times; a paused standby keeps its own")
        return 1000 * took


def inside(name: str) -> dict[str, float]:
    """Return the parts of a start in milliseconds, measured one after the other in a running container."""
    begin = time.perf_counter()
    docker("exec", name, "python3", "-c", "")
    bare = time.perf_counter() - begin
    parts = {
        "`docker exec` and a bare Python": bare,
        "server: imports": float(docker("exec", name, "python3", "-c", _SERVER)),
    }
    parts |= json.loads(docker("exec", name, "python3", "-c", _ENGINE).splitlines()[-1])
    return {part: 1000 * seconds for part, seconds in parts.items()}


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure."""
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def main() -> int:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.cold_start", description=__doc__.partition("\n")[0])
    parser.add_argument("-n", type=int, default=5, help="starts; the first one, which warms up, is not counted")
    parser.add_argument("--model", choices=("135m", "4b"), default="135m")
    parser.add_argument("--cold", action="store_true", help="the 4B's file is not in the page cache")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    arguments = parser.parse_args()
    options = [f"--env=SKILL_DRAFT_STEP_TIMEOUT_S={_STEP_TIMEOUT_S}"]
    if large := shape_model() if arguments.model == "4b" else None:
        options = [f"--volume={large.parent}:/models:ro", f"--env=SKILL_DRAFT_MODEL=/models/{large.name}",
                   "--env=SKILL_DRAFT_MMPROJ=off"]  # fmt: skip
    with container(*options) as name:
        start_once(name)
        starts = []
        for _ in range(arguments.n):
            docker("stop", name)
            if large and arguments.cold:
                evict(large)
            starts.append(start_once(name))
        figures = {"start": medians(starts)}
        if not large:
            standby = statistics.median(unpause_once(name) for _ in range(arguments.n))
            figures["parts"] = medians([inside(name) for _ in range(arguments.n)])
            figures["standby"] = {"first token after `docker unpause`": standby}
    if arguments.json:
        print(json.dumps(figures))
        return 0
    for title, rows in figures.items():
        print(title)
        for row, milliseconds in rows.items():
            print(f"  {row:36} {milliseconds:7.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
