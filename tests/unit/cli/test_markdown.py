from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.markdown import Markdown

from core.cli.markdown import MarkdownStream, parse
from tests.terminal import Screen

COLUMNS, ROWS = 40, 8
ANSWER = """\
# Rain

Three *short* lines, `code` and **strong words**,
as they were written:

- one that is rather long, so long that it does not fit into one line of this screen
- two
  1. deeper
  2. still

> quoted

```python
def rain() -> str:
    return "drops"
```

| a | b |
|---|---|
| 1 | 2 |

---

Heading
-------
The last.
"""


@pytest.fixture
def small_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setenv("LINES", str(ROWS))


def streamed(text: str, size: int) -> str:
    """Return the terminal's final screen after the text has arrived in pieces of this size."""
    out, screen = io.StringIO(), Screen(COLUMNS, ROWS)
    stream = MarkdownStream(out, color=True)
    for begin in range(0, len(text), size):
        stream.write(text[begin : begin + size])
    stream.close()
    screen.feed(out.getvalue())
    return screen.text


def at_once(text: str) -> str:
    """Return what rich shows for the whole text, without empty lines."""
    out, screen, markdown = io.StringIO(), Screen(COLUMNS, ROWS), Markdown("", hyperlinks=False)
    markdown.parsed = parse(text)
    Console(file=out, force_terminal=True).print(markdown)
    screen.feed(out.getvalue())
    return without_empty_lines(screen.text)


def without_empty_lines(text: str) -> str:
    return "\n".join(line for line in text.split("\n") if line)


@pytest.mark.usefixtures("small_terminal")
@pytest.mark.parametrize("size", [1, 3, 7, 40, 10_000])
def test_end_of_a_stream_is_the_whole_answer_once(size: int) -> None:
    seen = streamed(ANSWER, size)
    assert without_empty_lines(seen) == at_once(ANSWER)
    assert "\n\n\n" not in seen
    assert seen.count("\n\n") == 8, "one empty line between two blocks"


@pytest.mark.usefixtures("small_terminal")
@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"- item {number}" for number in range(50)),
        "```\n" + "\n".join(f"line {number}" for number in range(50)) + "\n```\n",
        " ".join(f"word{number}" for number in range(200)),
    ],
)
def test_block_that_is_longer_than_the_screen_is_whole_at_the_end(text: str) -> None:
    seen = streamed(text, 11)
    assert without_empty_lines(seen) == at_once(text)
    for word in text.split():
        assert word in ("```", "-") or word in seen


@pytest.mark.usefixtures("small_terminal")
@pytest.mark.parametrize(
    "text",
    ["Use <b>bold</b> tags.", "<div>\nblock\n</div>", "![a picture](http://x/y.png)", "see <http://x.org>",
     "[1]: http://x.org", "[text](http://x.org)", "a & b &c;", "one\ntwo\nthree", "12. twelve"],
)  # fmt: skip
def test_nothing_that_was_written_is_left_out(text: str) -> None:
    seen = streamed(text, 4)
    for part in text.replace("![a picture](http://x/y.png)", "a picture (http://x/y.png)").splitlines():
        assert part.replace("[text](http://x.org)", "text (http://x.org)").replace(".", "") in seen.replace(".", "")


@pytest.mark.usefixtures("small_terminal")
def test_lines_stay_as_they_were_written() -> None:
    assert streamed("Rain falls\non leaves\nand stops", 3) == "Rain falls\non leaves\nand stops"


@pytest.mark.usefixtures("small_terminal")
def test_what_comes_is_seen_at_once() -> None:
    out = io.StringIO()
    stream = MarkdownStream(out, color=False)
    stream.write("one")
    assert "one" in out.getvalue()
    stream.close()


@pytest.mark.usefixtures("small_terminal")
def test_answer_cannot_drive_the_terminal() -> None:
    assert streamed("a\x1b]0;owned\x07b\x1b[2Jc\x9b", 1) == "a]0;ownedb[2Jc"


def test_empty_answer_leaves_nothing() -> None:
    out = io.StringIO()
    MarkdownStream(out, color=True).close()
    assert out.getvalue() == ""
