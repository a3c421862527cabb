"""Build llama-cpp-python's wheel once for this machine, and cache it.

PyPI has only its source, which takes minutes to compile. The wheel is kept in
`${XDG_CACHE_HOME:-~/.cache}/sarai/wheels/KEY/`, so the next clone on the machine takes it from there. KEY covers
all that determines the result: the source's hash, the build options, the compiler and the CPU features that it
compiles for. llama.cpp's `common` library, 40 % of the work, is left out: the bindings never load it. On x86-64 our own
kernels (`kernels/`) go into its CPU libraries.

Run as `python3 -m tools.llama_wheel`; it prints the wheel's path. Needs a C++ compiler; cmake and ninja come from
the package index, with their hashes checked, as the source is.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from tools.locked import requirement
from tools.step import StepError, exit_code, run_step

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
BUILD_TOOLS_LOCK = ROOT / "tools" / "llama_wheel.lock"
KERNELS = ROOT / "kernels"
PACKAGE = "llama-cpp-python"

# CMake reads this inside llama.cpp's project() call. That is after the bindings have forced the option on, and a plain
# variable beats a cached one.
WITHOUT_COMMON = "set(LLAMA_BUILD_COMMON OFF)\n"

# The same, at the end of llama.cpp's own files. AMX is left out: its kernels are others than those for a few rows, so
# an answer would depend on its batch; and virtual machines announce it in which its first instruction is a fault.
WITHOUT_AMX = """\
include(CheckCXXCompilerFlag)
function(leave_out_amx)
  check_cxx_compiler_flag(-mno-amx-tile compiler_knows_amx)
  foreach(name IN ITEMS ggml-cpu ggml-cpu-sapphirerapids)
    if(compiler_knows_amx AND TARGET ${name})
      target_compile_options(${name} PRIVATE -mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
    endif()
  endforeach()
endfunction()
cmake_language(DEFER CALL leave_out_amx)
"""
CMAKE_HOOK = WITHOUT_COMMON + WITHOUT_AMX + f"include({KERNELS}/llama_cpp.cmake)\n"
HOOK_OPTION = "CMAKE_PROJECT_llama.cpp_INCLUDE"

# One build for every x86-64 (or arm64) CPU: each CPU family has its own library, the best one is loaded at run time.
# llama.cpp installs those with its programs; BINDIR puts them next to the other libraries.
PORTABLE = (
    "-DGGML_NATIVE=OFF",
    "-DGGML_BACKEND_DL=ON",
    "-DGGML_CPU_ALL_VARIANTS=ON",
    "-DCMAKE_INSTALL_BINDIR=llama_cpp/lib",
)

# CPU seconds of the compilation on the machine where this was measured (2 cores: 3.5 minutes).
_NATIVE_CPU_S = 420.0
_PORTABLE_CPU_S = 1000.0

_NINJA_STEP = re.compile(r"^\s*\[(\d+)/(\d+)\]")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What determines which wheel is built."""

    requirement: str
    """The lock's entry: version and hashes of the source."""
    cmake_args: tuple[str, ...]
    """Our options and those of the environment variable CMAKE_ARGS."""
    ours: str
    """A hash of what we change in llama.cpp: options set in its files for CMake, and our kernels."""
    platform: str
    """Operating system, machine and C library."""
    compiler: str
    """The compiler's version and, if the build is for this CPU, the CPU features that it will use."""

    @property
    def key(self) -> str:
        """The name of the wheel's folder in the cache."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def describe(*, portable: bool, lock: Path = LOCK) -> Build:
    """Determine what would be built here.

    Raises:
        StepError: There is no C++ compiler.
    """
    return Build(
        requirement=requirement(lock, PACKAGE),
        cmake_args=(*(PORTABLE if portable else ()), *os.environ.get("CMAKE_ARGS", "").split()),
        ours=ours(),
        platform=" ".join((sys.platform, platform.machine(), *platform.libc_ver())),
        compiler=_compiler(native=not portable),
    )


def cache_dir() -> Path:
    """Return the folder of all wheels that were built on this machine."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "sarai" / "wheels"


def kept_wheel(folder: Path) -> Path | None:
    """Return the wheel in a folder of the cache, if it is complete."""
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        wheel = folder / str(about["wheel"])
        if _sha256(wheel) == about["sha256"]:
            return wheel
    except (OSError, ValueError, KeyError):
        pass
    return None


def get_wheel(*, portable: bool = False, lock: Path = LOCK) -> Path:
    """Return the wheel for this machine; build it if it is not cached.

    Args:
        portable: For every CPU of this architecture instead of only this one.
        lock: The lock file with the version and its hash.

    Raises:
        StepError: It cannot be built; the text says why and what helps.
    """
    build = describe(portable=portable, lock=lock)
    folder = cache_dir() / build.key
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w", encoding="utf-8") as lock_file:
        _wait_for(lock_file.fileno())
        return kept_wheel(folder) or _build(build, folder, portable=portable)


def is_kept(*, portable: bool, lock: Path = LOCK) -> bool:
    """Return whether the wheel for this machine is already compiled."""
    return kept_wheel(cache_dir() / describe(portable=portable, lock=lock).key) is not None


def expected_s(*, portable: bool) -> float:
    """Return about how long compiling it takes here, in seconds."""
    return (_PORTABLE_CPU_S if portable else _NATIVE_CPU_S) / len(os.sched_getaffinity(0)) + 15.0


def export(into: Path, *, lock: Path = LOCK) -> bool:
    """Make a cache with the portable wheels of this version, for an image's builder. Return whether there are any.

    Wheels of other compilers and systems are included: the builder finds its own by the key.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    wanted = (requirement(lock, PACKAGE), list(PORTABLE), ours())
    for folder in sorted(cache_dir().glob("*")):
        if (wheel := kept_wheel(folder)) is None:
            continue
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        if (about["requirement"], about["cmake_args"], about.get("ours")) == wanted:
            (into / folder.name).mkdir()
            for file in (wheel, folder / "about.json"):
                shutil.copyfile(file, into / folder.name / file.name)
    return any(into.iterdir())


def ours() -> str:
    """Return a hash of the CMake hook and of our kernels' sources; it does not depend on their path."""
    content = [WITHOUT_COMMON + WITHOUT_AMX, *(path.read_text(encoding="utf-8") for path in sorted(KERNELS.iterdir()))]
    return hashlib.sha256("\0".join(content).encode()).hexdigest()


def _build(build: Build, folder: Path, *, portable: bool) -> Path:
    kind = "this machine and for images" if portable else "this machine"
    print(
        f"Compiling llama.cpp for {kind}, about {expected_s(portable=portable) / 60:.0f} minutes, once: "
        f"the result is kept in {folder}",
        file=sys.stderr,
    )
    with tempfile.TemporaryDirectory(prefix="sarai-wheel-") as temporary:
        work = Path(temporary)
        tools = build_tools(work / "tools", folder)
        (hook := work / "hook.cmake").write_text(CMAKE_HOOK, encoding="utf-8")
        (work / "requirement.txt").write_text(build.requirement, encoding="utf-8")
        env = {
            **os.environ,
            "CMAKE_ARGS": " ".join((f"-D{HOOK_OPTION}={hook}", *build.cmake_args)),
            "PATH": f"{tools / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        }
        # Its own build tools instead of pip's isolation, so that they are pinned and their hashes checked too.
        pip = [str(tools / "bin" / "python"), "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-build-isolation"]
        # pip's cache may hold a wheel of the same version with `common` inside, or of another CPU: not taken.
        fresh = ["--no-cache-dir", "--no-binary", PACKAGE, "--require-hashes"]
        run_step(
            "compiling llama.cpp",
            [*pip, *fresh, "--wheel-dir", str(work / "out"), "--requirement", str(work / "requirement.txt")],
            log=folder / "build.log",
            expected_s=expected_s(portable=portable),
            read_progress=ninja_progress,
            env=env,
        )
        (built,) = (work / "out").glob("*.whl")
        return _keep(built, build, folder)


def build_tools(target: Path, folder: Path) -> Path:
    """Make an environment with cmake, ninja and the build backend; logs go to `folder`."""
    venv.create(target, with_pip=True)
    pip = [str(target / "bin" / "python"), "-m", "pip", "install", "--no-deps", "--require-hashes"]
    run_step(
        "fetching build tools",
        [*pip, "--requirement", str(BUILD_TOOLS_LOCK)],
        log=folder / "tools.log",
        expected_s=10.0,
        read_progress=lambda _line: None,
    )
    return target


def _keep(built: Path, build: Build, folder: Path) -> Path:
    """Put the wheel into the cache; the description is written last, so a partial wheel is never used."""
    wheel = folder / built.name
    partial = wheel.with_suffix(".partial")
    shutil.copyfile(built, partial)
    partial.replace(wheel)
    about = {"wheel": wheel.name, "sha256": _sha256(wheel), **dataclasses.asdict(build)}
    (folder / "about.partial").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    (folder / "about.partial").replace(folder / "about.json")
    return wheel


def ninja_progress(line: str) -> tuple[float, str] | None:
    """Read the progress of a build by ninja from a line of its output."""
    if (found := _NINJA_STEP.match(line)) is None:
        return None
    done, steps = int(found[1]), int(found[2])
    return done / steps, f"({done} of {steps} files)"


def has_compiler() -> bool:
    """Return whether there is a C++ compiler here."""
    return _find_compiler() is not None


def _find_compiler() -> str | None:
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def _compiler(*, native: bool) -> str:
    if (compiler := _find_compiler()) is None:
        raise StepError("llama.cpp must be compiled and there is no C++ compiler. On Debian: apt-get install g++")
    # The compiler's predefined macros name its version and, with -march=native, every CPU feature that it will use.
    flags = ["-march=native"] if native and platform.machine() == "x86_64" else []
    asked = subprocess.run(
        [compiler, *flags, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True, check=False
    )
    if asked.returncode != 0:
        raise StepError(f"The C++ compiler {compiler} does not work:\n{asked.stderr}")
    return hashlib.sha256("\n".join(sorted(asked.stdout.splitlines())).encode()).hexdigest()


def _wait_for(descriptor: int) -> None:
    """Take the folder's lock, with a message if another process is building the same wheel."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Another process is building the same wheel; waiting for it.", file=sys.stderr)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """Print the path of the wheel; build it if needed."""
    parser = argparse.ArgumentParser(prog="python3 -m tools.llama_wheel", description=__doc__.partition("\n")[0])
    parser.add_argument("--portable", action="store_true", help="for every CPU of this architecture, not this one only")
    parser.add_argument("--lock", type=Path, default=LOCK, help="the lock file with the version and its hash")
    parser.add_argument("--out", type=Path, help="copy the wheel into this folder")
    arguments = parser.parse_args()

    def give() -> None:
        wheel = get_wheel(portable=arguments.portable, lock=arguments.lock)
        if arguments.out is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)
            wheel = Path(shutil.copy2(wheel, arguments.out))
        print(wheel)

    return exit_code(give)


if __name__ == "__main__":
    sys.exit(main())
