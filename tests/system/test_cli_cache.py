"""`sarai cache` and what `sarai health` says of kept answers, with real servers that report scripted figures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from skills.types_pb2 import CacheStats
from tests.stub_plugin import free_port
from tests.stub_skill import StubSkill
from tests.system.test_cli import environ, json_lines, sarai  # noqa: F401  # environ is a fixture

MB = 1 << 20


def figures(**more: int | str) -> CacheStats:
    return CacheStats(
        entries=12, bytes=3 * MB, max_bytes=64 * MB, hits=70, partial=5, joined=5, misses=20, saved_s=1234.5,
        disk_hits=7, shared_hits=8, **more,  # type: ignore[arg-type]  # each has its own type
    )  # fmt: skip


def test_stats_shows_every_replica(environ: dict[str, str]) -> None:  # noqa: F811
    with StubSkill() as one, StubSkill() as two, StubSkill() as none:
        one.keep(figures(shared="up"))
        two.keep(figures(shared="it did not answer within 20 ms"))
        target = f"{one.target},{two.target},{none.target},127.0.0.1:{free_port()}"
        run = sarai(environ, "cache", "stats", target=target)
        heading, first, second, third, fourth = run.stdout.splitlines()
        assert run.returncode == 0
        assert heading.split() == [
            "TARGET", "ANSWERS", "MEMORY", "HITS", "PARTIAL", "JOINED", "MISSES", "SAVED", "DISK", "SHARED", "STORE",
        ]  # fmt: skip
        assert " ".join(first.split()[1:]) == "12 3.0 MB of 64.0 MB 70 5 5 20 1,234 s 7 8 up"
        assert second.endswith("it did not answer within 20 ms")
        assert third == f"{none.target}: it keeps no answers"
        assert "connect" in fourth.lower()
        states = json_lines(sarai(environ, "cache", "stats", "--json", target=target).stdout)
    assert [state.get("cache", {}) and state["cache"]["hits"] for state in states[:2]] == [70, 70]
    assert states[2]["cache"] is None
    assert "error" in states[3]


def test_clear_has_every_replica_forget_and_a_dry_run_none(environ: dict[str, str]) -> None:  # noqa: F811
    with StubSkill() as one, StubSkill() as two, StubSkill() as none:
        one.keep(figures())
        two.keep(figures(shared="it did not answer within 20 ms"))
        target = f"{one.target},{two.target},{none.target}"
        dry = sarai(environ, "cache", "clear", "--dry-run", target=target)
        assert dry.stdout.splitlines() == [
            f"{one.target}: would forget 12 answers, 3.0 MB in memory",
            f"{two.target}: would forget 12 answers, 3.0 MB in memory",
            f"{none.target}: it keeps no answers",
        ]
        assert not [call for call in (*one.calls, *two.calls) if call.method == "ClearCache"]
        run = sarai(environ, "cache", "clear", target=target)
        assert run.returncode == 0
        assert run.stdout.splitlines() == [
            f"{one.target}: forgot 12 answers, 3.0 MB",
            (
                f"{two.target}: forgot 12 answers, 3.0 MB; those in the shared store are still there: "
                "it did not answer within 20 ms"
            ),
            f"{none.target}: it keeps no answers",
        ]
        (again,) = json_lines(sarai(environ, "cache", "clear", "--json", target=one.target).stdout)
        assert again["forgotten"] == {"entries": 0, "bytes": 0, "prefix_files": 0, "prefix_bytes": 0}


def test_a_replica_that_is_not_there_is_3(environ: dict[str, str]) -> None:  # noqa: F811
    target = f"127.0.0.1:{free_port()}"
    with ThreadPoolExecutor(2) as users:  # each of them waits for a while
        runs = list(users.map(lambda command: sarai(environ, "cache", command, target=target), ("stats", "clear")))
    for run in runs:
        assert run.returncode == 3
        assert run.stdout.startswith(f"{target}: ")


def test_health_has_a_line_for_kept_answers(environ: dict[str, str]) -> None:  # noqa: F811
    with StubSkill() as skill:
        skill.keep(figures(rechecked=3, rechecked_wrong=1, shared="up", near=5, near_tokens=90, near_accepted=70))
        lines = sarai(environ, "health", target=skill.target).stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("kept answers")]
    assert line.split(maxsplit=2)[2] == (
        "12, 3.0 MB of 64.0 MB in memory; 80% of 100 requests were hits, 1,234 s saved; "
        "5 answers had a near-equal prompt's: 70 of 90 tokens right; "
        "1 OF 3 RECHECKED HITS WERE WRONG; shared store: up"
    )
