"""A run: rounds over all servers in random order, one at a time, each with all workloads in random order."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.ceilings import ceilings
from bench.prompting import Prompts, vocabulary
from bench.records import Journal, Record
from bench.servers import KINDS, Kind, client, running
from bench.shape_model import shape_model
from bench.site import Figures, Site
from bench.sizes import SIZES, Sizes, quick
from bench.workloads import WORKLOADS, warm_up
from skills.skill_draft.embedded import make_embedded
from skills.skill_draft.engine.binding import Vocab

WORKLOAD_TIMEOUT_S = 900.0
CEILING = "ceiling"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A server's turn in a round."""

    kind: Kind
    model: str
    path: Path
    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The extent of a run."""

    models: tuple[str, ...]
    workloads: str
    servers: tuple[str, ...]
    quick: bool
    rounds: int | None
    threads: int
    seed: int

    def sizes(self, model: str) -> Sizes:
        """Return the sizes for a model."""
        return quick(SIZES[model]) if self.quick else SIZES[model]

    def num_rounds(self, model: str) -> int:
        """Return the number of rounds of a model."""
        return self.rounds or self.sizes(model).rounds

    def workloads_of(self, kind: Kind, model: str, round_: int) -> str:
        """Return the letters of a server's workloads in a round."""
        if model not in kind.models or round_ >= kind.rounds or (self.servers and kind.name not in self.servers):
            return ""
        wanted = [w for w in self.workloads if w in kind.workloads]
        return "".join(w for w in wanted if w != "g" or self.sizes(model).neighbours)


def model_path(name: str) -> Path:
    """Return the file of a model: `135m` is the embedded model, `4b` the shape model."""
    return make_embedded() if name == "135m" else shape_model()


def run(plan: Plan, journal: Journal) -> None:
    """Make all measurements of the plan that the journal lacks."""
    vocab = vocabulary()
    order = random.Random(plan.seed)  # noqa: S311 - only an order
    for model in plan.models:
        path = model_path(model)
        for round_ in range(plan.num_rounds(model)):
            names = [*(kind.name for kind in KINDS), CEILING]
            order.shuffle(names)
            kinds = {kind.name: kind for kind in KINDS}
            for name in names:
                if name == CEILING:
                    _ceilings(plan, journal, model, path, round_)
                elif wanted := plan.workloads_of(kinds[name], model, round_):
                    letters = [w for w in wanted if not journal.done((model, round_, name, w))]
                    order.shuffle(letters)
                    if letters:
                        turn = Turn(kind=kinds[name], model=model, path=path, round=round_)
                        _serve(plan, journal, turn, letters, vocab)


def _serve(plan: Plan, journal: Journal, turn: Turn, letters: list[str], vocab: Vocab) -> None:
    kind, model = turn.kind, turn.model
    log = journal.folder / f"{model}-{turn.round}-{kind.name}.log"

    def second() -> AbstractContextManager[int]:
        return running(kind, turn.path, threads=plan.threads, log=log.with_suffix(".second.log"))

    async def work(port: int) -> None:
        prompts = Prompts(vocab, "warm up")
        site = Site(kind=kind, client=client(kind, port), prompts=prompts, sizes=plan.sizes(model), second=second)
        try:
            await asyncio.wait_for(warm_up(site), WORKLOAD_TIMEOUT_S)
            for letter in letters:
                # A workload has the same prompts on every server, whatever the order.
                prompts = Prompts(vocab, f"{turn.round} {letter}")
                await _measure(journal, dataclasses.replace(site, prompts=prompts), turn, letter)
        finally:
            await site.client.close()

    try:
        with running(kind, turn.path, threads=plan.threads, log=log) as port:
            asyncio.run(work(port))
    except Exception as error:  # noqa: BLE001 - one server's failure must not stop the others
        _note(journal, Record(model=model, round=turn.round, server=kind.name, workload="", error=_text(error)))


async def _measure(journal: Journal, site: Site, turn: Turn, letter: str) -> None:
    start, figures, error = time.perf_counter(), Figures(), ""
    try:
        figures = await asyncio.wait_for(WORKLOADS[letter](site), WORKLOAD_TIMEOUT_S)
    except Exception as trouble:  # noqa: BLE001 - one workload's failure must not stop the others
        error = _text(trouble)
    _note(
        journal,
        Record(
            model=turn.model, round=turn.round, server=turn.kind.name, workload=letter, figures=figures,
            seconds=time.perf_counter() - start, error=error,
        ),
    )  # fmt: skip


def _ceilings(plan: Plan, journal: Journal, model: str, path: Path, round_: int) -> None:
    wanted = set(plan.workloads) & {"a", "b"} and (not plan.servers or CEILING in plan.servers)
    if not wanted or journal.done((model, round_, CEILING, "b")):
        return
    start, figures, error = time.perf_counter(), Figures(), ""
    try:
        log = journal.folder / f"{model}-{round_}-ceiling.log"
        figures = ceilings(path, plan.sizes(model), threads=plan.threads, log=log)
    except Exception as trouble:  # noqa: BLE001 - a ceiling's failure must not stop the servers
        error = _text(trouble)
    _note(
        journal,
        Record(
            model=model, round=round_, server=CEILING, workload="b", figures=figures,
            seconds=time.perf_counter() - start, error=error,
        ),
    )  # fmt: skip


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[-800:]


def _note(journal: Journal, record: Record) -> None:
    journal.add(record)
    shown = " ".join(f"{k}={v:.3g}" for k, v in record.figures.items() if isinstance(v, float))
    sys.stderr.write(
        f"{record.model} round {record.round + 1} {record.server:12} ({record.workload}) {record.seconds:6.1f} s  "
        f"{record.error or shown}\n"
    )
