"""Prefixes that survive their engine: another one reads them from files, and answers with the same bits."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from skills.skill_draft.engine.keeping import LEAST_TOKENS
from skills.skill_draft.engine.messages import Admitted, Done, Ending, Forget, Request, Sampling, Turn
from skills.skill_draft.engine.parking import Parking
from skills.skill_draft.engine.prefix_keys import BLOCK_TOKENS

from .harness import EngineUnderTest, ask
from .tower import WHAT, Seeing, about, large, samples

SYSTEM = Turn(role="system", content="Count to five. Who are you? " * 12)
IDENTITY = b"model and machine"
SAMPLED: dict[str, Any] = {"sampling": Sampling(temperature=4.0, top_k=0, top_p=1.0, min_p=0.0, seed=7)}


def question(text: str, **fields: Any) -> Request:
    values = {"turns": (SYSTEM, Turn(role="user", content=text)), "max_tokens": 24, "top_logprobs": 3}
    return ask(**{**values, **fields})


def engine(folder: Path | None, **config: Any) -> EngineUnderTest:
    return EngineUnderTest(**{"prefix_dir": str(folder or ""), "identity": IDENTITY, **config})


def told(running: EngineUnderTest, request: Request) -> tuple[tuple[Ending, ...], int]:
    """Return the answer's endings, and how many tokens of its prompt were not computed."""
    id_ = running.submit(request)
    done = running.wait_for(id_)
    assert isinstance(done, Done), done
    return done.endings, running.wait_for(id_, (Admitted,)).cached_tokens


def cold(request: Request) -> tuple[Ending, ...]:
    with engine(None) as running:
        return told(running, request)[0]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.kv"))


