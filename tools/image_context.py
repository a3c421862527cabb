"""Pack what a skill's image needs from outside the skill's folder, so that `docker build .` works from there too.

A build sees nothing above its context. So what the image needs from the rest of the tree is committed in the skill's
folder as `context.tar`. The same tree always gives the same bytes: no times, no owners, sorted.

`python3 -m tools.image_context` writes it, `--check` reports whether it is current.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKILL = ROOT / "skills" / "skill_draft"
TARGET = SKILL / "context.tar"

# What the Dockerfile uses in addition to the skill's own folder.
NEEDED = (
    "kernels/*",
    "skills/*.py",
    "skills/runtime/*.py",
    "skills/runtime/answer_cache/*.py",
    "skills/runtime/pictures/*.py",
    "skills/runtime/health_probe.c",
    "tools/__init__.py",
    "tools/image_packages.py",
    "tools/llama_wheel.lock",
    "tools/llama_wheel.py",
    "tools/locked.py",
    "tools/progress.py",
    "tools/step.py",
)


def files() -> list[Path]:
    """Return the files that belong in the archive, relative to the root.

    Raises:
        FileNotFoundError: A pattern matches nothing.
    """
    found: list[Path] = []
    for pattern in NEEDED:
        matches = [path.relative_to(ROOT) for path in ROOT.glob(pattern)]
        if not matches:
            raise FileNotFoundError(f"{pattern} matches nothing under {ROOT}")
        found += matches
    return sorted(found)


def packed() -> bytes:
    """Return the archive's bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in files():
            content = (ROOT / path).read_bytes()
            entry = tarfile.TarInfo(path.as_posix())
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def main() -> int:
    """Write the archive, or check it."""
    parser = argparse.ArgumentParser(prog="python3 -m tools.image_context", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the file is not current")
    arguments = parser.parse_args()
    content = packed()
    if TARGET.exists() and TARGET.read_bytes() == content:
        return 0
    if arguments.check:
        print(f"{TARGET.relative_to(ROOT)} is not current: run `make context`", file=sys.stderr)
        return 1
    TARGET.write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
