"""Ctrl-C at every line at which it may hit the beginning of a call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.stub_skill import Reply, StubSkill

ROOT = Path(__file__).parents[2]

# Presses Ctrl-C at the first line of gRPC's Python that a streamed call goes through, in the next round at the second
# line, and so on until a call goes through undisturbed. Each round's channel must close.
SCRIPT = """
import faulthandler, gc, signal, sys
import grpc
from skills import skills_pb2
from tests.stub_plugin import client_of

gc.disable()
gc.freeze()  # what is loaded by now is looked at by no collection below
target = sys.argv[1]
line = interrupted = 0
pressed = True
while pressed:
    faulthandler.dump_traceback_later(20, exit=True)  # a round takes milliseconds, or hangs
    line += 1
    left, pressed = line, False

    def trace(frame, event, _):
        global left, pressed
        if not frame.f_code.co_filename.startswith(grpc.__path__[0]):
            return None
        if event == "line":
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
assert interrupted == line - 1, (interrupted, line)
print(interrupted)
"""


def test_ctrl_c_at_any_line_of_a_beginning_call_is_raised_and_lets_the_channel_close() -> None:
    with StubSkill(Reply(text="one two", chunk_delay_s=0.01)) as skill:
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, skill.target],
            cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 20, "lines of gRPC that were interrupted"
