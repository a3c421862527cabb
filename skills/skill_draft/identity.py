"""What determines every bit of this server's answers besides the request, as one digest.

An answer or a prefix that is kept under one identity is valid under no other one. It covers the model file with its
chat template, llama.cpp's libraries with our kernels, the engine's code and the packages that it computes with, the C
library, the kind of CPU and the numerics. Hashing gigabytes takes seconds, so it happens once the engine serves, in a
thread of low priority, and the hashes are remembered: a restarted server knows its identity at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import tempfile
import threading
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

log = logging.getLogger("sarai.draft")

_VERSION = b"1"  # of this digest's own form
_PACKAGES = ("llama-cpp-python", "numpy", "llguidance", "jinja2")
_ENGINE = Path(__file__).parent / "engine"
_READS_IMAGES = (Path(__file__).parent / "vision", Path(__file__).parents[1] / "runtime" / "pictures")
# Lines of /proc/cpuinfo that tell kinds of CPU apart, on x86 and on ARM.
_CPU_LINES = frozenset(
    ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU architecture", "CPU part", "Features")
)
_CHOOSES_KERNELS = ("GGML_", "LLAMA_", "NPY_", "GLIBC_TUNABLES")  # beginnings of names of environment variables
_CHUNK = 1 << 20
_LOWEST_PRIORITY = 19
_MOST_REMEMBERED = 64

Stamp = tuple[int, int, int, int]
"""A file's size, its times of modification and of change, and its inode: the same stamp, the same bytes."""


def cache_folder() -> Path:
    """Return the folder for what can be computed anew: `$XDG_CACHE_HOME/sarai`, else `~/.cache/sarai`."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "sarai")
    except RuntimeError:  # a user without a home
        return Path(os.devnull, "sarai")


class FileHashes:
    """SHA-256 of files, remembered in a small file. Where that cannot be written, this object remembers them."""

    def __init__(self, memory: Path | None = None) -> None:
        """`memory` is `hashes.json` in the user's cache folder by default."""
        self._memory = memory or cache_folder() / "hashes.json"
        self._found: dict[str, object] = {}

    def recall(self, path: Path, stamp: Stamp) -> bytes | None:
        """Return the hash of a file if it is known."""
        entry = self._entries().get(str(path))
        if not isinstance(entry, list) or entry[:-1] != list(stamp):
            return None
        with contextlib.suppress(ValueError, TypeError):
            return bytes.fromhex(entry[-1])
        return None

    def remember(self, found: dict[Path, tuple[Stamp, bytes]]) -> None:
        """Add hashes, and drop the oldest ones."""
        new = {str(path): [*stamp, digest.hex()] for path, (stamp, digest) in found.items()}
        self._found |= new
        entries = {**{path: entry for path, entry in self._entries().items() if path not in new}, **new}
        kept = dict(list(entries.items())[-_MOST_REMEMBERED:])
        with contextlib.suppress(OSError):
            self._memory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, partial = tempfile.mkstemp(dir=self._memory.parent)  # mode 0600
            try:
                with os.fdopen(descriptor, "w") as file:
                    json.dump(kept, file)
                Path(partial).replace(self._memory)
            finally:
                Path(partial).unlink(missing_ok=True)

    def _entries(self) -> dict[str, object]:
        try:
            entries = json.loads(self._memory.read_bytes())
        except (OSError, ValueError):
            entries = {}
        return {**(entries if isinstance(entries, dict) else {}), **self._found}


