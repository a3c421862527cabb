"""Processes that share a local server: they start, leave, and are killed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]

# Evaluates each line, a Python expression, and prints its value, or "!" and its error, as one line.
USER = """
import os, sys, time
from core.local.embedded import EmbeddedReplica
from core.rpc import open_channel
from core.config import PoolConfig
from core.local.progress import Starting
from skills import skills_pb2, skills_pb2_grpc
from tests.stub_plugin import stub_spec

events = []
seen = []
unraisable = []
sys.unraisablehook = lambda hooked: unraisable.append(repr(hooked.exc_value))

def replica_of():
    spec = stub_spec("echo", serve=("-m", "tests.shared_skill", *OPTIONS))
    return EmbeddedReplica(spec, PoolConfig.from_env(), lambda event: events.append((time.monotonic(), event)))

replica = replica_of()

def ask(replica=replica):
    replica.begin_use()
    try:
        replica.ready(60)
        with open_channel(replica.target) as channel:
            return skills_pb2_grpc.SkillsServiceStub(channel).Generate(skills_pb2.GenReq(prompt="x"), timeout=10).text
    finally:
        replica.end_use()

def come_and_go():
    replica = replica_of()
    answer = ask(replica)
    replica.close()
    return answer

def fork():
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    return child

def look_when_leaving():
    leave = replica._server.leave
    replica._server.leave = lambda: (seen.append(replica.is_ready()), leave())

def starts():
    return [event.restart for _, event in events if isinstance(event, Starting)]

print("here", flush=True)
for line in sys.stdin:
    try:
        print(repr(eval(line)), flush=True)
    except Exception as error:
        print("!" + " ".join(f"{type(error).__name__}: {error}".split()), flush=True)
"""


class User:
    """A process that uses the skill, and evaluates expressions."""

    def __init__(self, program: str, environment: dict[str, str], folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error::ResourceWarning", "-c", program],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def begin(self, expression: str) -> None:
        """Send an expression without waiting; `answer` returns the result."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{expression}\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """Return the result of the oldest pending expression; for an error, its text."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        return line if line.startswith("!") else eval(line, {"PosixPath": Path})

    def __call__(self, expression: str) -> Any:
        self.begin(expression)
        return self.answer()

    def kill(self) -> None:
        """Kill the process with SIGKILL, and wait until it has ended."""
        self.process.kill()
        self.process.wait()


