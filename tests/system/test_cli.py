"""The command line as users run it: real processes, a skill with scripted answers over a real socket."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from skills import skills_pb2
from tests.stub_plugin import free_port
from tests.stub_skill import Answer, Failure, Reply, StubSkill

ROOT = Path(__file__).parents[2]
SARAI = (sys.executable, "-m", "sarai")
SCRIPT = (
    Reply(text="the draft", logprob=-1.0),
    Reply(text="A point.", logprob=-1.0),
    Reply(text="the correction", logprob=-0.5),
    "NOTHING TO CORRECT",
)
PLUGIN = """
from core.hookspecs import hookimpl
from tests.stub_plugin import stub_spec

@hookimpl
def sarai_skills():
    return [stub_spec("local", "--pid-file", {pid_file!r}, *{options!r})]

@hookimpl
def sarai_commands(cli):
    import click

    @cli.command("greet")
    def greet():
        click.echo("hello from a plugin")
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a user who has set nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SARAI_", "SKILL_"))}
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        kept.pop(name, None)
    state = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "xterm", "TMPDIR": str(tmp_path)}
    return kept | state | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}


def install(folder: Path, name: str, source: str) -> None:
    """Install a package with a plugin, as pip would."""
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[sarai.skills]\n{name} = {name}\n")


@pytest.fixture
def pid_file(tmp_path: Path) -> Path:
    """Install the skill `local`; return the file into which its local server writes its process id."""
    path = tmp_path / "pids"
    install(tmp_path, "plugin_local", PLUGIN.format(pid_file=str(path), options=("--delay-s", "60")))
    return path


def sarai(
    environ: Mapping[str, str], *arguments: str, piped: str | None = None, target: str | None = None
) -> subprocess.CompletedProcess[str]:
    own = dict(environ) | ({"SARAI_DRAFT_TARGET": target} if target else {})
    stdin: dict[str, Any] = {"stdin": subprocess.DEVNULL} if piped is None else {"input": piped}
    return subprocess.run(
        [*SARAI, *arguments], env=own, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, **stdin
    )


def on_terminal(environ: Mapping[str, str], *arguments: str, target: str, **streams: Any) -> tuple[str, int]:
    """Run a command on a terminal; return what appears there, and the exit code."""
    ours, theirs = pty.openpty()
    own = dict(environ) | {"SARAI_DRAFT_TARGET": target}
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs} | streams
    with subprocess.Popen([*SARAI, *arguments], env=own, cwd=ROOT, start_new_session=True, **streams) as process:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while chunk := os.read(ours, 4096):
                seen += chunk
        os.close(ours)
        process.wait(30)
    return seen.decode().replace("\r\n", "\n"), process.returncode


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_loop_leaves_the_answer_alone_on_standard_output(environ: dict[str, str]) -> None:
    with StubSkill(SCRIPT) as skill:
        run = sarai(environ, "loop", "What is it?", target=skill.target)
    assert (run.returncode, run.stdout, run.stderr) == (0, "the correction\n", "")


@pytest.mark.parametrize("command", ["draft", "loop"])
def test_json_that_was_cut_off_is_a_failure_that_says_so(environ: dict[str, str], command: str) -> None:
    cut = Reply(text='{"a": ', finish_reason=skills_pb2.FINISH_REASON_LENGTH)
    with StubSkill([cut, "NOTHING TO CORRECT"]) as skill:
        run = sarai(environ, command, "--json-object", "x", target=skill.target)
    assert run.returncode == 1
    assert "cut off (LENGTH) after 2 tokens" in run.stderr


def test_loop_shows_its_work_where_it_is_asked_to(environ: dict[str, str]) -> None:
    with StubSkill(SCRIPT) as skill:
        run = sarai(environ, "loop", "--progress", "plain", "What is it?", target=skill.target)
    assert run.stdout == "the correction\n"
    order = ["draft", "the draft", "reflection", "A point.", "correction", "the correction", "summary", "stopped:"]
    places = [run.stderr.index(text) for text in order]
    assert places == sorted(places)
    assert "\x1b" not in run.stderr


