"""The stack file on a real swarm of one node: what comes and goes costs no call."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from core.testing import SkillContainers
from skills.skill_draft import IMAGE
from tests.docker.asking import SCALER, build_scaler
from tests.servers import ROOT

pytestmark = [pytest.mark.timeout(600, func_only=True)]
STACK = ROOT / "deploy" / "swarm" / "stack.yml"
# The stack as it is, but small and quick: the tiny model, a grace so short that calls have to be handed over, and no
# kept answers, as the same few questions are asked all the time.
SMALL: dict[str, Any] = {
    "version": "3.8",
    "services": {
        "skill_draft": {
            "volumes": [{"type": "bind", "source": f"{ROOT}/tests/models", "target": "/models", "read_only": True}],
            "environment": {
                "SKILL_DRAFT_THREADS": "1",
                "SKILL_DRAFT_N_CTX": "1024",
                "SKILL_DRAFT_GRACE_S": "0.3",
                "SKILL_DRAFT_CACHE_MB": "0",
            },
            "deploy": {
                "update_config": {"monitor": "2s"},
                "rollback_config": {"monitor": "2s"},
                "resources": {"reservations": {"cpus": "0.1", "memory": "100M"}},
            },
        }
    },
}


def docker(*arguments: str, stdin: int = subprocess.DEVNULL, timeout_s: float = 120) -> str:
    done = subprocess.run(
        ["docker", *arguments], stdin=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def documented(first: str, stack: str) -> str:
    """Return the command in docs/cluster.md that begins so, for this stack instead of `sarai`."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / "cluster.md").read_text(), re.MULTILINE | re.DOTALL)
    (command,) = (block for block in blocks if first in block)
    return re.sub(r"\bsarai_", f"{stack}_", command)


def soon(holds: Callable[[], bool], within_s: float = 120.0) -> None:
    until_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.2)


@contextlib.contextmanager
def swarm() -> Iterator[None]:
    """Make this engine a swarm, unless it is one already."""
    state = docker("info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}")
    if state == "active true":
        yield
        return
    if not state.startswith("inactive"):
        pytest.skip(f"this engine is {state} in a swarm of others")
    docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    try:
        yield
    finally:
        docker("swarm", "leave", "--force")


@dataclass
class Stack:
    """A stack that was deployed."""

    name: str

    @property
    def service(self) -> str:
        """Its only service."""
        return f"{self.name}_skill_draft"

    def running(self) -> list[str]:
        """Return the ids of containers that are healthy."""
        labels = ("--filter", f"label=com.docker.swarm.service.name={self.service}", "--filter", "health=healthy")
        return docker("ps", "--quiet", *labels).split()

    def inspect(self, template: str) -> str:
        """Return a part of the service's description."""
        return docker("service", "inspect", self.service, "--format", template)

    def update(self, *arguments: str) -> str:
        """Update the service; return how that ended."""
        before = self.inspect("{{json .UpdateStatus}}")
        docker("service", "update", "--detach", "--no-resolve-image", *arguments, self.service)

        def state() -> str:
            now = self.inspect("{{json .UpdateStatus}}")
            return "" if now == before else str((json.loads(now) or {}).get("State", ""))

        soon(lambda: state() in {"completed", "rollback_completed", "paused", "rollback_paused"}, 240)
        return state()

    def scale(self, number: int) -> None:
        """Set the number of replicas; return once just these are healthy."""
        docker("service", "scale", "--detach", f"{self.service}={number}")
        soon(lambda: len(self.running()) == number)


@dataclass
class Load:
    """Calls without a pause from a container in the stack's network."""

    process: subprocess.Popen[str]
    calls: list[dict[str, Any]] = field(default_factory=list)

    def read(self) -> None:
        """Read what came of the calls."""
        assert self.process.stdout is not None
        self.calls.extend(json.loads(line) for line in self.process.stdout)

    def more(self, number: int) -> None:
        """Return once this many more calls have ended."""
        wanted = len(self.calls) + number
        soon(lambda: len(self.calls) >= wanted or self.process.poll() is not None)
        assert self.process.poll() is None


