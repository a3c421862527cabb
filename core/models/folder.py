"""The models folder: its files, partial downloads and recorded hashes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from core.errors import ConfigError, ModelFileError
from core.models.catalog import ModelFile
from core.skill import SkillSpec

SUMS = "SHA256SUMS"
"""File of the recorded hashes, in the format of `sha256sum -c`."""
_DOWNLOADS = ".downloads"
_CHUNK_BYTES = 1 << 22
_TREE = Path(__file__).resolve().parents[2]


def models_dir(skill: SkillSpec, environ: Mapping[str, str]) -> Path:
    """Return the models folder of a skill, the same one that its server uses.

    That is the value of its variable (`SKILL_DRAFT_MODELS_DIR`), else `/models`, `models/` of the source tree, or the
    user's own folder, which may not exist yet.

    Args:
        skill: The skill.
        environ: The environment of its server.

    Raises:
        ConfigError: The variable names no folder.
    """
    if setting := environ.get(skill.models_dir_variable):
        if not Path(setting).is_dir():
            raise ConfigError(f"{skill.models_dir_variable}: there is no folder {setting}")
        return Path(setting)
    for folder in (Path("/models"), _TREE / "models"):
        if folder.is_dir():
            return folder
    return Path(environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share", "sarai", "models")


class ModelFolder:
    """A folder of model files.

    Args:
        path: The folder, which is created when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, file: ModelFile) -> Path | None:
        """Return the path of a complete file, in the folder or its package; None if it is not present."""
        places = [self.path]
        # Found without importing it: the package's __init__ may need libraries that are not installed.
        spec = importlib.util.find_spec(file.package) if file.package else None
        if spec is not None:
            places += map(Path, spec.submodule_search_locations or ())
        return next((place / file.file for place in places if (place / file.file).is_file()), None)

    def path_of(self, file: ModelFile) -> Path:
        """Return the path of a file in the folder, present or not."""
        return self.path / file.file

    def expected(self, file: ModelFile) -> str:
        """Return the SHA-256 that a file must have: the catalogue's, else the recorded one, else an empty string."""
        return file.sha256 or self._recorded().get(file.file, "")

    def record(self, file: ModelFile, sha256: str) -> None:
        """Record the hash of a file without a pinned one. An earlier record stays."""
        with self.locked(SUMS):
            sums = {file.file: sha256, **self._recorded()}
            text = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
            new = self._downloads() / SUMS
            new.write_text(text, encoding="utf-8")
            new.replace(self.path / SUMS)

    def _recorded(self) -> dict[str, str]:
        try:
            text = (self.path / SUMS).read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        return {name: digest for digest, name in re.findall(r"^([0-9a-f]{64}) [ *](.+)$", text, re.MULTILINE)}

    def partial(self, file: ModelFile, version: str) -> Path:
        """Return the path of a partial download.

        Args:
            file: The file.
            version: Its hash or commit, so that parts of two versions are never combined.
        """
        return self._downloads() / f"{file.file}.{version[:12]}.part"

    def partial_bytes(self, file: ModelFile) -> int:
        """Return the size of the partial downloads of a file."""
        return sum(path.stat().st_size for path in self._parts(file))

    def remove(self, file: ModelFile) -> int:
        """Remove a file and its partial downloads. Return the number of bytes freed.

        Its recorded hash stays, and the next download must have the same.
        """
        if not self.path.is_dir():
            return 0
        freed = 0
        with self.locked(file.file):
            for path in (self.path_of(file), *self._parts(file)):
                with contextlib.suppress(FileNotFoundError):
                    size = path.stat().st_size
                    path.unlink()
                    freed += size
        return freed

    def _parts(self, file: ModelFile) -> list[Path]:
        return sorted((self.path / _DOWNLOADS).glob(f"{file.file}.*.part"))

    def _downloads(self) -> Path:
        folder = self.path / _DOWNLOADS
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelFileError(f"cannot write to {self.path}: {error.strerror}") from error
        return folder

    @contextlib.contextmanager
    def locked(self, name: str, wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the lock of a file, against all programs that use this folder.

        Args:
            name: The file's name.
            wait: Called once if another program has the lock, before this one waits.

        Raises:
            ModelFileError: The folder cannot be written.
        """
        path = self._downloads() / f"{name}.lock"
        try:
            lock = path.open("w")
        except OSError as error:
            raise ModelFileError(f"cannot write to {self.path}: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wait()
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def hash_file(path: Path, at: Callable[[int], None]) -> str:
    """Return the SHA-256 of a file in hexadecimal digits.

    Args:
        path: The file.
        at: Called with the number of bytes hashed so far.
    """
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            at(done := done + len(chunk))
    return digest.hexdigest()