def test_figures_are_on_standard_error_where_they_are_wanted(environ: dict[str, str]) -> None:
    with StubSkill(lambda request: SCRIPT[len(request.messages) // 2]) as skill:
        run = sarai(environ, "loop", "--stats", "What is it?", target=skill.target)
        assert run.stdout == "the correction\n"
        for figure in ("tok/s", "latency", "cached", "2 iterations", "nothing to correct", skill.target):
            assert figure in run.stderr
        draft = sarai(environ, "draft", "--stats", "x", target=skill.target)
        assert draft.stdout == "the draft\n" or "tok/s" in draft.stderr
        assert "tok/s" not in sarai(environ, "draft", "x", target=skill.target).stderr


def test_loop_on_a_terminal_prints_nothing_twice(environ: dict[str, str]) -> None:
    with StubSkill(SCRIPT) as skill:
        seen, code = on_terminal(environ | {"NO_COLOR": "1"}, "loop", "What is it?", target=skill.target)
    assert code == 0
    assert seen.count("the correction\n") == 1
    assert "answer · the correction above" in seen
    assert "\x1b" not in seen


def test_loop_on_a_terminal_prints_an_answer_again_that_is_not_the_last_thing(environ: dict[str, str]) -> None:
    worse: list[Answer] = [Reply(text="the draft", logprob=-0.5), "A point.", Reply(text="worse", logprob=-2.0)]
    with StubSkill(worse) as skill:
        arguments = ("loop", "--max-iterations", "2", "x")
        seen, _ = on_terminal(environ | {"NO_COLOR": "1"}, *arguments, target=skill.target)
    assert seen.count("the draft\n") == 2
    assert seen.index("answer · the draft of iteration 1") < seen.rindex("the draft\n") < seen.index("summary")


def test_answer_goes_to_its_file_while_the_terminal_shows_the_work(environ: dict[str, str], tmp_path: Path) -> None:
    answer = tmp_path / "answer.txt"
    with StubSkill(SCRIPT) as skill, answer.open("w") as file:
        seen, _ = on_terminal(environ, "loop", "x", target=skill.target, stdout=file)
    assert answer.read_text() == "the correction\n"
    assert "the draft" in seen
    assert "\x1b[" in seen, "the terminal gets colours"


def test_draft_streams_the_answer(environ: dict[str, str]) -> None:
    with StubSkill(Reply(text="one two", chunk_delay_s=20.0)) as skill:
        own = environ | {"SARAI_DRAFT_TARGET": skill.target}
        with subprocess.Popen(
            [*SARAI, "draft", "x"], env=own, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 15)[0], "nothing was written before the answer ended"
            assert os.read(process.stdout.fileno(), 100) == b"one"
            process.send_signal(signal.SIGINT)


def test_draft_reads_what_is_piped_in(environ: dict[str, str]) -> None:
    with StubSkill() as skill:
        run = sarai(environ, "draft", "Summarise", piped="a text\n", target=skill.target)
        assert (run.returncode, run.stdout) == (0, "echo: a text\n\nSummarise\n")
        (request,) = skill.requests
        assert request.prompt == "a text\n\nSummarise"


def test_candidates_stand_one_after_the_other(environ: dict[str, str]) -> None:
    with StubSkill(["same"]) as skill:
        assert sarai(environ, "draft", "--candidates", "2", "x", target=skill.target).stdout == "same\n---\nsame\n"


def test_no_prompt_is_help_and_no_hang(environ: dict[str, str]) -> None:
    with StubSkill() as skill:
        seen, code = on_terminal(environ, "draft", target=skill.target)
    assert code == 2
    assert "Examples:" in seen


def test_json_is_one_object_a_line(environ: dict[str, str]) -> None:
    with StubSkill(lambda request: SCRIPT[len(request.messages) // 2]) as skill:
        loop = json_lines(sarai(environ, "loop", "--json", "x", target=skill.target).stdout)
        draft = json_lines(sarai(environ, "--json", "draft", "x", target=skill.target).stdout)
        (health,) = json_lines(sarai(environ, "health", "--json", target=skill.target).stdout)
        rows = json_lines(sarai(environ, "skills", "--json", target=skill.target).stdout)
        chat = json_lines(sarai(environ, "chat", "--json", piped="Hi\n", target=skill.target).stdout)
    assert loop[0]["event"] == "loop_started"
    assert loop[-1]["event"] == "loop_finished"
    assert loop[-1]["result"]["answer"] == "the correction"
    assert "".join(event["text"] for event in draft[:-1]) == draft[-1]["text"] == "the draft"
    assert draft[-1]["finish_reason"] == "FINISH_REASON_STOP"
    assert health["status"] == "SERVING"
    assert isinstance(health["total_requests"], int)
    assert (health["engine"]["numerics"], health["engine"]["total_tokens"]) == ("exact", 0)
    assert [row["state"] for row in rows if row["name"] == "draft"] == ["serving"]
    assert chat[-1]["text"] == "the draft"


def test_exit_code_tells_whose_fault_it_was(environ: dict[str, str]) -> None:
    refused = Failure(code=grpc.StatusCode.INVALID_ARGUMENT, fields=(("max_tokens", "at most 9"),))
    full = Failure(code=grpc.StatusCode.RESOURCE_EXHAUSTED, details="queue full", retry_after_s=300.0)
    broken = Failure(code=grpc.StatusCode.INTERNAL, details="oh no")
    for command in ("draft", "loop"):
        with StubSkill([refused, full, broken]) as skill:
            codes = []
            for said in ("max_tokens", "try again in 300 s", "oh no"):
                run = sarai(environ, command, "x", target=skill.target)
                codes.append(run.returncode)
                assert said in run.stderr
                assert not run.stdout
                assert "Traceback" not in run.stderr
        assert codes == [2, 3, 1]


def test_unreachable_server_is_one_line_and_3(environ: dict[str, str]) -> None:
    target = f"127.0.0.1:{free_port()}"
    commands = (["draft", "x"], ["loop", "x"], ["chat"], ["draft", "--debug", "x"], ["draft", "-vv", "x"])
    with ThreadPoolExecutor(len(commands)) as users:  # each of them waits for a while
        runs = list(users.map(lambda command: sarai(environ, *command, piped="x\n", target=target), commands))
    for run in runs[:3]:
        assert run.returncode == 3
        assert len(run.stderr.splitlines()) == 1
        assert target in run.stderr
    assert all("Traceback" in run.stderr for run in runs[3:])


def test_unknown_skill_is_2_and_names_the_nearest(environ: dict[str, str]) -> None:
    for command in (["draft", "--skill", "draff", "x"], ["health", "draff"], ["serve", "draff"]):
        run = sarai(environ, *command)
        assert run.returncode == 2
        assert "did you mean 'draft'" in run.stderr


def test_setting_of_the_environment_that_is_wrong_is_2(environ: dict[str, str]) -> None:
    run = sarai(environ | {"SARAI_RECOVERY_S": "soon"}, "draft", "x")
    assert run.returncode == 2
    assert "SARAI_RECOVERY_S" in run.stderr


def test_no_answer_in_time_is_1(environ: dict[str, str]) -> None:
    with StubSkill(Reply(text="", finish_reason=skills_pb2.FINISH_REASON_TIME_BUDGET)) as skill:
        for command in ("draft", "loop"):
            run = sarai(environ, command, "--time-budget", "5", "x", target=skill.target)
            assert run.returncode == 1
            assert "none yet when its time was over" in run.stderr


def test_health_tells_people_what_the_server_can_do_and_how_its_engine_is(environ: dict[str, str]) -> None:
    with StubSkill() as skill:
        lines = dict(
            line.split(maxsplit=1) for line in sarai(environ, "health", target=skill.target).stdout.splitlines()
        )
    assert (lines["status"], lines["features"], lines["engine.numerics"]) == ("SERVING", "resume, images", "exact")
    assert "engine" not in lines


def test_health_is_3_where_nobody_serves(environ: dict[str, str]) -> None:
    target = f"127.0.0.1:{free_port()}"
    commands = (["health"], ["health", "--json"], ["health", "-q"])
    with ThreadPoolExecutor(len(commands)) as users:  # each of them waits for a while
        run, as_json, quiet = users.map(lambda command: sarai(environ, *command, target=target), commands)
    assert run.returncode == 3
    assert "UNREACHABLE" in run.stdout
    assert "`sarai serve draft` starts it" in run.stdout
    assert "sarai health" not in run.stdout, "the hint must not repeat the command"
    (state,) = json_lines(as_json.stdout)
    assert (state["status"], state["target"]) == ("UNREACHABLE", target)
    assert quiet.stdout == ""


def test_health_of_a_server_that_gives_no_answer_says_how_long_it_waited(environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        run = sarai(environ, "health", "--timeout", "0.3", target=f"127.0.0.1:{mute.getsockname()[1]}")
    assert run.returncode == 3
    assert "no answer within 0.3 s (--timeout); `sarai logs draft`" in run.stdout


def test_health_is_watched_until_ctrl_c(environ: dict[str, str]) -> None:
    with StubSkill() as skill:
        command = [*SARAI, "health", "--json", "--watch", "--interval", "0.1", "--target", skill.target]
        with subprocess.Popen(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            seen = [json.loads(process.stdout.readline()) for _ in range(3)]
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
    assert [state["status"] for state in seen] == ["SERVING"] * 3


def test_target_option_goes_before_the_environment(environ: dict[str, str]) -> None:
    with StubSkill(["here"]) as skill:
        run = sarai(environ, "draft", "--target", skill.target, "x", target="127.0.0.1:1")
    assert run.stdout == "here\n"


def test_skills_lists_a_failed_plugin_with_its_error(environ: dict[str, str], tmp_path: Path) -> None:
    install(tmp_path, "plugin_broken", "raise RuntimeError('no licence')\n")
    rows = {row["name"]: row for row in json_lines(sarai(environ, "skills", "--json").stdout)}
    assert rows["plugin_broken"]["state"] == "failed"
    assert rows["plugin_broken"]["summary"] == "no licence"
    assert rows["draft"]["state"] in ("on demand", "serving")
    table = sarai(environ, "-q", "skills").stdout
    assert re.search(r"plugin_broken +failed .*no licence", table)


def test_plugin_adds_commands(environ: dict[str, str], pid_file: Path) -> None:
    assert not pid_file.exists()
    assert sarai(environ, "greet").stdout == "hello from a plugin\n"
    assert "greet" in sarai(environ, "--help").stdout


def test_skills_are_completed(environ: dict[str, str]) -> None:
    asked = {"_SARAI_COMPLETE": "bash_complete", "COMP_WORDS": "sarai health dr", "COMP_CWORD": "2"}
    assert sarai(environ | asked).stdout.split(",")[-1].strip() == "draft"


def wait_for(path: Path) -> list[int]:
    end_s = time.monotonic() + 20
    while time.monotonic() < end_s:
        if path.exists() and path.read_text().endswith("\n"):
            return [int(line) for line in path.read_text().split()]
        time.sleep(0.02)
    raise AssertionError(f"{path} did not come")


def gone(pid: int, within_s: float = 5.0) -> bool:
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@contextlib.contextmanager
def asking(environ: Mapping[str, str], command: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*SARAI, command, "--skill", "local", "x"], env=environ, cwd=ROOT, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        yield process


@pytest.mark.parametrize("command", ["draft", "loop"])
@pytest.mark.parametrize("after_s", [0.0, 2.0])
def test_ctrl_c_is_130_and_leaves_no_process(
    environ: dict[str, str], pid_file: Path, tmp_path: Path, command: str, after_s: float
) -> None:
    with asking(environ, command) as process:
        (server,) = wait_for(pid_file)
        time.sleep(after_s)  # at 0 s the server is still starting, at 2 s the call is running
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not out
    assert gone(server)
    assert not list(tmp_path.glob("sarai-*")), "its socket is removed too"


def test_killed_command_leaves_no_process(environ: dict[str, str], pid_file: Path) -> None:
    with asking(environ, "draft") as process:
        (server,) = wait_for(pid_file)
        process.kill()
    assert gone(server)


def test_ctrl_c_cancels_the_call(environ: dict[str, str]) -> None:
    with StubSkill(Reply(text="one two", chunk_delay_s=60.0)) as skill:
        own = environ | {"SARAI_DRAFT_TARGET": skill.target}
        with subprocess.Popen(
            [*SARAI, "draft", "x"], env=own, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            os.read(process.stdout.fileno(), 3)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
        (call,) = skill.calls
        assert call.ended.wait(5)
        assert call.cancelled


def test_serve_runs_the_server_in_the_foreground(environ: dict[str, str], pid_file: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    command = [*SARAI, "serve", "local", "--json", "--listen", address, "--", "--delay-s", "0"]
    with subprocess.Popen(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert wait_for(pid_file) == [process.pid], "the server replaces the command's process"
        health = environ | {"SARAI_LOCAL_TARGET": address}
        assert sarai(health, "health", "local", "--timeout", "10").returncode == 0
        process.terminate()
        assert process.wait(10) == 0
        assert process.stdout is not None
        started = json.loads(process.stdout.read())
    assert (started["pid"], started["skill"]) == (process.pid, "local")


def test_chat_is_one_conversation_that_grows(environ: dict[str, str], tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    with StubSkill(["Hello Ana.", "Ana.", "Who?"]) as skill:
        typed = f"My name is Ana.\n/set temperature 0\nWhat is\\\nmy name?\n/save {saved}\n/clear\nAgain?\n/quit\nno\n"
        run = sarai(environ, "chat", "--system", "Be brief.", piped=typed, target=skill.target)
        first, second, third = skill.requests
    assert (run.returncode, run.stdout) == (0, "Hello Ana.\nAna.\nWho?\n")
    assert list(second.messages)[:1] == list(first.messages)
    assert [(m.role, m.content) for m in second.messages[1:]] == [
        ("assistant", "Hello Ana."), ("user", "What is\nmy name?"),
    ]  # fmt: skip
    assert second.messages[1].token_ids
    assert (first.system, first.HasField("temperature"), second.HasField("temperature")) == ("Be brief.", False, True)
    assert [m.content for m in third.messages] == ["Again?"]
    assert [turn["content"] for turn in json.loads(saved.read_text())["messages"]][-1] == "Ana."


def test_ctrl_c_in_a_chat_ends_the_answer_first_and_the_chat_second(environ: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    with StubSkill(Reply(text="one two", chunk_delay_s=60.0)) as skill:
        own = environ | {"SARAI_DRAFT_TARGET": skill.target, "NO_COLOR": "1"}
        with subprocess.Popen(
            [*SARAI, "chat"], env=own, cwd=ROOT, start_new_session=True, stdin=theirs, stdout=theirs, stderr=theirs
        ) as process:
            os.close(theirs)
            expect(ours, "> ")
            os.write(ours, b"Hi\n")
            expect(ours, "one")
            process.send_signal(signal.SIGINT)
            expect(ours, "(ended)")
            expect(ours, "> ")
            assert process.poll() is None
            assert skill.calls[0].ended.wait(5)
            # Repeated if necessary: Python's readline misses a signal between its prompt and its wait for a key.
            for _ in range(20):
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
                    break
            assert process.wait(10) == 130
    os.close(ours)


def expect(descriptor: int, text: str) -> None:
    """Read from a terminal until a text has appeared."""
    seen, end_s = "", time.monotonic() + 20
    while text not in seen:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, end_s - time.monotonic()))
        assert ready, f"{text!r} did not come after {seen!r}"
        seen += os.read(descriptor, 1).decode(errors="replace")


def converse(
    environ: dict[str, str], target: str, *lines: tuple[bytes | str, str], options: tuple[str, ...] = ()
) -> None:
    """Type lines into `sarai chat` on a terminal, wait for what appears after each, and quit."""
    ours, theirs = pty.openpty()
    command = [*SARAI, "chat", "--target", target, *options]
    with subprocess.Popen(command, env=environ, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs) as chat:
        os.close(theirs)
        for typed, answer in (*lines, ("/quit\n", "/quit")):
            expect(ours, "> ")
            os.write(ours, typed.encode() if isinstance(typed, str) else typed)
            expect(ours, answer)
        assert chat.wait(10) == 0
    os.close(ours)


@pytest.mark.parametrize("arguments", [["--help"], ["loop", "--help"], ["--version"], ["draft", "--frob"]])
def test_help_costs_no_grpc(environ: dict[str, str], arguments: list[str]) -> None:
    probe = (
        "import sys\nfrom core.cli import main\n"
        "try: main(sys.argv[1:])\nfinally: print([m for m in ('grpc', 'rich', 'google.protobuf') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", probe, *arguments], env=environ, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "[]"


def test_local_process_that_another_program_holds_is_listed(environ: dict[str, str], tmp_path: Path) -> None:
    install(tmp_path, "plugin_local", PLUGIN.format(pid_file=str(tmp_path / "pids"), options=()))
    assert _local(environ)["state"] == "on demand"
    program = (
        "from core.model_pool import get_model_pool\n"
        "get_model_pool().get_skill_client('local')\n"
        "print('there', flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environ, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "there\n"
        row = _local(environ)
        assert (row["state"], row["where"], row["model"]) == ("serving", "embedded", "stub")
        assert row["target"].startswith("unix:")
        holder.communicate("\n")
    assert _local(environ)["state"] == "on demand", "listing skills keeps no server running"


def _local(environ: dict[str, str]) -> dict[str, Any]:
    (row,) = [row for row in json_lines(sarai(environ, "skills", "--json").stdout) if row["name"] == "local"]
    return row