@pytest.fixture(scope="module")
def stack(skill_container: SkillContainers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Deploy the stack, with two replicas."""
    skill_container.build("draft")
    build_scaler()
    small = tmp_path_factory.mktemp("swarm") / "small.json"
    small.write_text(json.dumps(SMALL))
    deployed = Stack(f"sarai-test-{os.getpid()}")
    with swarm():
        try:
            docker("stack", "deploy", "--resolve-image", "never", "-c", str(STACK), "-c", str(small), deployed.name)
            soon(lambda: len(deployed.running()) == 2)
            yield deployed
        finally:
            docker("stack", "rm", deployed.name)
            mine = f"label=com.docker.stack.namespace={deployed.name}"
            soon(lambda: not docker("ps", "--all", "--quiet", "--filter", mine))
            soon(lambda: not docker("network", "ls", "--quiet", "--filter", mine))


@contextlib.contextmanager
def load_on(stack: Stack) -> Iterator[Load]:
    """Call all the time; check at the end that no call was lost, and that equal requests had equal answers."""
    script = Path(__file__).with_name("swarm_caller.py")
    name = f"{stack.name}-caller"
    target = f"SARAI_DRAFT_TARGET=dns:///tasks.{stack.service}:50051"
    command = [
        *("docker", "run", "--rm", "--interactive", "--name", name, "--network", f"{stack.name}_skills"),
        *("--env", target, "--volume", f"{script}:/caller.py:ro", "--entrypoint", "python3", SCALER, "/caller.py"),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        load = Load(process)
        reader = threading.Thread(target=load.read)
        reader.start()
        try:
            load.more(12)
            yield load
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(180) == 0
            reader.join()
        finally:
            if process.poll() is None:
                subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)
    took_s = sorted(each["took_s"] for each in load.calls)
    continued = sum(each.get("continued", 0) > 0 for each in load.calls)
    print(f"\n{len(load.calls)} calls, the longest {took_s[-1]:.1f} s, {continued} continued at another replica")
    assert [each for each in load.calls if "error" in each] == []
    answers = {(each["seed"], each["answer"]) for each in load.calls}
    assert len(answers) == len({seed for seed, _ in answers}), "the same request had two answers"


def test_what_the_stack_file_promises_arrives_at_the_containers(stack: Stack) -> None:
    host = json.loads(docker("inspect", stack.running()[0], "--format", "{{json .HostConfig}}"))
    assert host["CapDrop"] == ["ALL"]
    assert host["ReadonlyRootfs"]
    assert host["NanoCpus"] == 2_000_000_000
    assert host["Memory"] == 3 << 30
    assert [each["Target"] for each in host["Mounts"] if each["Type"] == "tmpfs"] == ["/tmp"]
    spec = json.loads(stack.inspect("{{json .Spec}}"))
    assert spec["EndpointSpec"]["Mode"] == "dnsrr"
    assert spec["UpdateConfig"]["Order"] == "start-first"
    assert spec["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"] == 20 * 10**9


def test_a_rolling_update_under_load_loses_no_call(stack: Stack) -> None:
    before = set(stack.running())
    with load_on(stack) as load:
        assert stack.update("--env-add", "SKILL_DRAFT_LOG_LEVEL=debug") == "completed"
        soon(lambda: len(stack.running()) == 2)
        assert not before & set(stack.running()), "every replica is another one"
        load.more(12)


def test_an_image_that_does_not_serve_is_rolled_back_and_loses_no_call(stack: Stack) -> None:
    with load_on(stack) as load:
        # It ends at once, with an error: it is no skill.
        assert stack.update("--image", SCALER) == "rollback_completed"
        assert stack.inspect("{{.Spec.TaskTemplate.ContainerSpec.Image}}") == IMAGE
        soon(lambda: len(stack.running()) == 2)
        load.more(12)


def test_three_replicas_become_one_under_load_and_lose_no_call(stack: Stack) -> None:
    stack.scale(3)
    with load_on(stack) as load:
        stack.scale(1)
        load.more(12)


def test_calls_go_on_elsewhere_when_their_replica_is_taken_away(stack: Stack) -> None:
    stack.scale(1)
    with load_on(stack) as load:
        # All calls are at the one that goes, and take longer than its grace.
        assert stack.update("--force") == "completed"
        load.more(12)
    assert any(each["continued"] for each in load.calls), "no call was handed over"


@contextlib.contextmanager
def following(stack: Stack, *, low: int = 1) -> Iterator[list[str]]:
    """Run the documented command that has the service follow the scaler; yield what it says, complete at the end."""
    name = f"{stack.name}-scaler"
    command = documented("while read", stack.name).replace("docker run", f"docker run --name {name}")
    command = command.replace("--min 1", f"--min {low}")
    said: list[str] = []
    with subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said.append(process.stdout.readline())
            yield said
        finally:
            subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)
            said.append(process.communicate(timeout=60)[0])


def ask(stack: Stack, *options: str) -> str:
    """Run the documented command that asks once; return the answer."""
    _, run, command = documented("-m sarai draft", stack.name).partition("docker run")
    command = f"{run} {' '.join(options)} {command}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_service_gets_the_replicas_that_the_scaler_says(stack: Stack) -> None:
    stack.scale(1)
    # One call at a time, so that those of six callers have to wait.
    stack.update("--env-add", "SKILL_DRAFT_SLOTS=1")
    with following(stack) as said, load_on(stack) as load:
        soon(lambda: len(stack.running()) >= 2)
        load.more(12)
    assert re.search(r"^\d\d:\d\d:\d\d  [2-4]  ", "".join(said), re.MULTILINE), said


def test_a_call_at_zero_replicas_starts_the_first_one_and_is_answered(stack: Stack) -> None:
    assert ask(stack)
    stack.scale(0)
    with following(stack, low=0) as said:
        begin_s = time.monotonic()
        assert ask(stack, "-e SARAI_DRAFT_SCALER=scaler:9090")
        print(f"\nfrom zero: {time.monotonic() - begin_s:.1f} s, the start of the caller's container included")
    assert len(said) == 2
    assert stack.running()
