"""Compile our kernels into llama.cpp's CPU libraries and put those into .venv, without rebuilding the rest.

For work on `kernels/`. The source and the build tree stay in `${XDG_CACHE_HOME:-~/.cache}/sarai/kernels`, so
after the first time only what has changed is compiled. `make setup` compiles a whole wheel again as soon as `kernels/`
differs from what .venv was made of; this tool records that it need not.

Run as `python3 -m tools.kernels [VARIANT …]`: the variants of the CPU library in .venv to compile; by default zen4 and
haswell (AVX-512 and AVX2), or the only one of a native build.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from tools.llama_wheel import (
    CMAKE_HOOK,
    HOOK_OPTION,
    LOCK,
    PACKAGE,
    PORTABLE,
    build_tools,
    cache_dir,
    ninja_progress,
)  # fmt: skip
from tools.locked import requirement
from tools.setup_venv import VENV, choose_wheel, note_done
from tools.step import exit_code, run_step

_DEFAULT = ("zen4", "haswell")
_OPTIONS = (
    "-GNinja",
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    *(f"-DLLAMA_BUILD_{part}=OFF" for part in ("TESTS", "TOOLS", "EXAMPLES")),
)


def compile_kernels(variants: list[str]) -> list[Path]:
    """Compile these variants and return the libraries in .venv that were replaced.

    Raises:
        StepError: With the compiler's output.
    """
    kind = choose_wheel()
    (installed,) = VENV.glob("lib/python*/site-packages/llama_cpp/lib")
    names = [f"ggml-cpu-{variant}" for variant in variants or _DEFAULT] if kind == "portable" else ["ggml-cpu"]
    folder = cache_dir().parent / "kernels"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _compile(folder, kind, names)
    replaced = []
    for name in names:
        target = installed / f"lib{name}.so"
        # First next to it, then a rename: a library that is in use must not change.
        shutil.copyfile(folder / kind / "bin" / target.name, new := target.with_suffix(".new"))
        new.replace(target)
        replaced.append(target)
    note_done(kind)
    return replaced


def _compile(folder: Path, kind: str, names: list[str]) -> None:
    if not (folder / "tools" / "done").exists():
        build_tools(folder / "tools", folder)
        (folder / "tools" / "done").touch()
    source, build = _source(folder), folder / kind
    tools = folder / "tools" / "bin"
    env = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    (hook := folder / "hook.cmake").write_text(CMAKE_HOOK, encoding="utf-8")
    configure = [f"-D{HOOK_OPTION}={hook}", *_OPTIONS, *(PORTABLE if kind == "portable" else ())]
    for label, argv in (
        ("configuring", ["cmake", "-S", str(source), "-B", str(build), *configure]),
        ("compiling kernels", ["ninja", "-C", str(build), *names]),
    ):
        argv[0] = str(tools / argv[0])
        log = folder / f"{label.split()[0]}.log"
        run_step(label, argv, log=log, expected_s=60.0, read_progress=ninja_progress, env=env)


def _source(folder: Path) -> Path:
    """Return the folder of llama.cpp's source; it is fetched, with its hash checked, if it is missing."""
    wanted = requirement(LOCK, PACKAGE)
    about, source = folder / "source" / "requirement.txt", folder / "source"
    if not about.exists() or about.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(source, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="sarai-kernels-") as temporary:
            (locked := Path(temporary) / "requirement.txt").write_text(wanted, encoding="utf-8")
            pip = [str(folder / "tools" / "bin" / "python"), "-m", "pip", "download", "--no-deps"]
            exact = ["--no-build-isolation", "--no-binary", PACKAGE, "--require-hashes"]
            run_step(
                "fetching llama.cpp",
                [*pip, *exact, "--dest", temporary, "--requirement", str(locked)],
                log=folder / "fetching.log",
                expected_s=30.0,
                read_progress=lambda _line: None,
            )
            (archive,) = Path(temporary).glob("*.tar.gz")
            with tarfile.open(archive) as packed:
                packed.extractall(source, filter="data")
        about.write_text(wanted, encoding="utf-8")
    (found,) = source.glob("*/vendor/llama.cpp")
    return found


def main() -> int:
    """Compile, and print which libraries were replaced."""
    parser = argparse.ArgumentParser(prog="python3 -m tools.kernels", description=__doc__.partition("\n")[0])
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="zen4, haswell, icelake …")
    arguments = parser.parse_args()
    return exit_code(lambda: print(*compile_kernels(arguments.variants), sep="\n"))


if __name__ == "__main__":
    sys.exit(main())
