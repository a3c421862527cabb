"""A copy of this tree with its own environment, in which commands of the documents are run as written."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

from tests.servers import ROOT

_COPIED = (
    *("core", "sarai", "skills", "tools", "docs", "models", "pyproject.toml", "requirements.lock", "Makefile"),
    *(".dockerignore", "docker-compose.yml", "docker-compose.override.yml", "docker-compose.scale.yml"),
)


def copy_tree(folder: Path) -> Path:
    """Copy what a new skill needs: our code, without tests, models and files that git ignores."""
    for name in _COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.gguf")
            shutil.copytree(source, target, symlinks=True, ignore=ignored)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return folder


def make_environment(tree: Path) -> None:
    """Create the tree's `.venv`: the tree's own code, before the packages that are installed here, and `sarai`."""
    venv.create(tree / ".venv", with_pip=False)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = tree / ".venv" / "lib" / version / "site-packages"
    (packages / "tree.pth").write_text(f"{tree}\n{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    sarai = tree / ".venv" / "bin" / "sarai"
    sarai.write_text(
        f"#!{tree}/.venv/bin/python\nimport sys\nfrom core.cli import main\nsys.exit(main())\n", encoding="utf-8"
    )
    sarai.chmod(0o755)


def sections(document: Path) -> dict[str, str]:
    """Return the text below each second-level heading."""
    parts = re.split(r"^## (.+)\n", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def typed(script: str, tree: Path, *, timeout_s: float = 110.0, within: Sequence[str] = (), **environment: str) -> str:
    """Run these lines in a shell at the root of the tree; return what they print, or raise `AssertionError`.

    `within` is a command that starts the shell: see `tests.own_network`.
    """
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SARAI_", "SKILL_", "PYTHONPATH"))}
    with tempfile.TemporaryFile("w+") as said:
        shell = subprocess.Popen(
            [*within, "bash", "-euo", "pipefail", "-c", script], cwd=tree, env={**clean, **environment},
            stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = shell.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):  # background jobs of a line that failed
                os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
        said.seek(0)
        text = said.read()
    assert code == 0, f"{script}\nended with {code}:\n{text}"
    return text
