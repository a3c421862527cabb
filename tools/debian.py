"""Download packages from Debian's archive and unpack them without installing them. This needs apt, but not root.

The archive is the one that this machine's own apt sources name. Its signature is checked, so another archive among the
sources is not mistaken for Debian's.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tools.step import last_line

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_NO_RELEASE = ("-security", "-updates", "-backports", "/updates", "/")
_TIMEOUT_S = 300.0


class UnavailableError(Exception):
    """Debian's packages are not available here; the text is one line with the reason."""


def check() -> None:
    """Raise `UnavailableError` if this machine has no apt, or none with Debian among its sources."""
    if not (shutil.which("apt-get") and shutil.which("dpkg") and KEYRING.exists()):
        raise UnavailableError("this is no Debian: apt-get, dpkg or debian-archive-keyring is missing")
    if not _archives():
        raise UnavailableError("the apt sources of this machine name no archive of Debian")


def unpack(packages: tuple[str, ...], *, suite: str, work: Path) -> str:
    """Unpack packages of a Debian release into `work / "root"`.

    Args:
        packages: their names; their dependencies are not fetched.
        suite: the release's code name.
        work: an empty folder, for what apt downloads too.

    Returns:
        The archive's address.

    Raises:
        UnavailableError: No archive in the machine's sources has them, or none is reachable.
    """
    check()
    work.chmod(0o755)
    reasons = []
    for archive in _archives():
        try:
            _download(packages, suite, archive, work)
        except UnavailableError as error:
            reasons.append(str(error))
            continue
        for package in work.glob("*.deb"):
            _run(["dpkg", "-x", str(package), str(work / "root")])
        return archive
    raise UnavailableError(f"{' and '.join(packages)} cannot be fetched: {reasons[-1]}")


def security_archive() -> str | None:
    """Return the address of Debian's security fixes, if the machine's sources name it."""
    return next((address for address, release in _sources() if release.endswith("-security")), None)


def _archives() -> list[str]:
    """Return the addresses that may be Debian's archive, in the order of the machine's sources."""
    return list(dict.fromkeys(address for address, release in _sources() if not release.endswith(_NO_RELEASE)))


def _sources() -> list[tuple[str, str]]:
    """Return address and release of each source of the machine's apt, whether or not its lists were fetched."""
    if shutil.which("apt-get") is None:
        return []
    listed = _run(
        ["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI) $(RELEASE)",
         "Created-By: Packages", "Component: main"]
    )  # fmt: skip
    pairs = [line.split() for line in listed.splitlines()]
    return [(_resolved(address), release) for address, release in pairs if not address.startswith("cdrom:")]


def _resolved(address: str) -> str:
    """Return an address that works elsewhere: cloud images' sources can name a local file with addresses of mirrors."""
    scheme, _, path = address.partition(":")
    if scheme == "mirror+file":
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        address = next((line.split()[0] for line in lines if line and not line.startswith("#")), address)
    return address.rstrip("/")


def _download(packages: tuple[str, ...], suite: str, archive: str, work: Path) -> None:
    """Download the packages with apt, using separate sources, lists and caches."""
    (work / "sources.list").write_text(f"deb [signed-by={KEYRING}] {archive} {suite} main\n", encoding="utf-8")
    for name in ("lists/partial", "archives/partial", "empty"):
        (work / name).mkdir(parents=True, exist_ok=True)
    options = [
        f"Dir::Etc::SourceList={work / 'sources.list'}", f"Dir::Etc::SourceParts={work / 'empty'}",
        f"Dir::State::Lists={work / 'lists'}", f"Dir::Cache={work}", "Acquire::Languages=none",
        "Acquire::Retries=1", "APT::Sandbox::User=root", "APT::Update::Error-Mode=any",
    ]  # fmt: skip
    apt = ["apt-get", "-qq", *(part for option in options for part in ("-o", option))]
    _run([*apt, "update"])
    _run([*apt, "download", *packages], cwd=work)


def _run(command: list[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{command[0]} did not answer in {_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        # apt's first error has the address and the reason, the last one only says that there were errors.
        errors = (line.removeprefix("E: ") for line in done.stderr.splitlines() if line.startswith("E: "))
        raise UnavailableError(next(errors, last_line(done.stderr) or f"{command[0]} fails with {done.returncode}"))
    return done.stdout
