"""The examples of README and docs/structured.md, run as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.servers import ROOT


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SARAI_", "SKILL_DRAFT_"))}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)


def test_the_examples_of_structured_answers_run_as_written() -> None:
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "structured.md").read_text(), re.DOTALL)
    assert snippet is not None
    done = run(snippet[1].replace("timeout=30.0", "timeout=90.0"))
    assert done.returncode == 0, done.stderr
    inhabitants, because, call = done.stdout.splitlines()
    assert int(inhabitants) >= 0
    assert re.fullmatch(r"(yes|no), because [a-z ]{5,40}\.", because)
    assert call in {'weather("Paris")', 'weather("Rome")'}


def test_the_client_snippet_runs_as_written() -> None:
    """Uses the embedded model in a local process, or the server on this host's port if there is one."""
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert snippet is not None
    done = run(snippet[1].replace("timeout=10.0", "timeout=90.0"))  # a busy CI machine is slower than a laptop
    assert done.returncode == 0, done.stderr
    assert "tok/s" in done.stdout
    assert done.stdout.rstrip().endswith("SERVING")
    assert len(done.stdout.splitlines()[0]) > 20