class House:
    """Users, and the servers that they start."""

    def __init__(self, folder: Path, tmp: Path) -> None:
        self._stack = contextlib.ExitStack()
        self._pid_file = tmp / "pids"
        self.folder = folder
        self.tmp = tmp
        self.options: tuple[str, ...] = ("--pid-file", str(self._pid_file))
        """Options for servers that are started from now on."""

    def users(self, number: int, *, folder: Path = ROOT, **settings: str) -> list[User]:
        """Start `number` users with these environment variables; return when all are ready."""
        clean = {name: text for name, text in os.environ.items() if not name.startswith(("SKILL_", "SARAI_", "PYTHON"))}
        own = {"TMPDIR": str(self.tmp), "SARAI_LOG_DIR": str(self.folder / "logs")}
        program = f"OPTIONS = {self.options!r}\n{USER}"
        made = [User(program, clean | own | settings, folder) for _ in range(number)]
        for user in made:
            self._stack.callback(self._end, user)
        for user in made:
            assert user.process.stdout is not None
            assert user.process.stdout.readline() == "here\n"
        return made

    def user(self, **settings: Any) -> User:
        """Start one user."""
        (made,) = self.users(1, **settings)
        return made

    def pids(self) -> list[int]:
        """Return the process ids of all servers that were started, oldest first."""
        return [int(line) for line in self._pid_file.read_text().split()] if self._pid_file.exists() else []

    def crash(self) -> None:
        """Kill the newest server."""
        pid = self.pids()[-1]
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        while len(list(Path(f"/proc/{pid}/task").glob("*"))) > 1:  # its main thread may be a zombie before the others
            time.sleep(0.01)

    def directories(self) -> list[Path]:
        """Return the servers' remaining directories."""
        return list(self.tmp.glob("sarai-*"))

    @staticmethod
    def _end(user: User) -> None:
        user.kill()
        for stream in (user.process.stdin, user.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def close(self) -> None:
        """End all users, and any servers that are still running."""
        self._stack.close()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as tmp:  # short enough for sockets, unlike tmp_path
        made = House(tmp_path, Path(tmp))
        yield made
        made.close()


def gone(pid: int, within_s: float = 2.0) -> bool:
    """Return whether a process ends within `within_s` seconds."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.02)
                continue
        return True
    return False


def test_two_processes_share_one_server_and_none_is_left_when_both_have_gone(house: House) -> None:
    first, second = house.users(2)
    assert first("ask()") == second("ask()") == "echo: x"
    (server,) = house.pids()
    assert first("replica.pid") == second("replica.pid") == server
    assert "serving at unix:" in first("replica.log").read_text()
    assert first("replica.log") == second("replica.log")
    assert (first("starts()"), second("starts()")) == ([False], [])
    first("replica.close()")
    assert not gone(server, 0.3)
    assert second("ask()") == "echo: x"
    begun_s = time.monotonic()
    second("replica.close()")
    assert time.monotonic() - begun_s < 3, "the server ends by itself, and is not killed after the grace period"
    assert gone(server, 0.1)
    assert house.directories() == []
    assert house.pids() == [server]


def test_processes_in_different_directories_share(house: House) -> None:
    first, second = house.user(), house.user(folder=house.folder)
    assert first("ask()") == second("ask()") == "echo: x"
    assert len(house.pids()) == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["starter first", "starter last"])
def test_users_that_are_killed_leave_no_server(house: House, order: tuple[int, int]) -> None:
    users = [house.user(), house.user()]
    assert [user("ask()") for user in users] == ["echo: x"] * 2
    (server,) = house.pids()
    users[order[0]].kill()
    assert not gone(server, 0.3)
    assert users[order[1]]("ask()") == "echo: x"
    users[order[1]].kill()
    assert gone(server)
    assert house.pids() == [server]


def test_one_that_is_killed_and_one_that_goes_leave_nothing(house: House) -> None:
    first, second = house.users(2)
    assert first("ask()") == second("ask()") == "echo: x"
    first.kill()
    second("replica.close()")
    assert gone(house.pids()[0], 0.1)
    assert house.directories() == []


def test_starter_that_is_killed_while_the_server_starts_does_not_stop_the_other(house: House) -> None:
    first, second = house.users(2)
    first.begin("ask()")
    while not house.pids():
        time.sleep(0.01)
    second.begin("ask()")
    first.kill()
    assert second.answer() == "echo: x"


def test_forked_child_does_not_keep_the_server(house: House) -> None:
    user = house.user()
    assert user("ask()") == "echo: x"
    child = user("fork()")
    try:
        user.kill()
        assert gone(house.pids()[0])
        assert not gone(child, 0.1)
    finally:
        os.kill(child, signal.SIGKILL)


def test_forked_child_is_not_counted_as_a_user(house: House) -> None:
    user = house.user()
    assert user("ask()") == "echo: x"
    child = user("fork()")
    try:
        user("replica.close()")
        assert gone(house.pids()[0], 0.1)
        assert house.directories() == []
    finally:
        os.kill(child, signal.SIGKILL)


def test_many_at_once_start_exactly_one_server_and_leave_nothing(house: House) -> None:
    users = house.users(8)
    for user in users:
        user.begin("ask()")
    assert [user.answer() for user in users] == ["echo: x"] * 8
    (server,) = house.pids()
    assert {user("replica.pid") for user in users} == {server}
    for user in users:
        user.begin("replica.close()")
    for user in users:
        user.answer()
    assert gone(server, 0.1)
    assert house.directories() == []


def test_many_that_come_and_go_all_get_their_answers_and_leave_nothing(house: House) -> None:
    users = house.users(4)
    for user in users:
        user.begin("[come_and_go() for _ in range(5)]")
    assert [user.answer() for user in users] == [["echo: x"] * 5] * 4
    assert all(gone(pid, 0.1) for pid in house.pids())
    assert house.directories() == []


def test_another_environment_gets_another_server(house: House) -> None:
    users = [house.user(), house.user(SKILL_DRAFT_X="1")]
    assert [user("ask()") for user in users] == ["echo: x"] * 2
    assert len(house.pids()) == 2


def test_sharing_can_be_switched_off(house: House) -> None:
    users = house.users(2, SARAI_SHARE_EMBEDDED="0")
    assert [user("ask()") for user in users] == ["echo: x"] * 2
    assert len(house.pids()) == 2
    for user in users:
        user("replica.close()")
    assert house.directories() == []


def test_server_that_crashes_is_replaced_by_exactly_one(house: House) -> None:
    users = house.users(2)
    assert [user("ask()") for user in users] == ["echo: x"] * 2
    house.crash()
    for user in users:
        user.begin("ask()")
    assert [user.answer() for user in users] == ["echo: x"] * 2
    _, second = house.pids()
    assert [user("replica.pid") for user in users] == [second] * 2
    assert max(user("starts()")[-1:] for user in users) == [True]
    assert [user("replica.restarts") for user in users] == [1, 1]


def test_users_count_the_restarts_of_their_server_together(house: House) -> None:
    users = house.users(2, SARAI_RESTART_LIMIT="2")
    assert [user("ask()") for user in users] == ["echo: x"] * 2
    for which in (0, 1):
        house.crash()
        assert users[which]("ask()") == "echo: x"
        assert users[1 - which]("ask()") == "echo: x"
    house.crash()
    for user in users:
        assert "2 times within 60 s" in user("ask()")
    assert len(house.pids()) == 3


def test_each_restart_waits_longer_than_the_one_before(house: House) -> None:
    user = house.user()
    for least_s in (0.1, 0.2, 0.4):
        assert user("ask()") == "echo: x"
        house.crash()
        user("events.clear()")
        begun_s = user("time.monotonic()")
        assert user("ask()") == "echo: x"
        assert user("events[0][0]") - begun_s >= least_s


def test_hung_server_is_replaced_and_the_others_go_on_with_the_new_one(house: House) -> None:
    first, second = house.users(2, SARAI_HEALTH_TIMEOUT_S="0.5")
    assert first("ask()") == second("ask()") == "echo: x"
    (server,) = house.pids()
    os.kill(server, signal.SIGSTOP)
    first("setattr(replica, 'lost', True)")
    assert first("ask()") == "echo: x"
    assert gone(server, 0.1)
    assert second("ask()") == "echo: x"
    assert first("replica.pid") == second("replica.pid") == house.pids()[1]
    assert len(house.pids()) == 2


def test_server_that_a_call_did_not_find_but_that_is_well_stays(house: House) -> None:
    user = house.user()
    assert user("ask()") == "echo: x"
    user("setattr(replica, 'lost', True)")
    assert user("ask()") == "echo: x"
    assert user("replica.lost") is False
    assert len(house.pids()) == 1


def test_hung_server_is_killed_by_the_last_to_leave_who_is_not_its_parent(house: House) -> None:
    first, second = house.users(2, SARAI_STOP_GRACE_S="0.3")
    assert first("ask()") == second("ask()") == "echo: x"
    first.kill()
    os.kill(house.pids()[0], signal.SIGSTOP)
    second("replica.close()")
    assert gone(house.pids()[0], 0.1)
    assert house.directories() == []


def test_user_that_comes_while_the_server_ends_gets_another_one(house: House) -> None:
    house.options += ("--linger-s", "1")
    first, second = house.users(2)
    assert first("ask()") == "echo: x"
    first.kill()
    assert second("ask()") == "echo: x"
    old, new = house.pids()
    assert gone(old, 0.1)
    assert second("replica.pid") == new
    assert second("starts()") == [False]


def test_server_that_does_not_end_does_not_delay_the_next_user(house: House) -> None:
    house.options += ("--linger-s", "60")
    first, second = house.users(2, SARAI_STOP_GRACE_S="0.3")
    assert first("ask()") == "echo: x"
    first.kill()
    assert second("ask()") == "echo: x"
    assert gone(house.pids()[0], 0.1)
    assert len(house.pids()) == 2


def test_ctrl_c_of_one_user_does_not_end_the_server_of_the_other(house: House) -> None:
    first, second = house.users(2)
    assert first("ask()") == second("ask()") == "echo: x"
    os.killpg(first.process.pid, signal.SIGINT)
    first.process.wait()
    assert second("ask()") == "echo: x"
    assert len(house.pids()) == 1


def test_starter_that_leaves_keeps_no_trace_of_a_server_that_lives_on(house: House) -> None:
    first, second = house.users(2)
    assert first("ask()") == second("ask()") == "echo: x"
    first("replica.close()")
    assert first("unraisable") == [], "Popen warned that its process still runs"
    second("replica.close()")
    until = time.monotonic() + 5
    while (children := psutil.Process(first.process.pid).children()) and time.monotonic() < until:
        time.sleep(0.02)
    assert children == [], "a zombie remains"


def test_server_that_is_not_called_is_released_and_started_again_by_the_next_call(house: House) -> None:
    user = house.user(SARAI_IDLE_STOP_S="0.4")
    assert user("ask()") == "echo: x"
    assert gone(house.pids()[0], 5)
    until = time.monotonic() + 2
    while house.directories() and time.monotonic() < until:
        time.sleep(0.02)
    assert house.directories() == []
    assert user("replica.pid") is None
    assert user("replica.is_ready()") is False
    assert user("ask()") == "echo: x"
    assert user("(replica.restarts, starts())") == (0, [False, False])
    assert len(house.pids()) == 2


def test_server_is_not_released_during_a_call(house: House) -> None:
    user = house.user(SARAI_IDLE_STOP_S="0.2")
    user("(replica.begin_use(), replica.ready(60))")
    assert not gone(house.pids()[0], 1.0)
    user("replica.end_use()")
    assert gone(house.pids()[0], 5)


def test_idle_user_takes_no_server_from_the_other_and_finds_it_again(house: House) -> None:
    idle, busy = house.user(SARAI_IDLE_STOP_S="0.2"), house.user()
    assert idle("ask()") == busy("ask()") == "echo: x"
    until = time.monotonic() + 5
    while idle("replica.is_ready()") and time.monotonic() < until:
        time.sleep(0.02)
    assert idle("replica.is_ready()") is False
    assert busy("ask()") == "echo: x"
    assert idle("ask()") == "echo: x"
    assert len(house.pids()) == 1


def test_call_that_begins_while_the_server_is_released_is_answered(house: House) -> None:
    user = house.user(SARAI_IDLE_STOP_S="0.02")
    # Each call begins a little nearer to the moment at which the server is released, or after it.
    asked = user("[(time.sleep(0.017 + 0.0005 * n), ask())[1] for n in range(12)]")
    assert asked == ["echo: x"] * 12
    assert user("replica.restarts") == 0
    assert len(house.pids()) > 1


def test_no_call_finds_a_server_ready_that_is_being_released(house: House) -> None:
    user = house.user(SARAI_IDLE_STOP_S="0.2")
    user("look_when_leaving()")
    assert user("ask()") == "echo: x"
    assert gone(house.pids()[0], 5)
    assert user("seen") == [False]


def test_directory_that_is_a_link_is_not_used(house: House) -> None:
    elsewhere = house.tmp / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    first = house.user()
    shared = Path(first("replica.target").removeprefix("unix:")).parent
    shared.symlink_to(elsewhere)
    second = house.user()
    assert Path(second("replica.target").removeprefix("unix:")).parent != shared
    assert second("ask()") == "echo: x"
    assert first("ask()").startswith("!SkillStartError")
    assert list(elsewhere.iterdir()) == []


# The following tests are about the server's side, which is in skills/runtime.
RUNTIME = """
import asyncio, subprocess, sys
from skills.runtime.serving import _Stopping

async def main():
    stopping = _Stopping(lifeline=True)
    stopping._on_lifeline()  # as after the end of a lifeline that another user has reopened: there is nothing to read
    child = subprocess.Popen(["sleep", "60"])
    print(stopping.first.is_set(), child.pid, flush=True)
    await stopping.first.wait()
    child.kill()
    child.wait()

asyncio.run(main())
"""


@contextlib.contextmanager
def runtime() -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    with subprocess.Popen(
        [sys.executable, "-c", RUNTIME], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().split()
        finally:
            process.kill()


def test_server_whose_last_user_was_followed_by_another_goes_on_until_that_one_has_gone() -> None:
    with runtime() as (process, said):
        assert said[0] == "False"
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0


def test_nothing_that_a_server_starts_holds_its_lifeline() -> None:
    with runtime() as (process, said):
        process.kill()
        process.wait()
        try:
            assert process.stdin is not None
            poll = select.poll()
            poll.register(process.stdin, 0)
            assert poll.poll(1000), "the child holds the lifeline open"
        finally:
            os.kill(int(said[1]), signal.SIGKILL)