class Identity:
    """The identity of a server whose engine loads these files.

    A file may be replaced at any time, and the next engine then loads the new one. So the server reports each loading:
    the digests hold only for files that did not change meanwhile.

    Args:
        model: the model's file.
        tower: the vision tower's file, if the server reads images.
        exact: whether exact numerics are wanted; whether they are possible follows from the rest.
        hashes: remembers the hashes of large files.
    """

    def __init__(
        self,
        model: Path,
        tower: Path | None,
        *,
        exact: bool,
        hashes: FileHashes | None = None,
    ) -> None:
        self._model, self._tower, self._exact = model, tower, exact
        self._hashes = hashes or FileHashes()
        self.on_known: Callable[[], object] = lambda: None
        """Called each time that `digest` becomes known, perhaps in another thread."""
        self._stamps: dict[Path, Stamp] = {}
        self._ended = threading.Event()
        self.digest: bytes | None = None
        """What determines answers and the cells of text; 32 bytes, None until it is known."""
        self.image_digest: bytes | None = None
        """What determines, in addition, how images are read; None until it is known or if none are read."""

    def before_load(self) -> None:
        """Note the files as they are now, before an engine loads them. What is remembered of them is known at once."""
        self.digest = self.image_digest = None
        try:
            self._stamps = {path: _stamp(path) for path in self._files()}
        except (OSError, metadata.PackageNotFoundError) as error:
            log.warning("answers are not kept: %s", error)
            self._stamps = {}
            return
        known = {path: self._hashes.recall(path, stamp) for path, stamp in self._stamps.items()}
        self._set({path: digest for path, digest in known.items() if digest})

    def after_load(self) -> None:
        """Find out what is not known yet, in a thread, now that the engine serves."""
        if self._stamps and not self._unchanged():
            log.warning("a model file or library changed while it was loaded: answers are not kept")
            self.digest = self.image_digest = None
        elif self._stamps and self.digest is None:
            threading.Thread(target=self._learn, args=(self._stamps,), name="identity", daemon=True).start()

    def close(self) -> None:
        """End the thread."""
        self._ended.set()

    def _files(self) -> Iterable[Path]:
        libraries = Path(str(metadata.distribution("llama-cpp-python").locate_file("llama_cpp/lib")))
        towers = () if self._tower is None else (self._tower.resolve(),)
        # Each library has several names, some of which may be links.
        return dict.fromkeys((self._model.resolve(), *towers, *sorted(p.resolve() for p in libraries.glob("*.so*"))))

    def _unchanged(self) -> bool:
        with contextlib.suppress(OSError):
            return all(_stamp(path) == stamp for path, stamp in self._stamps.items())
        return False

    def _learn(self, stamps: dict[Path, Stamp]) -> None:
        """Hash what is not remembered. Runs in a thread."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)  # of this thread alone
        try:
            found = {path: (s, self._hashes.recall(path, s) or self._hash(path)) for path, s in stamps.items()}
        except OSError as error:
            log.warning("answers are not kept: %s", error)
            return
        if self._ended.is_set() or stamps is not self._stamps:
            return  # another engine loads meanwhile, perhaps another file
        if not self._unchanged():
            log.warning("a model file or library changed while it was hashed: answers are not kept")
            return
        self._hashes.remember(found)
        self._set({path: digest for path, (_, digest) in found.items()})

    def _hash(self, path: Path) -> bytes:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while not self._ended.is_set() and (chunk := file.read(_CHUNK)):
                digest.update(chunk)
        return digest.digest()

    def _set(self, hashes: dict[Path, bytes]) -> None:
        """Compute the digests if all hashes are there."""
        if len(hashes) < len(self._stamps):
            return
        tower = self._tower.resolve() if self._tower else None
        libraries = [hashes[path] for path in self._stamps if path not in (self._model.resolve(), tower)]
        text = _digest([_VERSION, hashes[self._model.resolve()], *libraries, *_environment(exact=self._exact)])
        if tower:
            read = [_source(folder) for folder in _READS_IMAGES]
            self.image_digest = _digest([_VERSION, hashes[tower], metadata.version("pillow").encode(), *read])
        self.digest = text
        self.on_known()


def _environment(*, exact: bool) -> list[bytes]:
    """Return what else the engine computes with."""
    versions = [f"{name} {metadata.version(name)}" for name in _PACKAGES]
    variables = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(_CHOOSES_KERNELS)]
    about = [
        *versions, " ".join(platform.libc_ver()), platform.python_version(), platform.machine(), _cpu(), *variables,
        "exact" if exact else "fast",
    ]  # fmt: skip
    return [_source(_ENGINE), *(text.encode() for text in about)]


def _cpu() -> str:
    """Return what tells this kind of CPU from others."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.partition(":")[0].strip() in _CPU_LINES}))


def _source(folder: Path) -> bytes:
    """Return the hash of a folder's Python files."""
    return _digest([part for path in sorted(folder.glob("*.py")) for part in (path.name.encode(), path.read_bytes())])


def _digest(parts: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8) + part)
    return digest.digest()


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
