"""Ctrl-C at every line that may be running while a call begins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stub_skill import Reply, StubSkill

ROOT = Path(__file__).parents[2]

# Presses Ctrl-C at the first line of a package that a streamed call executes, in the next round at the second line,
# and so on until a call is not interrupted any more. In each round the channel must close, and no call may remain.
SCRIPT = """
import faulthandler, gc, linecache, signal, sys
import core, grpc
from skills import skills_pb2
from tests.stub_plugin import client_of

gc.disable()
gc.freeze()  # what is loaded by now is looked at by no collection below
target, folder = sys.argv[1], {"grpc": grpc, "core": core}[sys.argv[2]].__path__[0]
line = interrupted = 0
pressed = True
while pressed:
    faulthandler.dump_traceback_later(20, exit=True)  # a round takes milliseconds, or hangs
    line += 1
    left, pressed = line, False

    def trace(frame, event, _):
        global left, pressed
        if not frame.f_code.co_filename.startswith(folder):
            return None
        # Tracing stops at the end of a `with` too, between its last line and its __exit__; no real Ctrl-C comes there.
        line_of_code = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not line_of_code.lstrip().startswith("with "):
            left -= 1
            if left == 0:
                pressed = True
                signal.raise_signal(signal.SIGINT)
        return trace

    # What is left of the rounds before ends here, not below: Python drops what is raised in a __del__.
    stream = None
    gc.collect()
    client = client_of(target)
    sys.settrace(trace)
    try:
        stream = client.GenerateStream(skills_pb2.GenReq(prompt="x"), timeout=10)
        sys.settrace(None)
        stream.close()
    except KeyboardInterrupt:
        interrupted += 1
    finally:
        sys.settrace(None)
    client.close()
    assert not client._wire.pool.outstanding
assert interrupted == line - 1, (interrupted, line)
print(interrupted)
"""


@pytest.mark.parametrize("package", ["grpc", "core"])
def test_ctrl_c_at_any_line_of_a_beginning_call_is_raised_and_lets_the_channel_close(package: str) -> None:
    with StubSkill(Reply(text="one two", chunk_delay_s=0.01)) as skill:
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, skill.target, package],
            cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 20, "too few lines were interrupted"
