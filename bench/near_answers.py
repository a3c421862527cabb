"""Measure what the kept answers to near-equal prompts are worth to lookup speculation (`SKILL_DRAFT_CACHE_NEAR`).

`python -m bench.near_answers [--model 135m|4b] [--rounds 20]`, with the machine quiet.

Workloads, with the embedded model: two servers, one with the setting, get the same requests in turn, so that what
changes on the machine changes both; each request is near-equal to those before it, and both must answer it with the
same tokens. One workload draws its answers at a high temperature, so that no old answer is of any use. At last, what a
miss costs in addition is measured with the tests' tiny model, after as many answers as are searched at most.

Hints, with either model: one engine, without servers, gets a request without a hint and with hints in which every n-th
token of its answer is replaced, in turn.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.in_turn import in_turn
from bench.prompting import FOLDER
from bench.shape_model import shape_model
from skills.runtime.resources import usable_cpus
from skills.skill_draft.embedded import make_embedded
from skills.skill_draft.engine.messages import Done, Sampling
from skills.skill_draft.near_answers import MOST_ENTRIES
from skills.skills_pb2 import GenReq
from skills.wire import Feature
from tests.engine.harness import EngineUnderTest, ask
from tests.servers import TINY, DraftServer, draft_server

MODELS = {"135m": make_embedded, "4b": shape_model}
WARM_UP = 3
TOKENS = 128
NAMES = ("Alice", "Robert", "Chandra", "Mei", "Olumide", "Ingrid", "Pablo", "Yusuf", "Hannah", "Tom")
KEEPS = ("--cache-mb", "64", "--cache-recheck", "0")
EVERY = (0, 31, 17, 9, 5)  # every n-th token of a hint is wrong; 0: none. No power of 2, as steps have that many rows

PARAGRAPHS = (FOLDER / "texts.txt").read_text(encoding="utf-8").split("\n\n")
_NUMBERS = itertools.count()
TEXT = " ".join("\n".join(PARAGRAPHS[:8]).split()[:150])


def _edited(number: int) -> GenReq:
    """Ask for the same of a text that was edited: one word is another one each time."""
    words = TEXT.split()
    words[(37 * number) % len(words)] = NAMES[number % len(NAMES)]
    return GenReq(prompt=f"Summarise this text in five sentences.\n\n{' '.join(words)}", temperature=0)


def _template(number: int) -> GenReq:
    """Ask for the same with another name and another number."""
    name = NAMES[number % len(NAMES)]
    prompt = f"Write a friendly letter to my colleague {name}, and ask for the report on page {number + 10}."
    return GenReq(prompt=prompt, temperature=0)


def _question(number: int) -> GenReq:
    """Ask something else about the same text."""
    questions = (FOLDER / "questions.txt").read_text(encoding="utf-8").splitlines()
    return GenReq(prompt=f"{TEXT}\n\n{questions[number % len(questions)]} ({number})", temperature=0)


def _useless(number: int) -> GenReq:
    """Ask so that no answer resembles another one."""
    return GenReq(prompt=f"Write down words at random, list {number}.", temperature=3, seed=number, min_p=0, top_p=1)


WORKLOADS: dict[str, Callable[[int], GenReq]] = {
    "edited text": _edited,
    "template": _template,
    "another question": _question,
    "useless": _useless,
}


def _wait_until_it_keeps(server: DraftServer) -> None:
    while Feature.CACHE not in server.health().features:
        time.sleep(0.1)


def _say(name: str, times: list[list[float]], more: str) -> None:
    plain, near = map(statistics.median, times)
    figures = f"{plain:8.1f} ms, with it {near:8.1f} ms: {plain / near:.2f} times as fast"
    sys.stdout.write(f"{name:32} {figures}; {more}\n")
    sys.stdout.flush()


def _workload(folder: Path, name: str, model: Path, rounds: int) -> bool:
    """Print what the setting does for a workload; return whether an answer differed."""
    tokens: tuple[list[tuple[int, ...]], list[tuple[int, ...]]] = ([], [])
    with (
        draft_server(folder, *KEEPS, model=model) as plain,
        draft_server(folder, *KEEPS, "--cache-near", "on", model=model) as near,
    ):
        calls = []
        for server, answers in zip((plain, near), tokens, strict=True):
            _wait_until_it_keeps(server)
            calls.append(_caller(server, name, answers))
        times = in_turn(calls, rounds, warm_up=WARM_UP)
        figures = near.health().cache
    had = f"{figures.near} had a hint, {figures.near_accepted} of {figures.near_tokens} tokens right"
    _say(name, times, had)
    return tokens[0] != tokens[1]


def _caller(server: DraftServer, name: str, answers: list[tuple[int, ...]]) -> Callable[[], None]:
    numbers = itertools.count()

    def call() -> None:
        request = WORKLOADS[name](next(numbers))
        request.max_tokens = TOKENS
        answer = server.stub.Generate(request, timeout=300)
        answers.append(tuple(answer.token_ids))

    return call


def _misses(folder: Path, rounds: int) -> None:
    """Print what looking for a near-equal prompt adds to a miss: one that finds none, and one that finds one."""
    with (
        draft_server(folder, *KEEPS, model=TINY) as plain,
        draft_server(folder, *KEEPS, "--cache-near", "on", model=TINY) as near,
    ):
        for server in (plain, near):
            _wait_until_it_keeps(server)
        fill = _asker(near, alike=False, size=20)
        for _ in range(MOST_ENTRIES):
            fill()
        for size, alike in itertools.product((20, 200), (False, True)):
            calls = [_asker(server, alike=alike, size=size) for server in (plain, near)]
            times = in_turn(calls, rounds, warm_up=WARM_UP)
            more = statistics.median(times[1]) - statistics.median(times[0])
            found = "one is near" if alike else "none is near"
            _say(f"miss, {size} words, {found}", times, f"difference {more:.3f} ms")


def _asker(server: DraftServer, *, alike: bool, size: int) -> Callable[[], object]:
    """Return a call of one token whose prompt is new each time, and near-equal to the ones before or to none."""

    def call() -> object:
        number = next(_NUMBERS)
        words = random.Random("alike" if alike else str(number)).choices(TEXT.split(), k=size)  # noqa: S311
        return server.stub.Generate(GenReq(prompt=f"{' '.join(words)} {number}", temperature=0, max_tokens=1))

    return call


def _hints(answer: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for every in EVERY:
        hint = tuple(id_ ^ 1 if every and at % every == every - 1 else id_ for at, id_ in enumerate(answer))
        yield f"every {every}th token wrong" if every else "all tokens right", hint
    yield "all tokens wrong", tuple(random.Random(1).sample(answer, len(answer)))  # noqa: S311


def _hinted(path: Path, rounds: int) -> bool:
    """Print what hints of different quality do for one answer; return whether one changed it."""
    with EngineUnderTest(path, threads=usable_cpus()) as engine:
        sampling = Sampling(temperature=1.0, seed=7)
        request = ask("Tell a long story of a journey.", max_tokens=TOKENS, sampling=sampling, lookup=True)
        answers = {engine.answer(request).endings}
        ids = next(iter(answers))[0].tokens.token_ids

        def again(hint: tuple[int, ...]) -> Done:
            new = dataclasses.replace(request, id=ask().id, hint=hint, arrived=time.monotonic())
            done: Done = engine.answer(new)
            answers.add(done.endings)
            return done

        for name, hint in _hints(ids):
            times = in_turn([lambda: again(()), lambda hint=hint: again(hint)], rounds, warm_up=1)  # type: ignore[misc]
            done = again(hint)
            _say(name, times, f"{done.hint_accepted} of {done.hint_tokens} tokens right")
    return len(answers) != 1


def main() -> int:
    """Print a line for each measurement; return 1 if an answer depended on the setting."""
    parser = argparse.ArgumentParser(prog="python -m bench.near_answers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=tuple(MODELS), default="135m", help="the workloads are for 135m alone")
    parser.add_argument("--rounds", type=int, default=20, help="calls of each kind")
    parser.add_argument("--only", choices=(*WORKLOADS, "misses", "hints"), help="one measurement")
    arguments = parser.parse_args()
    model, wrong = MODELS[arguments.model](), False

    def wanted(name: str) -> bool:
        return arguments.only == name if arguments.only else arguments.model == "135m" or name == "hints"

    with tempfile.TemporaryDirectory() as folder:
        for name in filter(wanted, WORKLOADS):
            wrong |= _workload(Path(folder), name, model, arguments.rounds)
        if wanted("misses"):
            _misses(Path(folder), 10 * arguments.rounds)
    if wanted("hints"):
        wrong |= _hinted(model, arguments.rounds)
    sys.stdout.write("AN ANSWER DIFFERS\n" if wrong else "the answers are the same bits\n")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
