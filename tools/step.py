"""Runs one long command quietly: its output goes to a log, a progress line to the terminal."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tools.progress import Progress

_TAIL_LINES = 40
_TICK_S = 0.1
_STOP_S = 10.0

# Reads a line of output; gives the share that is done (0 to 1) and a short note, or None where the line says nothing.
ReadProgress = Callable[[str], "tuple[float, str] | None"]


class StepError(Exception):
    """A command of the set-up failed; the text is fit for the terminal as it is."""


def run_step(
    label: str,
    argv: Sequence[str],
    *,
    log: Path,
    expected_s: float,
    read_progress: ReadProgress,
    env: Mapping[str, str] | None = None,
) -> None:
    """Runs a command to its end.

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
        subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=None if env is None else dict(env),
        ) as process,
    ):
        try:
            for line in _lines(process, progress):
                written.write(line)
                tail.append(line)
                if (found := read_progress(line)) is not None:
                    progress.update(*found)
        except BaseException:
            # Ctrl-C reached the command as well, which is in our process group: give it time to clean up.
            _stop(process)
            progress.finish("interrupted")
            raise
    if process.returncode != 0:
        progress.finish("failed")
        raise StepError(f"{''.join(tail)}\n{label} failed with exit code {process.returncode}. The whole log: {log}")
    progress.finish("done")


def _lines(process: subprocess.Popen[str], progress: Progress) -> Iterator[str]:
    """Yields the lines of the output as they come, and lets the progress line tick in between."""
    assert process.stdout is not None
    stdout = process.stdout
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=_TICK_S)
        except queue.Empty:
            progress.tick()
            continue
        if line is None:
            return
        yield line


def _stop(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S / 2)
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S / 2)
    if process.poll() is None:
        process.kill()
