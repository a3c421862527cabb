"""`sarai cache`: the answers that the replicas of a skill keep."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from core.cli.common import ExitCode, common_options, print_json, start_command
from core.cli.parameters import Seconds
from core.cli.pool import DEFAULT_SKILL, ask_health, complete_skill, open_replicas
from core.cli.views import View, show, table, watch_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.pool.client import SkillClient

_EPILOG = """\b
Examples:
  sarai cache stats
  sarai cache clear --dry-run
"""
_STATS_EPILOG = """\b
Examples:
  sarai cache stats
  sarai cache stats --watch
  sarai cache stats --json | jq '.cache.hits'
"""
_CLEAR_EPILOG = """\b
Examples:
  sarai cache clear
  sarai cache clear --dry-run
  sarai cache clear --target dns:///skill_draft:50051
"""
_HEADINGS = (
    "TARGET", "ANSWERS", "MEMORY", "HITS", "PARTIAL", "JOINED", "MISSES", "SAVED", "DISK", "SHARED", "STORE",
)  # fmt: skip


@click.group(epilog=_EPILOG, short_help="Show or forget the answers that a skill keeps.")
@common_options
def cache() -> None:
    """Show or forget the answers that the replicas of a skill keep.

    An answer is a function of its request, so a replica that has computed it once may keep it: in memory, in a file,
    in a store that replicas share. docs/cache.md says how to set that, and what a request can ask for.
    """


def _replica_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option(
        "--timeout", type=Seconds(), default=40.0, help="Wait so long for each replica, seconds. Default: 40."
    )(command)
    command = click.option(
        "--target", metavar="ADDRESS", help="Where it is. Default: SARAI_<NAME>_TARGET, else its port here."
    )(command)
    return click.argument(
        "skill", default=DEFAULT_SKILL, envvar="SARAI_SKILL", shell_complete=complete_skill
    )(command)  # fmt: skip


@cache.command(epilog=_STATS_EPILOG, short_help="Show how many answers are kept, and what came of them.")
@_replica_options
@watch_options
@common_options
def stats(*, skill: str, target: str | None, timeout: float, watch: bool, interval: float) -> int:
    """Show for each replica of SKILL how many answers it keeps, and what came of that since its start.

    HITS were kept as a whole. Of PARTIAL ones the beginning was kept, and the rest was computed. JOINED ones were just
    being computed for another call. SAVED are seconds of computing. DISK and SHARED are the hits among HITS that came
    from the file and from the shared store. STORE is `up`, or why the shared store is passed over just now.
    The exit code is 3 if no replica answers.
    """
    settings = start_command()
    with open_replicas(skill, target) as (_, clients):

        def look() -> View:
            states = [_ask(client, timeout) for client in clients]
            code = ExitCode.OK if any("error" not in state for state in states) else ExitCode.UNAVAILABLE
            if settings.json:
                return [json.dumps(state, ensure_ascii=False) for state in states], code
            return list(_lines(states)), code

        return show(look, watch=watch, interval_s=interval)


@cache.command(epilog=_CLEAR_EPILOG, short_help="Forget all kept answers.")
@click.option("--dry-run", is_flag=True, help="Only show what would be forgotten in memory.")
@_replica_options
@common_options
def clear(*, skill: str, target: str | None, timeout: float, dry_run: bool) -> int:
    """Have each replica of SKILL forget all answers that it keeps: in memory, on disk, and in the shared store.

    The folder of prefixes (SKILL_DRAFT_PREFIX_DIR) is emptied too: it holds what requests said. It is never needed for
    the sake of right answers: a kept answer is found only by a request, a model and a build that are the same in all
    that decides it. Answers that are being written go on, and are kept when they end.
    Counted are those of the place that had most. The exit code is 3 if a replica does not answer.
    """
    settings = start_command()
    with open_replicas(skill, target) as (_, clients):
        states = [_ask(client, timeout) if dry_run else _clear(client, timeout) for client in clients]
    for state in states:
        if settings.json:
            print_json(state)
        else:
            print(f"{state['target']}: {_outcome(state, dry_run=dry_run)}")
    return ExitCode.UNAVAILABLE if any("error" in state for state in states) else ExitCode.OK


def kept_answers(figures: dict[str, Any]) -> str:
    """Return a replica's figures, as of Health's `cache`, in one line."""
    text = f"{figures['entries']}, {_size(figures['bytes'])} of {_size(figures['max_bytes'])} in memory"
    asked = sum(figures[name] for name in ("hits", "partial", "joined", "misses"))
    if asked:
        text += f"; {(asked - figures['misses']) / asked:.0%} of {asked} requests were hits, {_saved(figures)} saved"
    if figures["near"]:
        tried, right = figures["near_tokens"], figures["near_accepted"]
        text += f"; {figures['near']} answers had a near-equal prompt's: {right} of {tried} tokens right"
    if figures["rechecked_wrong"]:
        text += f"; {figures['rechecked_wrong']} OF {figures['rechecked']} RECHECKED HITS WERE WRONG"
    if figures["shared"]:
        text += f"; shared store: {figures['shared']}"
    return text


def _ask(client: SkillClient, timeout_s: float) -> dict[str, Any]:
    """Return what a replica says of its kept answers."""
    state = ask_health(client, "", timeout_s)
    where = {"skill": client.skill, "target": client.target}
    if state["status"] == "UNREACHABLE":
        return where | {"error": state["message"]}
    return where | {"cache": state.get("cache")}


def _clear(client: SkillClient, timeout_s: float) -> dict[str, Any]:
    from core.errors import CallError
    from core.rpc import grpc
    from skills.types_pb2 import ClearCacheReq

    state = _ask(client, timeout_s)
    before = state.pop("cache", None)
    if "error" in state:
        return state
    try:
        answer = client.ClearCache(ClearCacheReq(), timeout=timeout_s)
    except AttributeError:  # the skill's own service has no such method
        return state | {"forgotten": None}
    except CallError as error:
        unknown = error.code() is grpc.StatusCode.UNIMPLEMENTED
        return state | ({"forgotten": None} if unknown else {"error": error.details()})
    forgotten = {field.name: getattr(answer, field.name) for field in answer.DESCRIPTOR.fields}
    # What a store that cannot be reached has is still there.
    return state | {"forgotten": forgotten, "shared": before["shared"] if before else ""}


def _outcome(state: dict[str, Any], *, dry_run: bool) -> str:
    if "error" in state:
        return str(state["error"])
    figures = state["cache"] if dry_run else state["forgotten"]
    if figures is None:
        return "it keeps no answers"
    text = f"{_counted(figures['entries'], 'answer')}, {_size(figures['bytes'])}"
    if dry_run:
        return f"would forget {text} in memory"
    if figures["prefix_files"]:
        text += f", and {_counted(figures['prefix_files'], 'file')} of prefixes, {_size(figures['prefix_bytes'])}"
    if state["shared"] not in ("", "up"):
        text += f"; those in the shared store are still there: {state['shared']}"
    return f"forgot {text}"


def _lines(states: list[dict[str, Any]]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [_HEADINGS]
    for state in states:
        if figures := state.get("cache"):
            counts = (str(figures[name]) for name in ("hits", "partial", "joined", "misses"))
            far = (str(figures[f"{name}_hits"]) for name in ("disk", "shared"))
            memory = f"{_size(figures['bytes'])} of {_size(figures['max_bytes'])}"
            rows.append((
                state["target"], str(figures["entries"]), memory, *counts, _saved(figures), *far, figures["shared"],
            ))  # fmt: skip
    if len(rows) > 1:
        yield from table(rows, left=1)
    for state in states:
        if not state.get("cache"):
            yield f"{state['target']}: {state.get('error', 'it keeps no answers')}"


def _saved(figures: dict[str, Any]) -> str:
    seconds = figures["saved_s"]
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 20):.1f} MB" if num_bytes >= 1 << 20 else f"{num_bytes / (1 << 10):.1f} kB"
