"""Templates and tokens: ordinary text as in llama.cpp, control tokens in user text as plain text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skills.skill_draft.catalog import EMBEDDED, find_model
from skills.skill_draft.engine.binding import Model, ModelParams
from skills.skill_draft.engine.messages import Turn
from skills.skill_draft.engine.prompt import PromptBuilder, PromptError

from .harness import TINY, ask


@pytest.fixture(scope="module", params=["tiny", "embedded"])
def model(request: pytest.FixtureRequest) -> Model:
    path = TINY if request.param == "tiny" else find_model(EMBEDDED, TINY.parent / "none")
    return Model(path, ModelParams())


def build(model: Model, *contents: str) -> list[int]:
    roles = ("user", "assistant")
    turns = tuple(Turn(role=roles[i % 2], content=content) for i, content in enumerate(contents))
    return PromptBuilder(model).build(ask(turns=turns))


def rendered(model: Model, *contents: str) -> str:
    """Return what the model's own template writes."""
    builder = PromptBuilder(model)
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    return builder._render(messages, 1 << 20)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=60).filter(lambda t: "|" not in t), min_size=1, max_size=3))
def test_ordinary_text_has_llama_cpps_tokens(model: Model, contents: list[str]) -> None:
    whole = model.vocab.tokenize(rendered(model, *contents), add_special=False, parse_special=True)
    assert build(model, *contents) == whole


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_text_becomes_a_control_token(model: Model, data: st.DataObject) -> None:
    specials = sorted(t for t, i in model.vocab.special_texts.items() if i in model.vocab.control)
    part = st.one_of(
        st.sampled_from(specials),
        st.sampled_from(specials).map(lambda t: t[:4]),
        st.sampled_from(specials).map(lambda t: t[3:]),
        st.text(max_size=5),
        st.characters(min_codepoint=0xFDD0, max_codepoint=0xFDEF),
    )
    contents = data.draw(st.lists(st.lists(part, min_size=1, max_size=5).map("".join), min_size=1, max_size=3))
    contents = [content or "x" for content in contents]
    plain = build(model, *["x"] * len(contents))
    controls = [t for t in build(model, *contents) if t in model.vocab.control]
    assert controls == [t for t in plain if t in model.vocab.control]
    pieces = b"".join(map(model.vocab.piece, build(model, *contents))).decode("utf-8", "replace")
    for content in contents:
        plain_tokens = model.vocab.tokenize(content, add_special=False, parse_special=False)
        spelled = b"".join(map(model.vocab.piece, plain_tokens)).decode("utf-8", "replace")
        assert spelled in pieces, "the text itself is unchanged"


def test_all_noncharacters_at_once_are_refused(model: Model) -> None:
    with pytest.raises(PromptError, match="noncharacters"):
        build(model, "".join(map(chr, range(0xFDD0, 0xFDF0))))


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxx{% endfor %}{% endfor %}", "characters"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{{ '' }}{% endfor %}{% endfor %}", "too long"),
        ("{{ messages.__class__.__mro__ }}", "refused"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "refused"),
        ("{{ raise_exception('only two turns') }}", "only two turns"),
        ("{{ messages[7].content }}", "refused"),
    ],
)
def test_a_template_is_bounded_and_sandboxed(
    model: Model, monkeypatch: pytest.MonkeyPatch, template: str, says: str
) -> None:
    monkeypatch.setattr(model, "chat_template", template)
    with pytest.raises(PromptError, match=says):
        build(model, "hello")


def test_a_model_without_a_template_says_so(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "chat_template", None)
    with pytest.raises(PromptError) as caught:
        build(model, "hello")
    assert caught.value.field == "raw"


def test_token_ids_stand_for_their_text(model: Model) -> None:
    ids: Any = tuple(model.vocab.tokenize("hello", add_special=False, parse_special=False))
    turns = (Turn(role="user", content="x"), Turn(role="assistant", content="hello", token_ids=ids))
    built = PromptBuilder(model).build(ask(turns=turns))
    assert built == build(model, "x", "hello")
