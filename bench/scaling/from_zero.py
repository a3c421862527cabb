"""How long the first call takes where no replica is, by part: a local process, or a container of the compose project.

python -m bench.scaling.from_zero [--model FILE] [--times 5]
python -m bench.scaling.from_zero --on compose [--times 5]

Compose takes the model that lies in ./models, and an autoscaler that brings the container; no other one may run.
Prints a line of the table in docs/autoscaling.md: medians, and the range of the whole.
"""

from __future__ import annotations

import argparse
import calendar
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from core.config import PoolConfig
from core.local.progress import Progress, Starting
from core.model_pool import ModelPool
from skills import skills_pb2, types_pb2
from tests.servers import free_port

REQUEST = skills_pb2.GenReq(
    prompt="Hello", max_tokens=4, temperature=0, raw=True,
    cache=types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_BYPASS),
)  # fmt: skip
AUTOSCALE = (sys.executable, "-m", "sarai", "autoscale", "draft", "--on", "compose")
_LINE = re.compile(r"^(\S+ \S+),(\d{3}) \S \S+ (loading|serving) ", re.MULTILINE)


class Parts(NamedTuple):
    """Seconds of the first call."""

    process: float
    """Until the process starts: the pool's look, and an autoscaler, compose and the engine where there are any."""
    imports: float
    """Until it listens and begins to load its model."""
    model: float
    """Until it serves: the engine's process, its imports, the model."""
    first_token: float
    """Until the caller has the first piece: it finds the replica, and the prompt is read."""


def call(pool: ModelPool) -> tuple[float, float, float]:
    """Return when a call began, when its first piece came, by the wall clock, and how long the replica's start took."""
    began_s = time.time()
    client = pool.get_skill_client("draft")
    pieces = client.GenerateStream(REQUEST, timeout=300)
    next(pieces)
    first_s = time.time()
    for _ in pieces:
        pass
    return began_s, first_s, client.Health().load.start_s


def parts(times: tuple[float, float, float], log: str, *, utc: bool) -> Parts:
    """Return the parts of a call by the log of the server that answered it."""
    began_s, first_s, start_s = times
    seconds = calendar.timegm if utc else time.mktime
    at = {
        word: seconds(time.strptime(stamp, "%Y-%m-%d %H:%M:%S")) + int(ms) / 1000
        for stamp, ms, word in _LINE.findall(log)
    }
    process_s = at["serving"] - start_s
    return Parts(process_s - began_s, at["loading"] - process_s, at["serving"] - at["loading"], first_s - at["serving"])


def local() -> Parts:
    """Measure a call that starts a local process."""
    logs: list[Path] = []

    def note(event: Progress) -> None:
        if isinstance(event, Starting):
            logs.append(event.log)

    with ModelPool(on_progress=note) as pool:
        return parts(call(pool), logs[0].read_text(), utc=False)


@contextlib.contextmanager
def autoscaler(address: str) -> Iterator[None]:
    """Run an autoscaler that is told of waiting calls at an address; at the end all of its replicas are gone."""
    with subprocess.Popen(
        (*AUTOSCALE, "--min", "0", "--max", "1", "--listen", address, "--json"), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # its first look
        threading.Thread(target=process.stdout.read, daemon=True).start()
        try:
            yield
        finally:
            process.kill()
    subprocess.run((*AUTOSCALE, "--stop", "-q"), stdout=subprocess.DEVNULL, check=True)


def compose() -> Parts:
    """Measure a call that has an autoscaler start a container."""
    address = f"127.0.0.1:{free_port()}"
    config = PoolConfig.from_env(scalers={"SARAI_DRAFT_SCALER": address}, recovery_s=300)
    with autoscaler(address), ModelPool(config) as pool:
        times = call(pool)
        label = "label=com.docker.compose.service=skill_draft"
        ids = subprocess.run(["docker", "ps", "--quiet", "--filter", label], capture_output=True, check=True, text=True)
        command = ["docker", "logs", ids.stdout.split()[0]]
        log = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, text=True)
        return parts(times, log.stdout, utc=True)


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling.from_zero", description=__doc__)
    parser.add_argument("--on", choices=("local", "compose"), default="local")
    parser.add_argument("--model", default="", help="a GGUF file; by default the embedded model")
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sarai-bench-") as folder:
        if options.on == "local":
            os.environ |= {"TMPDIR": folder, "SKILL_DRAFT_MODEL": options.model, "SARAI_DRAFT_PORTS": str(free_port())}
            tempfile.tempdir = folder
        os.environ["XDG_STATE_HOME"] = folder
        measured = [local() if options.on == "local" else compose() for _ in range(options.times)]
    sums = [sum(each) for each in measured]
    medians = [statistics.median(each) for each in zip(*measured, strict=True)]
    cells = [
        *(f"{each:.2f}" for each in medians),
        f"{statistics.median(sums):.2f} ({min(sums):.2f} to {max(sums):.2f})",
    ]
    print("| where | until the process starts | imports | the model | first token | the call, s |\n|" + " --- |" * 6)
    print(f"| {options.on}, {Path(options.model).stem or 'embedded model'} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
