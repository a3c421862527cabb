"""Install a server's locked packages into a folder of an image, without the files that no server needs.

Run inside the image's builder: `python3 -m tools.image_packages --lock requirements.txt --wheels DIR --target DIR`.
llama-cpp-python installs every library six times: here each exists once, under the name that the bindings load, and its
other names are links.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.llama_wheel import PACKAGE
from tools.locked import without

# The second copy of the libraries, headers, the bindings' own server, parts of numpy that are loaded only if they are
# used, what Pillow needs for AVIF, fonts and windows, Google's protocols that are not gRPC's, and the commands of
# modules that stores of kept answers do not have.
_NEEDLESS = (
    "lib", "include", "bin", "llama_cpp/server", "numpy/*/tests", "numpy/tests", "numpy/f2py", "numpy/_core/include",
    "numpy/_core/lib", "numpy/random", "numpy/distutils", "numpy/fft", "numpy/ma", "numpy/polynomial", "numpy/testing",
    "PIL/_avif.*", "PIL/_imagingft.*", "PIL/_imagingtk.*", "pillow.libs/libavif-*", "pillow.libs/libbrotli*",
    "pillow.libs/libfreetype-*", "pillow.libs/libharfbuzz-*", "google/api", "google/cloud", "google/gapic",
    "google/logging", "google/longrunning", "google/type", "diskcache/cli.py", "diskcache/djangocache.py",
    "valkey/commands/bf", "valkey/commands/graph", "valkey/commands/json", "valkey/commands/search",
    "valkey/commands/timeseries", "valkey/ocsp.py", "moka_py-*.dist-info/sboms", "**/*.pyi",
)  # fmt: skip


def install(lock: Path, wheels: Path, target: Path) -> None:
    """Install the lock's packages, llama-cpp-python from its wheel, into `target`."""
    pip = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--no-deps", "--target", str(target)]
    rest = target.parent / "requirements.txt"
    target.mkdir(parents=True)
    rest.write_text(without(lock, PACKAGE), encoding="utf-8")
    subprocess.run([*pip, "--require-hashes", "--requirement", str(rest)], check=True)
    rest.unlink()
    # Not by pip: it would refuse to merge the wheel's folders into existing ones.
    (wheel,) = wheels.glob("*.whl")
    shutil.unpack_archive(wheel, target, "zip")


def slim(target: Path) -> None:
    """Remove what no server needs, and replace further copies of libraries by links."""
    for pattern in _NEEDLESS:
        for path in list(target.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    first: dict[str, Path] = {}
    for path in sorted((target / "llama_cpp" / "lib").glob("*.so*")):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        original = first.setdefault(digest, path)
        if original is not path:
            path.unlink()
            path.symlink_to(original.name)


def largest(target: Path) -> Iterator[str]:
    """Yield the ten largest entries with their sizes in MB: where to look when an image has grown."""
    sizes = {
        entry.name: sum(file.lstat().st_size for file in (entry.rglob("*") if entry.is_dir() else (entry,)))
        for entry in target.iterdir()
    }
    for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:10]:
        yield f"{size / 1e6:7.1f} MB  {name}"


def main() -> int:
    """Install the packages and remove what is not needed."""
    parser = argparse.ArgumentParser(prog="python3 -m tools.image_packages", description=__doc__.partition("\n")[0])
    for name in ("--lock", "--wheels", "--target"):
        parser.add_argument(name, type=Path, required=True)
    arguments = parser.parse_args()
    install(arguments.lock, arguments.wheels, arguments.target)
    slim(arguments.target)
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(arguments.target)],
        check=False,
    )
    print(*largest(arguments.target), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
