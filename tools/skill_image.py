"""Builds a skill's image, and before it what that needs: the base image, and the wheel where it is compiled already.

`python3 -m tools.skill_image --folder skills/skill_draft --tag sarai-skill-draft:v2.16`. The whole output of the build
goes to a log, a progress line to the terminal; where nothing has changed it takes seconds.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

from tools import base_image, llama_wheel
from tools.locked import entries
from tools.step import StepError, run_step

ROOT = Path(__file__).resolve().parent.parent
_WHEELS = ROOT / ".wheels"

# "Step 5/37 : …" of the legacy builder; "#12 [builder 5/9] …" of BuildKit, whose stages run side by side.
_STEP = re.compile(r"^(?:Step|#\d+ \[\w+) +(\d+)/(\d+)")
# Where the wheel has to be compiled, the compiler's own progress is what takes the time.
_COMPILED = re.compile(r"\((\d+) of (\d+) files\)")


def build(folder: Path, tag: str) -> None:
    """Builds the image.

    Raises:
        StepError: With the reason, the end of the build's output, and where the rest is.
    """
    logs = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "sarai" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / "image.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another one waits, and then finds everything in the builder's cache
        if not (base_image.is_there() or base_image.pull()):
            base_image.make(logs / "base-image.log")
        wheel = _offer_wheel(folder / "requirements.txt")
        run_step(
            f"building {tag}",
            ["docker", "build", "--tag", tag, "--build-arg", f"REVISION={_revision()}",
             "--file", str(folder / "Dockerfile"), str(ROOT)],
            log=logs / "image.log",
            expected_s=90.0 if wheel else 900.0,
            read_progress=_read_progress,
            env={**os.environ, "BUILDKIT_PROGRESS": "plain"},
        )  # fmt: skip


def _offer_wheel(lock: Path) -> bool:
    """Puts the wheel that this machine has compiled where the builder looks for it; it takes it if it is the same.

    Whether nothing is left to be compiled, as for a skill that has no llama.cpp.
    """
    if all(package != llama_wheel.PACKAGE for package, _ in entries(lock)):
        return True
    try:
        llama_wheel.export(_WHEELS, portable=True, lock=lock)
    except StepError:  # no compiler here; the builder brings its own
        return False
    return any(_WHEELS.iterdir())


def _revision() -> str:
    # Only where it is a clone: a folder that was copied into some other repository is not of that one's revision.
    if not (ROOT / ".git").exists():
        return "unknown"
    asked = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
    )
    return asked.stdout.strip() if asked.returncode == 0 else "unknown"


def _read_progress(line: str) -> tuple[float, str] | None:
    if compiled := _COMPILED.search(line):
        # Half of the bar: the time is here, but the builder's steps go on after it.
        return 0.3 + 0.5 * int(compiled[1]) / int(compiled[2]), compiled[0]
    if step := _STEP.match(line):
        return 0.99 * int(step[1]) / int(step[2]), f"(step {step[1]} of {step[2]})"
    return None


def main() -> int:
    """Builds, and says on standard error what goes on."""
    parser = argparse.ArgumentParser(prog="python3 -m tools.skill_image", description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="the skill's folder, with its Dockerfile")
    parser.add_argument("--tag", required=True, help="the image's name and tag")
    arguments = parser.parse_args()
    try:
        build(ROOT / arguments.folder, arguments.tag)
    except StepError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