def written(running: EngineUnderTest) -> None:
    """Wait until all that is to be kept has been written: an engine that ends on a busy machine may lose some."""
    end, keeping = time.monotonic() + 60, running.engine.keeping
    while keeping._wanted or keeping._writing:
        assert time.monotonic() < end, f"still to be written: {list(keeping._wanted)}"
        time.sleep(0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the system prompt, which two questions shared."""
    folder = tmp_path / "prefixes"
    with engine(folder) as running:
        told(running, question("Say hello."))
        assert not files(folder), "one request shares nothing"
        told(running, question("Count to twenty."))
        written(running)
    assert len(files(folder)) >= LEAST_TOKENS // BLOCK_TOKENS
    return folder


def test_the_next_engine_starts_warm_and_answers_with_the_same_bits(folder: Path) -> None:
    asked = [
        question("What is in the image?"),
        question("Who are you?", **SAMPLED),
        question("Count to five.", json_object="", close_json=40, **SAMPLED),
        question("Who are you?", num_candidates=3, **SAMPLED),
    ]
    for request in asked:
        with engine(folder, n_batch=64) as running:
            endings, cached = told(running, request)
        assert endings == cold(request)
        assert cached == BLOCK_TOKENS * len(files(folder))
    with engine(folder) as running:  # all at once
        ids = [running.submit(request) for request in asked]
        for id_, request in zip(ids, asked, strict=True):
            assert running.wait_for(id_).endings == cold(request)


def test_what_prefixes_share_is_kept_once(folder: Path) -> None:
    before = files(folder)
    longer = (SYSTEM, Turn(role="user", content="Count to twenty. " * 12))
    with engine(folder) as running:
        for text in ("Say hello.", "Who are you?"):
            told(running, question("", turns=(*longer, Turn(role="assistant", content=text), longer[1])))
        written(running)
    after = files(folder)
    assert set(before) < set(after)
    assert len({file.stat().st_size for file in after}) == 1, "blocks of the same number of tokens"


def test_a_parked_prefix_is_written_too(tmp_path: Path) -> None:
    with engine(tmp_path) as running:
        running.engine.keeping._retry_at = time.monotonic() + 3600  # not yet
        for text in ("Say hello.", "Who are you?"):
            told(running, question(text))
        assert running.engine.keeping._wanted
        running.engine._cells.make_room(4000)
        assert not running.engine._cells.prefixes, "nothing was parked: the test shows nothing"
        running.engine.keeping._retry_at = 0.0
        written(running)
    assert len(files(tmp_path)) >= 2
    with engine(tmp_path) as running:
        request = question("Count to five.")
        assert told(running, request) == (cold(request), BLOCK_TOKENS * len(files(tmp_path)))


def test_what_is_to_be_forgotten_is_not_written(tmp_path: Path) -> None:
    with engine(tmp_path) as running:
        running.engine.keeping._retry_at = time.monotonic() + 3600  # not yet
        for text in ("Say hello.", "Who are you?"):
            told(running, question(text))
        assert running.engine.keeping._wanted
        running.engine.inbox.put(Forget())
        end = time.monotonic() + 5
        while running.engine.keeping._wanted:
            assert time.monotonic() < end
            time.sleep(0.01)
        running.engine.keeping._retry_at = 0.0
    assert not files(tmp_path)


def test_an_image_is_kept_with_what_is_before_it(tmp_path: Path) -> None:
    shown = large(0)
    images = [*samples(), shown]
    parts = ("Say hello. " * 20, shown, "Who are you? " * 20)
    with Seeing(tmp_path, images, prefix_dir=str(tmp_path / "kept"), identity=IDENTITY) as running:
        for text in ("Say hello.", "Who are you?"):
            told(running, about(*parts, text))
        written(running)
    request = about(*parts, WHAT, **SAMPLED)
    with Seeing(tmp_path, images) as running:
        told(running, about(samples()[0], WHAT))  # so that ids are not those of the other engine
        expected, _ = told(running, request)
        asked = len(running.wanted)
    with Seeing(tmp_path, images, prefix_dir=str(tmp_path / "kept"), identity=IDENTITY) as running:
        told(running, about(samples()[1], WHAT))
        told(running, about(samples()[2], WHAT))
        endings, cached = told(running, request)
        assert endings == expected
        assert cached > LEAST_TOKENS + shown.image.n_tokens
        assert len(running.wanted) == 2 < asked + 1, "the rows of a kept image were asked for"
    other = about(parts[0], large(3), parts[2], WHAT)
    with Seeing(tmp_path, [*images, large(3)], prefix_dir=str(tmp_path / "kept"), identity=IDENTITY) as running:
        _, cached = told(running, other)
        assert cached <= LEAST_TOKENS + BLOCK_TOKENS, "the cells of another image were taken"


def test_nothing_of_a_request_that_is_not_to_be_kept_reaches_the_folder(tmp_path: Path) -> None:
    for keeps in ((False, False), (True, False), (False, True)):
        with engine(tmp_path) as running:
            for text, keep in zip(("Say hello.", "Who are you?"), keeps, strict=True):
                told(running, question(text, keep=keep))
        assert not files(tmp_path)


def test_the_next_turn_of_a_conversation_writes_nothing(tmp_path: Path) -> None:
    with engine(tmp_path) as running:
        first = question("Count to twenty.", top_logprobs=0)
        ending = told(running, first)[0][0]
        answer = Turn(role="assistant", content=ending.text, token_ids=ending.tokens.token_ids)
        told(running, question("", turns=(*first.turns, answer, Turn(role="user", content="Say hello."))))
    assert not files(tmp_path)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "swapped"])
def test_a_damaged_file_is_a_miss_and_goes(folder: Path, damage: str) -> None:
    request = question("Who are you?")
    second = in_order(folder)[1]
    content = bytearray(second.read_bytes())
    content[-1234] ^= 4
    replaced = {"flipped": bytes(content), "cut": bytes(content[:-7]), "empty": b""}
    second.write_bytes(replaced.get(damage) or (b"" if damage == "empty" else in_order(folder)[0].read_bytes()))
    with engine(folder) as running:
        assert told(running, request) == (cold(request), BLOCK_TOKENS)
    with engine(folder) as running:
        assert told(running, request)[1] == 0, "a block that stands alone is not worth a look"


def in_order(folder: Path) -> list[Path]:
    """Return the files of a chain: the first block is removed last, so it is the one used last."""
    return sorted(files(folder), key=lambda file: -file.stat().st_mtime_ns)


def test_another_identity_or_none_finds_nothing(folder: Path) -> None:
    for identity in (b"another model", b""):
        with engine(folder, identity=identity) as running:
            assert told(running, question("Who are you?"))[1] == 0


def test_an_identity_that_becomes_known_later_is_used_from_then_on(folder: Path) -> None:
    with engine(folder, identity=b"") as running:
        running.engine.keeping.identify(IDENTITY)
        assert told(running, question("Who are you?"))[1] > LEAST_TOKENS


def test_a_folder_that_cannot_be_used_is_noted_once_and_requests_are_answered(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "open").mkdir(mode=0o755)
    for bad, why in ((tmp_path / "file" / "under", "Not a directory"), (tmp_path / "open", "chmod 700")):
        with engine(bad) as running:
            for text in ("Say hello.", "Who are you?"):
                told(running, question(text))
            notes = [n.text for n in running.notes]
        assert len(notes) == 1
        assert why in notes[0]


def test_a_folder_that_vanishes_is_noted_once_and_requests_are_answered(folder: Path) -> None:
    request = question("Who are you?")
    with engine(folder) as running:
        shutil.rmtree(folder)
        for _ in range(3):
            assert told(running, dataclasses.replace(request, id=ask().id))[0] == cold(request)
        running.idle()
        end = time.monotonic() + 5
        while not running.notes:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert [str(folder) in note.text for note in running.notes] == [True]


def test_what_was_computed_for_one_tenant_shortens_no_work_for_another(folder: Path) -> None:
    """In the cells, parked, in files, and while it is being read."""
    request = question("Who are you?")
    with engine(folder) as running:
        assert told(running, question("Who are you?", tenant="one"))[1] == 0  # not from files
        assert told(running, question("Who are you?", tenant="two"))[1] == 0  # not from cells
        running.engine._cells.make_room(4000)
        assert len(running.engine._cells._parking) > 0
        assert told(running, question("Who are you?", tenant="three"))[1] == 0  # not from parked ones
        for tenant in ("one", "two", "three"):
            endings, cached = told(running, question("Who are you?", tenant=tenant))
            assert endings == cold(request)
            assert cached > LEAST_TOKENS, "its own is still there"
    with EngineUnderTest(n_batch=16) as running:  # many steps, so that the second comes while the first is read
        ids = [running.submit(question("Who are you?", tenant=tenant)) for tenant in ("one", "two", "one")]
        assert [running.wait_for(id_, (Admitted,)).cached_tokens > 0 for id_ in ids] == [False, False, True]


def test_parking_finds_its_memory_ready() -> None:
    with engine(None) as running:
        parking = running.engine._cells._parking
        told(running, question("Who are you?"))
        end = time.monotonic() + 5
        while not parking.ready:
            assert time.monotonic() < end
            time.sleep(0.01)
        done = parking._populated._done
        assert 0 < done < parking.room, "as much as may be parked, and no more"
        assert isinstance(parking, Parking)
