"""The autoscaler on this machine with local processes: one caller, then eight, then none.

python -m bench.scaling.here [--model FILE] [--eight-s 40]
python -m bench.scaling.here --max 1   # for comparison: what one replica does
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

from core.config import PoolConfig
from core.errors import CallError
from core.local.numbered import NumberedServers
from core.model_pool import ModelPool
from core.plugins import get_plugins
from core.pool.client import SkillClient
from skills import skills_pb2, types_pb2

TEXT = "The rain in Spain stays mainly in the plain. " * 30


COMPUTED = types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_BYPASS)
"""No kept answer will do."""


class Callers:
    """Callers that ask one question after the other."""

    def __init__(self, pool: ModelPool) -> None:
        self._client = pool.get_skill_client("draft")
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._first: dict[str, str] = {}
        self.tokens = self.failed = self.answers = self.different = 0

    def add(self, number: int) -> None:
        """Add callers."""
        for n in range(number):
            thread = threading.Thread(target=self._run, args=(len(self._threads) + n,))
            thread.start()
            self._threads.append(thread)

    def _run(self, number: int) -> None:
        asked = 0
        while not self._stop.is_set():
            # A prompt comes again after four others, which take its place in the prefix cache.
            request = skills_pb2.GenReq(
                prompt=f"{number}.{asked % 5}: {TEXT}", max_tokens=32, temperature=0, raw=True, cache=COMPUTED
            )
            asked += 1
            try:
                answer = self._client.Generate(request, timeout=120)
            except CallError:
                self.failed += 1
                continue
            self.answers += 1
            self.tokens += answer.prompt_tokens - answer.cached_tokens + answer.tokens_generated
            self.different += self._first.setdefault(request.prompt, answer.text) != answer.text

    def end(self) -> None:
        """Let all of them get their last answer."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def scaler(target_wait_s: float, most: int) -> Iterator[list[dict[str, object]]]:
    """Run `sarai autoscale`, and collect what it says."""
    said: list[dict[str, object]] = []
    options = ("--target-wait", str(target_wait_s), "--max", str(most), "--json")
    command = [sys.executable, "-m", "sarai", "autoscale", "draft", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout

        def read() -> None:
            said.extend({**json.loads(line), "at": time.monotonic()} for line in lines)

        threading.Thread(target=read, daemon=True).start()
        yield said
        process.kill()
    subprocess.run([sys.executable, "-m", "sarai", "autoscale", "draft", "--stop", "-q"], check=True)


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Return what came of it."""
    config, spec = PoolConfig.from_env(), get_plugins().skill("draft")
    numbered = NumberedServers(spec, config)
    with scaler(options.target_wait, options.max) as said, ModelPool(config) as pool:
        while len(numbered.running()) < 1:
            time.sleep(0.05)
        callers = Callers(pool)
        callers.add(1)
        time.sleep(options.one_s)
        callers.add(7)
        eight_s, second_s = time.monotonic(), None
        rates: list[tuple[float, int]] = []
        while (now := time.monotonic()) < eight_s + options.eight_s:
            if second_s is None and len(numbered.targets()) > 1:
                second_s = now - eight_s
            rates.append((now - eight_s, callers.tokens))
            time.sleep(0.1)
        callers.end()
        ended_s = time.monotonic()
        while len(numbered.running()) > 1 and time.monotonic() < ended_s + options.hold_s:
            time.sleep(0.1)
        gone_s = time.monotonic() - ended_s
        with SkillClient.at(spec, numbered.target(0)) as client:
            load = client.Health().load
        decided = next((float(str(each["at"])) - eight_s for each in said if each["wanted"] == 2), None)
    half = options.eight_s / 2
    late = [tokens for at, tokens in rates if at >= half]
    early = [tokens for at, tokens in rates if second_s is None or at < second_s]
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "decided after, s": decided,
        "second serves after, s": second_s,
        "tokens/s in the second half": round((late[-1] - late[0]) / half, 1),
        # None if it was there before the seven others came.
        "tokens/s before the second": round((early[-1] - early[0]) / (0.1 * len(early)), 1) if early else None,
        "second gone after, s": round(gone_s, 1) if len(numbered.running()) <= 1 else None,
        "answers": callers.answers, "failed": callers.failed, "different": callers.different,
        "start, s": round(load.start_s, 2),
        "said": [
            (round(float(str(each["at"])) - eight_s, 1), each["event"], each["wanted"], each["why"]) for each in said
        ],
    }  # fmt: skip


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling.here", description=__doc__)
    parser.add_argument("--model", default="", help="a GGUF file; by default the embedded model")
    parser.add_argument("--one-s", type=float, default=15.0)
    parser.add_argument("--eight-s", type=float, default=40.0)
    parser.add_argument("--hold-s", type=float, default=120.0)
    parser.add_argument("--target-wait", type=float, default=2.0)
    parser.add_argument("--max", type=int, default=len(os.sched_getaffinity(0)), help="the most replicas")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sarai-bench-") as folder:
        os.environ |= {"TMPDIR": folder, "XDG_STATE_HOME": folder, "SKILL_DRAFT_MODEL": options.model}
        tempfile.tempdir = folder
        print(json.dumps(measure(options), indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
