"""Fill .venv: exactly what requirements.lock lists, llama-cpp-python's wheel, and this project itself.

Run by make as `python3 -m tools.setup_venv`; it does nothing if the last set-up was for the same lock files in the
same place. Needs only a Python with `venv`, a C++ compiler for the first time, and a package index.

llama.cpp is compiled for this CPU (`native`), or like the image's, for every CPU of this architecture (`portable`):
that takes twice as long and works for both. SARAI_WHEEL selects one of them. By default .venv keeps the kind that it
has; a new one takes the kind that is already compiled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path

from tools.llama_wheel import LOCK, PACKAGE, ROOT, get_wheel, is_kept, ours
from tools.locked import canonical, entries, without
from tools.step import StepError, exit_code, run_step

VENV = ROOT / ".venv"
OURSELVES = "sarai-skills"
_OLDEST_PYTHON = (3, 11)
# What the set-up depends on.
INPUTS = (
    "requirements.lock",
    "tools/llama_wheel.lock",
    "pyproject.toml",
    "tools/setup_venv.py",
    "tools/llama_wheel.py",
)
_KINDS = ("native", "portable")
# Comes with every new environment.
_ALWAYS_THERE = {"pip", OURSELVES}


def is_current() -> bool:
    """Return whether .venv matches the lock files."""
    done, kind = _last()
    return done == _key() and os.environ.get("SARAI_WHEEL") in (None, "", kind)


def choose_wheel(*, fresh: str = "native") -> str:
    """Return which wheel .venv gets, `native` or `portable`.

    Args:
        fresh: the one to compile if there is neither.

    Raises:
        StepError: SARAI_WHEEL is neither, or there is no compiler to find out what is already compiled.
    """
    if asked := os.environ.get("SARAI_WHEEL"):
        if asked not in _KINDS:
            raise StepError(f"SARAI_WHEEL is {asked!r}: {' or '.join(_KINDS)} is possible")
        return asked
    _, there = _last()
    order = [there, *_KINDS] if there else _KINDS
    compiled = (kind for kind in order if is_kept(portable=kind == "portable"))
    return next(compiled, there or fresh)


def set_up(*, fresh: str = "native") -> None:
    """Make or repair .venv if it is not current.

    Args:
        fresh: the wheel to compile if there is none.

    Raises:
        StepError: With the reason and a remedy.
    """
    if is_current():
        return
    _check_python()
    # First, because it reports a missing compiler at once.
    kind = choose_wheel(fresh=fresh)
    wheel = get_wheel(portable=kind == "portable")
    _make_venv()
    _done().unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="sarai-setup-") as temporary:
        rest = Path(temporary) / "requirements.txt"
        rest.write_text(without(LOCK, PACKAGE), encoding="utf-8")
        _pip_install("installing packages", ["--require-hashes", "--requirement", str(rest)], log="packages")
    # These two come from this machine, so there is no hash to compare: the wheel's source was checked by its hash.
    # Even over one of the same version: it may be another build.
    _pip_install("installing llama-cpp-python", ["--no-index", "--force-reinstall", str(wheel)], log="llama")
    _pip_install(
        "installing this project", ["--no-index", "--no-build-isolation", "--editable", str(ROOT)], log="project"
    )
    _remove_what_the_lock_does_not_name()
    run_step(
        "making the embedded model",
        [str(VENV / "bin" / "python"), "-m", "skills.skill_draft.embedded"],
        log=VENV / "log" / "model.log",
        expected_s=1.0,
        read_progress=lambda _line: None,
    )
    note_done(kind)


def note_done(kind: str) -> None:
    """Record that .venv matches the lock files, with this wheel."""
    _done().parent.mkdir(exist_ok=True)
    _done().write_text(f"{_key()} {kind}", encoding="utf-8")


def _done() -> Path:
    return VENV / ".set-up"


def _key() -> str:
    content = b"".join((ROOT / name).read_bytes() for name in INPUTS)
    return hashlib.sha256(content + f"{ROOT}{ours()}".encode()).hexdigest()


def _last() -> tuple[str, str]:
    """Return key and wheel of the last set-up that was completed."""
    try:
        key, _, kind = _done().read_text(encoding="utf-8").partition(" ")
    except FileNotFoundError:
        return "", ""
    return key, kind if kind in _KINDS else ""


def _check_python() -> None:
    if sys.version_info[:2] < _OLDEST_PYTHON:
        raise StepError(
            f"Python {sys.version_info[0]}.{sys.version_info[1]} is too old: 3.11 or newer is needed. "
            "Name one with `make PYTHON=/path/to/python3.11 …`."
        )
    try:
        import ensurepip  # noqa: F401 - Debian leaves it out of python3 and venv fails half-way without it
    except ImportError:
        raise StepError("Python's venv module is not complete. On Debian: apt-get install python3-venv") from None


def _make_venv() -> None:
    """Make .venv again if there is none, or one that this tree and this Python cannot use (moved, upgraded)."""
    marker = VENV / ".made-for"
    made_for = f"{sys.version_info[0]}.{sys.version_info[1]} {VENV}\n"
    if marker.exists() and marker.read_text(encoding="utf-8") == made_for and (VENV / "bin" / "python").exists():
        return
    if VENV.exists():
        shutil.rmtree(VENV)
    venv.create(VENV, with_pip=True)
    marker.write_text(made_for, encoding="utf-8")


def _pip_install(label: str, arguments: list[str], *, log: str) -> None:
    total = len(entries(LOCK))
    run_step(
        label,
        [str(VENV / "bin" / "python"), "-m", "pip", "install", "--no-deps", *arguments],
        log=VENV / "log" / f"{log}.log",
        expected_s=30.0 if log == "packages" else 5.0,
        read_progress=_count_packages(total),
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )


def _count_packages(total: int) -> Callable[[str], tuple[float, str] | None]:
    """Read pip's output: nine tenths of the bar are for fetching, the last one for unpacking all of them."""
    seen = 0

    def read(line: str) -> tuple[float, str] | None:
        nonlocal seen
        if line.startswith(("Collecting ", "Requirement already satisfied: ")):
            seen += 1
            return 0.9 * min(1.0, seen / total), line.split()[1] if line.startswith("C") else ""
        if line.startswith("Installing collected packages"):
            return 0.9, "unpacking"
        return None

    return read


def _remove_what_the_lock_does_not_name() -> None:
    """Uninstall leftovers of an earlier lock, so that .venv never works by accident."""
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    listed = subprocess.run([*pip, "list", "--format=json"], check=True, capture_output=True, text=True)
    locked = {name for name, _ in entries(LOCK)} | _ALWAYS_THERE
    leftover = [name for row in json.loads(listed.stdout) if canonical(name := row["name"]) not in locked]
    if leftover:
        subprocess.run([*pip, "uninstall", "--quiet", "--yes", *leftover], check=True)
        print(f"removed what the lock does not name: {', '.join(leftover)}", file=sys.stderr)


def main() -> int:
    """Set up, with progress on standard error."""
    return exit_code(set_up)


if __name__ == "__main__":
    sys.exit(main())
