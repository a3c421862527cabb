"""Compile each grammar in a trial process first, before the engine does.

llguidance bounds most of a grammar's costs, but not all: some grammars take minutes to compile, and a chain of
thousands of rules overflows its stack, which Python cannot catch. So each grammar is compiled here first, and one that
kills this process is refused. The process starts with the first grammar and ends with the engine.
"""

from __future__ import annotations

import contextlib
import json
import resource
import select
import signal
import subprocess
import sys
from typing import Any

MAX_COMPILE_S = 2.0  # of CPU time
_MAX_WAIT_S = 8.0  # elapsed time, on a busy machine
_MAX_MEMORY = 128 << 20  # bytes, including the 28 MB of the process itself

# For each mask, about 14 ms of lexing and 3 ms of parsing. For a grammar, 1 to 2 kB a state.
LIMITS = {"step_lexer_fuel": 200_000, "step_max_items": 50_000, "max_lexer_states": 20_000, "verbose_errors": False}


class Trial:
    """The trial process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process. Idempotent."""
        if process := self._process:
            self._process = None
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def complaint(self, grammar: str) -> str:
        """Return why the grammar cannot be used; empty if it can."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(grammar) + "\n")
            process.stdin.flush()
            ready = select.select([process.stdout], [], [], _MAX_WAIT_S)[0]
            if ready and (line := process.stdout.readline()):
                return str(json.loads(line))
        except BrokenPipeError:
            ready = [process.stdout]
        if not ready:
            process.kill()
        code = process.wait()
        self.close()
        if not ready or code == -signal.SIGPROF:
            return f"takes more than {MAX_COMPILE_S:g} s to compile, which is the limit"
        return "nests too deeply or needs too much memory to compile"

    def _start(self) -> subprocess.Popen[str]:
        # -P: this folder has modules with the names of standard ones.
        command = [sys.executable, "-P", __file__]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        return self._process


def _try(tokenizer: Any, grammar: str) -> str:
    from llguidance import LLMatcher, LLParserLimits

    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LLParserLimits(**LIMITS))  # type: ignore[arg-type]
    if not matcher.is_error():
        matcher.compute_bitmask()
    return matcher.get_error()


def main() -> None:
    """Try the grammars on standard input, one a line, until it is closed; print the complaint about each."""
    from llguidance import LLTokenizer

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tokenizer = LLTokenizer("byte")
    for line in sys.stdin:
        # The signal has no handler, so the kernel ends the process, whatever it is doing.
        signal.setitimer(signal.ITIMER_PROF, MAX_COMPILE_S)
        complaint = _try(tokenizer, json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(complaint) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
