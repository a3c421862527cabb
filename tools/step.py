"""Run one long command quietly: its output goes to a log, a progress line to the terminal."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tools.progress import Progress

_TAIL_LINES = 40
_TICK_S = 0.1
_STOP_S = 10.0

# Reads a line of output; returns the share that is done (0 to 1) and a short note, or None if the line has no progress.
ReadProgress = Callable[[str], "tuple[float, str] | None"]


class StepError(Exception):
    """A command of the set-up failed; the text is ready for the terminal."""


def last_line(text: object) -> str:
    """Return the last line of an output or an error, which mostly has the reason; empty if there is none."""
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def logs() -> Path:
    """Return the folder for logs of steps that do not belong to one tree, such as those of images."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "sarai" / "logs"


def exit_code(work: Callable[[], object]) -> int:
    """Run a tool's work and return its exit code: 1 after a failed step, whose text it prints; 130 after Ctrl-C."""
    try:
        work()
    except StepError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def run_step(
    label: str,
    argv: Sequence[str],
    *,
    log: Path,
    expected_s: float,
    read_progress: ReadProgress,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a command to its end. Ctrl-C, SIGTERM or SIGHUP to this process ends all processes that the command started.

    Args:
        label: What it does, for the progress line.
        argv: The command.
        log: Where its whole output goes.
        expected_s: About how long it takes.
        read_progress: Finds the progress in a line of the output.
        env: The command's environment, by default this process's.

    Raises:
        StepError: The exit code was not 0; the text has the last lines of the output and the log's path.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    progress = Progress(label, expected_s=expected_s)
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with (
        log.open("w", encoding="utf-8") as written,
        _signals_held_back() as raise_signal,  # before there is anything to end
        _popen(argv, env) as process,
    ):
        try:
            for line in _lines(process):
                raise_signal()
                if line is None:
                    progress.tick()
                    continue
                written.write(line)
                tail.append(line)
                if (found := read_progress(line)) is not None:
                    progress.update(*found)
            raise_signal()
        except BaseException:
            _stop(process)
            progress.finish("interrupted")
            raise
    if process.returncode != 0:
        progress.finish("failed")
        raise StepError(f"{''.join(tail)}\n{label} failed with exit code {process.returncode}. The whole log: {log}")
    progress.finish("done")


def _popen(argv: Sequence[str], env: Mapping[str, str] | None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=None if env is None else dict(env),
        start_new_session=True,  # so that a compiler that the command started can be ended with it
    )


def _lines(process: subprocess.Popen[str]) -> Iterator[str | None]:
    """Yield the lines of the output as they arrive, and None at intervals while there are none."""
    assert process.stdout is not None
    stdout = process.stdout
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=_TICK_S)
        except queue.Empty:
            yield None
            continue
        if line is None:
            return
        yield line


@contextlib.contextmanager
def _signals_held_back() -> Iterator[Callable[[], None]]:
    """Hold signals back and yield a function that raises the one received: at once it would end only this process."""
    came: list[int] = []

    def raise_signal() -> None:
        if came:
            raise KeyboardInterrupt if came[0] == signal.SIGINT else SystemExit(128 + came[0])

    if threading.current_thread() is not threading.main_thread():  # only the main thread has signals
        yield raise_signal
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # An ignored signal, as under nohup, stays ignored.
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in heard}
    try:
        yield raise_signal
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(process: subprocess.Popen[str]) -> None:
    """End the command and all processes that it started; they have a few seconds to clean up."""
    with contextlib.suppress(ProcessLookupError):  # no process is left
        os.killpg(process.pid, signal.SIGTERM)
        until_s = time.monotonic() + _STOP_S
        while time.monotonic() < until_s:
            process.poll()  # reaps the command itself, which would count as one that is left
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
