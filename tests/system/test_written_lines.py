"""Users' commands without containers, run at the root of a copy of the tree, on the port that they name."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests import written_lines as lines
from tests.own_network import own_network
from tests.servers import ROOT
from tests.source_tree import blocks, copy_tree, make_environment, sections, typed

pytestmark = pytest.mark.timeout(200)
STARTED = f"({lines.SERVER}) &\n{lines.WAIT}"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = copy_tree(tmp_path / "tree")
    make_environment(tree)
    return tree


def type_(script: str, tree: Path, folder: Path) -> str:
    """Run a script with the environment activated and port 50051 free; return what it prints."""
    path = os.pathsep.join((f"{tree}/.venv/bin", str(Path(sys.executable).parent), os.environ["PATH"]))
    return typed(script, tree, timeout_s=180, within=own_network(50051), PATH=path, TMPDIR=str(folder),
                 XDG_STATE_HOME=str(folder / "state"))  # fmt: skip


def test_server_from_its_folder_and_both_clients(tree: Path, tmp_path: Path) -> None:
    said = type_(STARTED + lines.CLIENTS, tree, tmp_path)
    assert re.search(r"^pool: .{4,}, \d+ tokens$", said, re.MULTILINE), said
    assert re.search(r"^stub: .{4,}, \d+ tokens$", said, re.MULTILINE), said
    assert re.search(r"^stub: SERVING, \d+ MB, \d+ %, 2 requests$", said, re.MULTILINE), said


def test_pool_client_starts_a_local_server_where_there_is_none(tree: Path, tmp_path: Path) -> None:
    said = type_(f"python - <<'END'\n{lines.POOL_CLIENT}END\n", tree, tmp_path)
    assert re.search(r"^pool: .{4,}, \d+ tokens$", said, re.MULTILINE), said


def test_health_and_answers_by_reflection(tree: Path, tmp_path: Path) -> None:
    said = type_(STARTED + lines.GRPCURL_BY_BUF + lines.GRPCURL, tree, tmp_path)
    assert said.count('"status": "SERVING"') == 2
    assert '"tokensGenerated": ' in said


def test_lines_about_kept_answers(tree: Path, tmp_path: Path) -> None:
    guide = ROOT / "docs" / "cache.md"
    first = blocks(guide.read_text(encoding="utf-8").partition("## ")[0], "sh")[0]
    (python,) = blocks(sections(guide)["What a request can ask for"], "python")
    (tree / "ask.py").write_text(python)
    shown = sections(guide)["Commands and figures"].replace("sarai cache stats --watch\n", "")
    (commands,) = blocks(shown, "sh")
    until_it_ends = first.replace("kill $server", f"python ask.py\n{commands}\nkill $server")
    said = type_(until_it_ends, tree, tmp_path)
    assert said.count("a kept answer") == 1
    assert "outcome: CACHE_OUTCOME_MISS" in said, "it asks for a new answer"
    assert re.search(r"^127.0.0.1:50051 +1 .* 1 +0 +0 +1 ", said, re.MULTILINE), said
    assert "127.0.0.1:50051: would forget 1 answer" in said
    assert said.rstrip().endswith(" kB"), said


def test_lines_about_the_loop(tree: Path, tmp_path: Path) -> None:
    python = blocks((ROOT / "docs" / "loop.md").read_text(encoding="utf-8"), "python")[0]
    (tree / "ask.py").write_text(python)
    said = type_("python ask.py", tree, tmp_path)
    assert re.search(
        r"^(nothing_to_correct|unchanged|confident|time_budget|max_iterations) \[\(1, 0\.", said, re.MULTILINE
    ), said


def test_readmes_lines_on_the_wire(tree: Path, tmp_path: Path) -> None:
    """After generating the stubs in both ways that README describes, the last of them in `skills`."""
    asked, generated = blocks(sections(ROOT / "README.md")["On the wire"], "sh")
    (python,) = blocks(sections(ROOT / "README.md")["From Python"], "python")
    (tree / "readme.py").write_text(python)
    said = type_(f"({generated})\n{STARTED}{lines.GRPCURL_BY_BUF}{asked}\npython readme.py\n", tree, tmp_path)
    assert '"status": "SERVING"' in said
    assert said.rstrip().endswith("SERVING")
