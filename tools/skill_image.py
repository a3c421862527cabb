"""Build a skill's image, and first what it needs: the base image and llama.cpp's wheel.

`python3 -m tools.skill_image --folder skills/skill_draft --tag sarai-skill-draft:v2.16`. The whole output of the build
goes to a log, a progress line to the terminal; if nothing has changed it takes seconds.

llama.cpp is compiled once for all builders, each of which has its own cache: on this machine, if that gives the same
wheel as the image's builder would, otherwise in the first builder, from which the wheel is copied for the others.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from tools import base_image, llama_wheel
from tools.locked import entries
from tools.step import StepError, exit_code, logs, run_step

ROOT = Path(__file__).resolve().parent.parent
_WHEELS = ROOT / ".wheels"
# Where the Dockerfiles' builders keep their wheels.
_BUILDERS_CACHE = "/cache/sarai/wheels"

# About how long a build takes that has the wheel, seconds.
EXPECTED_S = 90.0

# "Step 5/37 : …" of the legacy builder; "#12 [builder 5/9] …" of BuildKit, whose stages run side by side.
_STEP = re.compile(r"^(?:Step|#\d+ \[\w+) +(\d+)/(\d+)")
# What apt and pip print in a builder without network.
_NO_NETWORK = re.compile(
    r"(Temporary failure resolving|Could not resolve|Could not connect to|Name or service not known"
    r"|Failed to establish a new connection|Network is unreachable)[^\n]*"
)
# Where the wheel has to be compiled, the compiler's own progress is what takes the time.
_COMPILED = re.compile(r"\((\d+) of (\d+) files\)")


class NoNetworkError(StepError):
    """The builder cannot reach any server that has packages."""


def build(folder: Path, tag: str) -> None:
    """Build the image.

    Raises:
        StepError: With the reason, the end of the build's output, and where the rest is.
    """
    logs().mkdir(parents=True, exist_ok=True)
    with (logs() / "image.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process waits, and then finds everything in the builder's cache
        if not (base_image.is_there() or base_image.pull()):
            base_image.make(logs() / "base-image.log")
        offered = _offer_wheel(folder / "requirements.txt")
        compiling_s = 0.0 if offered else llama_wheel.expected_s(portable=True)
        _docker_build(folder, tag, expected_s=EXPECTED_S + compiling_s)
        if _COMPILED.search(_log().read_text(encoding="utf-8")):
            keep_what_the_builder_compiled(folder)
            _offer_wheel(folder / "requirements.txt")


def _docker_build(folder: Path, tag: str, *options: str, expected_s: float) -> None:
    try:
        run_step(
            f"building {tag}",
            ["docker", "build", "--tag", tag, "--build-arg", f"REVISION={_revision()}", *options,
             "--file", str(folder / "Dockerfile"), str(ROOT)],
            log=_log(),
            expected_s=expected_s,
            read_progress=_read_progress,
            env={**os.environ, "BUILDKIT_PROGRESS": "plain"},
        )  # fmt: skip
    except StepError as error:
        if (found := _NO_NETWORK.search(_log().read_text(encoding="utf-8"))) is None:
            raise
        raise NoNetworkError(f"building {tag} takes the network, and there is none: {found[0]}") from error


def compiles_for_the_image() -> bool:
    """Return whether a wheel compiled on this machine equals the one that the image's builder would compile."""
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        return False
    same = (system.get("ID"), system.get("VERSION_CODENAME")) == ("debian", base_image.SUITE)
    return same and llama_wheel.has_compiler() and not any(os.environ.get(name) for name in ("CXX", "CMAKE_ARGS"))


def _offer_wheel(lock: Path) -> bool:
    """Copy this machine's wheels to where the builder looks for them. Return whether nothing need be compiled."""
    if all(package != llama_wheel.PACKAGE for package, _ in entries(lock)):
        return True
    if compiles_for_the_image():
        llama_wheel.get_wheel(portable=True, lock=lock)
    return llama_wheel.export(_WHEELS, lock=lock)


def keep_what_the_builder_compiled(folder: Path) -> None:
    """Copy the builder's wheel into this machine's cache."""
    llama_wheel.cache_dir().mkdir(parents=True, exist_ok=True)
    tag = f"sarai-builder:{os.getpid()}"
    _docker_build(folder, tag, "--target", "builder", expected_s=5.0)
    created = _docker("create", tag)
    try:
        _docker("cp", f"{created}:{_BUILDERS_CACHE}/.", str(llama_wheel.cache_dir()))
    finally:
        _docker("rm", created)
        _docker("rmi", tag)


def _log() -> Path:
    return logs() / "image.log"


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StepError(f"docker {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def _revision() -> str:
    # Only if it is a clone: a folder copied into another repository does not have that repository's revision.
    if not (ROOT / ".git").exists():
        return "unknown"
    asked = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
    )
    return asked.stdout.strip() if asked.returncode == 0 else "unknown"


def _read_progress(line: str) -> tuple[float, str] | None:
    if compiled := _COMPILED.search(line):
        # Half of the bar: most of the time is here, but the builder's steps continue after it.
        return 0.3 + 0.5 * int(compiled[1]) / int(compiled[2]), compiled[0]
    if step := _STEP.match(line):
        return 0.99 * int(step[1]) / int(step[2]), f"(step {step[1]} of {step[2]})"
    return None


def main() -> int:
    """Build, with progress on standard error."""
    parser = argparse.ArgumentParser(prog="python3 -m tools.skill_image", description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="the skill's folder, with its Dockerfile")
    parser.add_argument("--tag", required=True, help="the image's name and tag")
    arguments = parser.parse_args()
    return exit_code(lambda: build(ROOT / arguments.folder, arguments.tag))


if __name__ == "__main__":
    sys.exit(main())
