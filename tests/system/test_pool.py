"""The pool with real local servers: processes, sockets, signals."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest

from core.config import PoolConfig
from core.errors import (
    DeadlineError,
    PoolClosedError,
    SkillRestartLimitError,
    SkillStartError,
    SkillStartTimeoutError,
    UnavailableError,
    UnknownSkillError,
)
from core.local.progress import Progress, Serving, Starting, Waiting, report
from core.model_pool import ModelPool, get_model_pool
from skills import skills_pb2
from tests.stub_plugin import PluginTree, free_port
from tests.stub_skill import StubSkill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
REQUEST = skills_pb2.GenReq(prompt="x")


class House:
    """A plugin tree with one skill, `echo`, and pools that know only it."""

    def __init__(self, folder: Path) -> None:
        self.tree = PluginTree(folder)
        self.folder = folder
        self.pid_file = folder / "pids"
        self.port = free_port()
        self._pools: list[ModelPool] = []

    def skill(self, *options: str) -> None:
        """Write the skill's plugin, whose server gets these options."""
        self.tree.write_stub("echo", "--pid-file", str(self.pid_file), *options, port=self.port)

    def pool(self, on_progress: Callable[[Progress], None] = report, **settings: Any) -> ModelPool:
        """Return a new pool with these settings."""
        config = PoolConfig(**({"log_dir": self.folder / "logs"} | settings))
        self._pools.append(ModelPool(config, plugins=self.tree.load(), on_progress=on_progress))
        return self._pools[-1]

    def pids(self) -> list[int]:
        """Return the process ids of all servers that were started, oldest first."""
        return [int(line) for line in self.pid_file.read_text().split()] if self.pid_file.exists() else []

    def close(self) -> None:
        """Close all pools."""
        for pool in self._pools:
            pool.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    before = list(sys.path)
    made = House(tmp_path)
    yield made
    made.close()
    sys.path[:] = before


def gone(pid: int, within_s: float = 2.0) -> bool:
    """Return whether a process ends within `within_s` seconds."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_skill_that_runs_nowhere_is_started_here(house: House) -> None:
    house.skill("--reply", "from the process")
    client = house.pool().get_skill_client("echo")
    assert client.Generate(REQUEST, timeout=10.0).text == "from the process"
    assert "".join(chunk.text for chunk in client.GenerateStream(REQUEST, timeout=10.0)) == "from the process"
    assert client.Health().status == "SERVING"
    assert client.origin == "embedded"
    assert client.target.startswith("unix:")


def test_pool_gives_the_same_client_each_time_until_it_is_closed(house: House) -> None:
    house.skill()
    pool = house.pool()
    client = pool.get_skill_client("echo")
    assert pool.get_skill_client("echo") is client
    client.close()
    assert pool.get_skill_client("echo").Generate(REQUEST, timeout=10).text == "echo: x"
    assert len(house.pids()) == 1


def test_address_that_is_set_goes_before_all(house: House) -> None:
    house.skill()
    with StubSkill("elsewhere") as elsewhere, StubSkill("at the port", listen=f"127.0.0.1:{house.port}"):
        client = house.pool(targets={"SARAI_ECHO_TARGET": elsewhere.target}).get_skill_client("echo")
        assert client.Generate(REQUEST, timeout=10).text == "elsewhere"
        assert (client.origin, client.target) == ("address", elsewhere.target)
    assert house.pids() == []


def test_server_at_the_skills_port_is_used_when_it_serves(house: House) -> None:
    house.skill()
    with StubSkill("at the port", listen=f"127.0.0.1:{house.port}"):
        client = house.pool().get_skill_client("echo")
        assert client.Generate(REQUEST, timeout=10).text == "at the port"
        assert client.origin == "running"
    assert house.pids() == []


def test_server_at_the_skills_port_is_passed_over_when_it_does_not_serve(house: House) -> None:
    house.skill()
    with StubSkill("at the port", listen=f"127.0.0.1:{house.port}", serving=False):
        assert house.pool().get_skill_client("echo").origin == "embedded"


def test_other_program_at_the_skills_port_is_passed_over(house: House) -> None:
    import socket

    house.skill()
    with socket.create_server(("127.0.0.1", house.port)):
        started = time.monotonic()
        assert house.pool(probe_timeout_s=0.3).get_skill_client("echo").origin == "embedded"
        assert time.monotonic() - started < 8


def test_server_that_was_found_and_has_gone_is_replaced(house: House) -> None:
    house.skill()
    pool = house.pool(recovery_s=0.2)
    with StubSkill("at the port", listen=f"127.0.0.1:{house.port}"):
        assert pool.get_skill_client("echo").origin == "running"
    with pytest.raises(UnavailableError):
        pool.get_skill_client("echo").Generate(REQUEST, timeout=10)
    client = pool.get_skill_client("echo")
    assert client.origin == "embedded"
    assert client.Generate(REQUEST, timeout=10).text == "echo: x"


def test_looking_for_a_server_where_there_is_none_takes_next_to_no_time(house: House) -> None:
    house.skill()
    started = time.monotonic()
    with pytest.raises(SkillStartError) as caught:
        house.pool(embedded=False).get_skill_client("echo")
    assert time.monotonic() - started < 0.1
    assert f"127.0.0.1:{house.port}" in str(caught.value)
    assert "SARAI_ECHO_TARGET" in str(caught.value)
    assert house.pids() == []


def test_many_threads_at_once_get_one_server(house: House) -> None:
    house.skill()
    pool = house.pool()
    with ThreadPoolExecutor(8) as threads:
        clients = list(threads.map(lambda _: pool.get_skill_client("echo"), range(8)))
    assert len(set(map(id, clients))) == 1
    assert len(house.pids()) == 1


def test_server_that_cannot_start_is_told_with_its_exit_code_and_last_words(house: House) -> None:
    house.skill("--fail", "no such model: x.gguf")
    with pytest.raises(SkillStartError) as caught:
        house.pool().get_skill_client("echo")
    error = caught.value
    assert error.exit_code == 1
    assert error.log_tail == ("no such model: x.gguf",)
    assert error.log is not None
    assert error.log.read_text() == "no such model: x.gguf\n"
    assert all(part in str(error) for part in ("'echo'", "exit code 1", "no such model: x.gguf", str(error.log)))
    assert error.log.parent == house.folder / "logs" / "echo"


def test_server_that_is_killed_while_it_starts_is_told_by_the_signals_name(house: House) -> None:
    house.skill("--load-s", "60")

    def kill() -> None:
        while not house.pids():
            time.sleep(0.01)
        os.kill(house.pids()[0], signal.SIGKILL)

    threading.Thread(target=kill).start()
    with pytest.raises(SkillStartError, match="SIGKILL") as caught:
        house.pool().get_skill_client("echo")
    assert caught.value.exit_code == -signal.SIGKILL


def test_server_that_takes_too_long_is_stopped_and_told(house: House) -> None:
    house.skill("--load-s", "60")
    with pytest.raises(SkillStartTimeoutError, match=r"not SERVING 1.5 s after its start"):
        house.pool(startup_timeout_s=1.5).get_skill_client("echo")
    assert gone(house.pids()[0])


def test_client_is_given_only_when_the_server_serves(house: House) -> None:
    house.skill("--load-s", "1.2")
    events: list[Progress] = []
    client = house.pool(events.append).get_skill_client("echo")
    assert isinstance(events[0], Starting)
    assert events[0].log.exists()
    assert not events[0].restart
    assert any(isinstance(event, Waiting) and event.elapsed_s >= 1 for event in events[1:-1])
    assert isinstance(events[-1], Serving)
    assert events[-1].target == client.target
    assert events[-1].elapsed_s >= 1.2


def test_log_goes_elsewhere_when_its_folder_cannot_be_made(house: House) -> None:
    house.skill()
    (house.folder / "file").touch()
    events: list[Progress] = []
    house.pool(events.append, log_dir=house.folder / "file" / "logs").get_skill_client("echo")
    assert isinstance(events[0], Starting)
    assert "serving at unix:" in events[0].log.read_text()
    events[0].log.unlink()


def test_old_logs_are_removed(house: House) -> None:
    house.skill()
    logs = house.folder / "logs" / "echo"
    logs.mkdir(parents=True)
    for day in range(10, 40):
        (logs / f"202001{day}T000000-1-x.log").touch()
    house.pool().get_skill_client("echo")
    assert len(list(logs.iterdir())) == 20
    assert not (logs / "20200110T000000-1-x.log").exists()


def test_server_that_died_is_started_again_by_the_next_call(house: House) -> None:
    house.skill()
    events: list[Progress] = []
    client = house.pool(events.append).get_skill_client("echo")
    os.kill(house.pids()[0], signal.SIGKILL)
    assert client.Generate(REQUEST, timeout=20).text == "echo: x"
    assert len(house.pids()) == 2
    assert [event.restart for event in events if isinstance(event, Starting)] == [False, True]
    os.kill(house.pids()[1], signal.SIGKILL)
    assert next(client.GenerateStream(REQUEST, timeout=20)).text == "echo:"


def test_call_that_its_server_dies_under_is_made_again_by_the_next_server(house: House) -> None:
    house.skill("--delay-s", "1")
    client = house.pool().get_skill_client("echo")
    threading.Timer(0.4, lambda: os.kill(house.pids()[0], signal.SIGKILL)).start()
    assert client.Generate(REQUEST, timeout=20).text == "echo: x"
    assert len(house.pids()) == 2


def test_server_that_dies_again_and_again_is_given_up(house: House) -> None:
    house.skill()
    client = house.pool(restart_limit=2).get_skill_client("echo")
    for started in (1, 2, 3):
        assert client.Generate(REQUEST, timeout=20).text == "echo: x"
        assert len(house.pids()) == started
        os.kill(house.pids()[-1], signal.SIGKILL)
        assert gone(house.pids()[-1])
    with pytest.raises(SkillRestartLimitError, match="2 times within 60 s") as caught:
        client.Generate(REQUEST, timeout=20)
    assert isinstance(caught.value, grpc.RpcError)
    assert len(house.pids()) == 3


def test_restart_that_takes_longer_than_the_call_may_ends_with_its_deadline(house: House) -> None:
    house.skill("--load-s", "1.5")
    client = house.pool().get_skill_client("echo")
    os.kill(house.pids()[0], signal.SIGKILL)
    assert gone(house.pids()[0])
    started = time.monotonic()
    with pytest.raises(DeadlineError, match="still starting"):
        client.Generate(REQUEST, timeout=0.5)
    assert time.monotonic() - started < 1
    assert client.Generate(REQUEST, timeout=20).text == "echo: x"
    assert len(house.pids()) == 2


def test_closing_the_pool_stops_its_server_and_leaves_nothing(house: House) -> None:
    house.skill()
    pool = house.pool()
    client = pool.get_skill_client("echo")
    folder = Path(client.target.removeprefix("unix:")).parent
    assert folder.exists()
    pool.close()
    pool.close()
    assert gone(house.pids()[0], 0.1)
    assert not folder.exists()
    with pytest.raises(PoolClosedError):
        client.Generate(REQUEST)
    with pytest.raises(PoolClosedError):
        pool.get_skill_client("echo")


def test_pool_is_a_context_manager(house: House) -> None:
    house.skill()
    with house.pool() as pool:
        pool.get_skill_client("echo")
    assert gone(house.pids()[0], 0.1)


def test_closing_the_pool_ends_a_start_that_is_under_way(house: House) -> None:
    house.skill("--load-s", "60")
    pool = house.pool()
    threading.Timer(1.0, pool.close).start()
    with pytest.raises(PoolClosedError):
        pool.get_skill_client("echo")
    assert gone(house.pids()[0])


def test_ctrl_c_of_the_terminal_does_not_reach_the_server(house: House) -> None:
    house.skill()
    house.pool().get_skill_client("echo")
    assert os.getsid(house.pids()[0]) != os.getsid(0)
    assert os.getpgid(house.pids()[0]) != os.getpgid(0)


def test_server_finds_the_modules_that_its_host_finds_from_any_working_directory(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    (house.folder / "only_here.py").write_text("from tests.stub_skill import main\nmain()\n")
    house.skill()
    plugin = house.folder / house.tree.package / "skill_echo" / "plugin.py"
    plugin.write_text(plugin.read_text().replace(f"port={house.port}", "serve=('-m', 'only_here')"))
    pool = house.pool()
    monkeypatch.chdir("/")
    assert pool.get_skill_client("echo").Generate(REQUEST, timeout=10).text == "echo: x"


def test_unknown_skill_is_told_with_the_nearest_name(house: House) -> None:
    house.skill()
    house.tree.write("broken", "1 / 0\n")
    pool = house.pool()
    with pytest.raises(UnknownSkillError) as caught:
        pool.get_skill_client("ecko")
    assert (caught.value.known, caught.value.nearest) == (("echo",), "echo")
    assert "skill_broken" in str(caught.value)
    assert list(pool.skills()) == ["echo"]
    assert [error.name for error in pool.plugins.errors] == ["skill_broken"]


def test_answer_that_the_garbage_collector_finds_does_not_keep_the_server(house: House) -> None:
    house.skill("--delay-s", "0.1", "--reply", "one two")
    pool = house.pool(idle_stop_s=0.5)
    answer: list[Any] = [pool.get_skill_client("echo").GenerateStream(REQUEST, timeout=60)]
    next(answer[0])
    answer.append(answer)
    del answer
    gc.collect()
    assert gone(house.pids()[0], 5)


def test_async_twin_shares_the_server(house: House) -> None:
    house.skill()
    pool = house.pool()

    async def use() -> str:
        client = await pool.get_async_skill_client("echo")
        assert await pool.get_async_skill_client("echo") is client
        first = await client.Generate(REQUEST, timeout=10)
        os.kill(house.pids()[-1], signal.SIGKILL)
        pieces = [chunk.text async for chunk in client.GenerateStream(REQUEST, timeout=20)]
        assert "".join(pieces) == first.text
        with pytest.raises(UnknownSkillError):
            await pool.get_async_skill_client("ecko")
        return first.text

    assert asyncio.run(use()) == "echo: x"
    assert pool.get_skill_client("echo").Generate(REQUEST, timeout=10).text == "echo: x"
    assert len(house.pids()) == 2

    async def again() -> None:
        client = await pool.get_async_skill_client("echo")
        assert (await client.Generate(REQUEST, timeout=10)).text == "echo: x"
        await pool.aclose()
        assert client.closed

    asyncio.run(again())
    assert gone(house.pids()[-1], 0.1)


def host(house: House, body: str) -> subprocess.Popen[str]:
    """Start a program that makes a `pool` and a `client` of the one skill, and then runs `body`."""
    source = f"""
        import os, signal, sys, time
        sys.path.append({str(house.folder)!r})
        from core.plugins import Plugins
        import core.model_pool
        core.model_pool.get_plugins = lambda: Plugins(package={house.tree.package!r}, group="none")
        from core.model_pool import get_model_pool
        from skills import skills_pb2
        pool = get_model_pool()
        client = pool.get_skill_client("echo")
        ask = lambda client: client.Generate(skills_pb2.GenReq(prompt="x"), timeout=10).text
        assert ask(client) == "echo: x"
    """
    program = textwrap.dedent(source) + textwrap.dedent(body)
    environment = os.environ | {"SARAI_LOG_DIR": str(house.folder / "logs")}
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_server_is_stopped_when_the_program_ends(house: House) -> None:
    house.skill()
    with host(house, "print(client.target)") as process:
        target = line(process)
    assert process.returncode == 0
    assert gone(house.pids()[0], 0.5)
    assert not Path(target.removeprefix("unix:")).parent.exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_parent_that_is_killed_leaves_no_server(house: House, how: signal.Signals) -> None:
    house.skill()
    with host(house, "print('up', flush=True); time.sleep(60)") as process:
        assert line(process) == "up"
        process.send_signal(how)
    assert process.returncode == -how
    assert gone(house.pids()[0])


def test_parent_that_is_killed_leaves_no_server_even_if_a_forked_child_lives_on(house: House) -> None:
    house.skill()
    body = """
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        print(child, flush=True)
        time.sleep(60)
    """
    with host(house, body) as process:
        child = int(line(process))
        try:
            process.kill()
            assert gone(house.pids()[0])
            assert not gone(child, 0.1)
        finally:
            os.kill(child, signal.SIGKILL)


def test_forked_child_gets_a_pool_of_its_own_that_leaves_the_server_to_the_parent(house: House) -> None:
    house.skill()
    body = """
        from core.errors import PoolClosedError
        child = os.fork()
        if child == 0:
            try:
                ask(client)
            except PoolClosedError as error:
                assert str(os.getppid()) in str(error)
            else:
                os._exit(3)
            pool.close()
            assert get_model_pool() is not pool
            assert ask(get_model_pool().get_skill_client("echo")) == "echo: x"
            sys.exit(0)  # runs all exit handlers, including the parent's
        assert os.waitpid(child, 0)[1] == 0
        assert os.path.exists(client.target.removeprefix("unix:"))
        assert ask(client) == "echo: x"
        print("fine", flush=True)
    """
    with host(house, body) as process:
        assert line(process) == "fine"
    assert process.returncode == 0
    assert len(house.pids()) == 1, "parent and child share the server"
    assert gone(house.pids()[0], 0.5)


def test_pool_of_the_process_is_one_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor(8) as threads:
        pools = set(threads.map(lambda _: get_model_pool(), range(32)))
    (pool,) = pools
    assert "draft" in pool.skills()
    pool.close()
    monkeypatch.setenv("SARAI_DRAFT_TARGET", "127.0.0.1:9")
    with get_model_pool() as other:
        assert other is not pool
        assert other.get_skill_client("draft").target == "127.0.0.1:9"
