"""Provide the skill images' base image, even on a machine that reaches no image registry.

Run as `python3 -m tools.base_image`. It does nothing if the container engine has the image or can pull it. Otherwise
it makes the image from Debian's packages, like the official one: a minimal system without documentation, manual pages
and translations. That requires root. debootstrap, which does it, is a shell script: it is unpacked from its package
temporarily, and nothing is installed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools import debian
from tools.step import StepError, exit_code, logs, run_step

IMAGE = "debian:bookworm-slim"
SUITE = "bookworm"

_PULL_TIMEOUT_S = 300.0
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
# Number of lines that debootstrap prints for a minimal system, for the progress bar: it retrieves, validates, extracts,
# unpacks and configures about ninety packages.
_EXPECTED_LINES = 480
EXPECTED_S = 60.0

# debootstrap asks for `wget -nv -O FILE ADDRESS`. Here apt fetches instead: its proxies apply, and wget is not needed.
_APT_HELPER = "/usr/lib/apt/apt-helper"
_WGET = f"""\
#!/bin/sh
while [ $# -gt 1 ]; do
  [ "$1" = -O ] && to=$2
  shift
done
exec {_APT_HELPER} -qq -o APT::Sandbox::User=root download-file "$1" "$to"
"""

# What is removed, as in the official slim image. Licences stay.
_REMOVED = ("usr/share/man/*", "usr/share/info/*", "usr/share/locale/*", "usr/share/groff/*", "usr/share/lintian/*",
            "usr/share/linda/*", "var/lib/apt/lists/*", "var/cache/apt/*", "var/cache/debconf/*-old", "var/log/*.log",
            "var/log/apt/*")  # fmt: skip
# Packages that are installed on top leave out the same files.
_DPKG_EXCLUDES = "".join(
    f"path-exclude /usr/share/{folder}/*\n" for folder in ("doc", "man", "info", "locale", "groff", "lintian", "linda")
).replace("doc/*\n", "doc/*\npath-include /usr/share/doc/*/copyright\n", 1)
# No service starts inside a build, and apt keeps no files that would end up in a layer.
_POLICY_RC_D = "#!/bin/sh\nexit 101\n"
_APT_CLEAN = """\
APT::Keep-Downloaded-Packages "false";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""


def is_there(image: str = IMAGE) -> bool:
    """Return whether the container engine has the image."""
    return _docker("image", "inspect", image) == 0


def pull() -> bool:
    """Try to pull the image from a registry; if none is reachable, that mostly fails at once."""
    print(f"Asking a registry for {IMAGE}", file=sys.stderr)
    try:
        return _docker("pull", "--quiet", IMAGE, timeout_s=_PULL_TIMEOUT_S) == 0
    except subprocess.TimeoutExpired:
        return False


def why_not_made() -> str | None:
    """Return why this machine cannot make the image, as far as that can be known in advance; None if it can."""
    if os.geteuid() != 0:
        return (
            f"{IMAGE} is not here, no registry gives it, and making it takes root: `sudo make base-image` does it once"
        )
    try:
        debian.check()
    except debian.UnavailableError as error:
        if shutil.which("debootstrap") is None:
            return f"{IMAGE} is not here, no registry gives it, and making it takes debootstrap: {error}"
    return None


def make(log: Path) -> None:
    """Make the image from Debian's packages.

    Args:
        log: Where debootstrap's output goes.

    Raises:
        StepError: Not root, no debootstrap, or a step failed.
    """
    if (reason := why_not_made()) is not None:
        raise StepError(reason)
    with tempfile.TemporaryDirectory(prefix="sarai-base-") as temporary:
        root = Path(temporary) / "root"
        command, archive, environment = _debootstrap(Path(temporary) / "tool")
        try:
            run_step(
                f"making {IMAGE} from Debian's packages",
                [*command, "--variant=minbase", "--include=ca-certificates", SUITE, str(root), *archive],
                log=log,
                expected_s=EXPECTED_S,
                read_progress=_CountLines(),
                env={**os.environ, **environment},
            )
        finally:
            _unmount_below(root)
        _add_updates(root)
        _trust_what_this_machine_trusts(root)
        _slim(root)
        _import(root)


def _debootstrap(work: Path) -> tuple[list[str], list[str], dict[str, str]]:
    """Return the command, the archive's address as its last argument, and its environment.

    It is unpacked even if it is installed, so that all machines do the same.
    """
    work.mkdir()
    try:
        archive = debian.unpack(("debootstrap",), suite=SUITE, work=work)
    except debian.UnavailableError as error:
        if (installed := shutil.which("debootstrap")) is None:
            raise StepError(f"{IMAGE} cannot be made from Debian's packages: {error}") from None
        return [installed], [], {}  # which has its own address
    usr = work / "root" / "usr"
    environment = {"DEBOOTSTRAP_DIR": str(usr / "share" / "debootstrap"), "PATH": os.environ.get("PATH", os.defpath)}
    if Path(_APT_HELPER).exists():
        (wget := work / "wget").write_text(_WGET, encoding="ascii")
        wget.chmod(0o755)
        environment["PATH"] = f"{work}{os.pathsep}{environment['PATH']}"
    return ["sh", str(usr / "sbin" / "debootstrap"), "--force-check-gpg"], [archive], environment


def _unmount_below(root: Path) -> None:
    """Unmount what an interrupted debootstrap has left mounted: the folder is about to be removed."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    for place in reversed([each for each in mounts if each.startswith(f"{root}/")]):
        subprocess.run(["umount", place], capture_output=True, check=False)


class _CountLines:
    """Progress by the number of output lines: each counts the same."""

    def __init__(self) -> None:
        self._lines = 0

    def __call__(self, line: str) -> tuple[float, str]:
        self._lines += 1
        return min(0.99, self._lines / _EXPECTED_LINES), " ".join(line.split()[1:3])


def _add_updates(root: Path) -> None:
    """Add Debian's updates and security fixes to the image's sources, from the archives that this machine uses."""
    sources = root / "etc/apt/sources.list"
    archive = sources.read_text(encoding="utf-8").split()[1]
    fixes = debian.security_archive() or f"{archive}-security"
    sources.write_text(
        f"deb {archive} {SUITE} main\ndeb {archive} {SUITE}-updates main\ndeb {fixes} {SUITE}-security main\n",
        encoding="utf-8",
    )


def _trust_what_this_machine_trusts(root: Path) -> None:
    """Add this machine's own certificates: behind a proxy with a private authority, pip in the image needs them.

    They are added as local ones, so that they survive when an update of Debian's package rewrites the bundle.
    """
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if not bundle.exists():
        return
    in_image = root / bundle.relative_to("/")
    debians = set(_CERTIFICATE.findall(in_image.read_text(encoding="ascii")))
    ours = [each for each in _CERTIFICATE.findall(bundle.read_text(encoding="ascii")) if each not in debians]
    for number, certificate in enumerate(ours):
        local = root / f"usr/local/share/ca-certificates/host-{number}.crt"
        local.write_text(certificate + "\n", encoding="ascii")
    with in_image.open("a", encoding="ascii") as file:
        file.writelines(certificate + "\n" for certificate in ours)


def _slim(root: Path) -> None:
    for pattern in _REMOVED:
        for path in root.glob(pattern):
            _remove(path)
    for path in root.glob("usr/share/doc/*/*"):
        if path.name != "copyright":
            _remove(path)
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(_DPKG_EXCLUDES, encoding="utf-8")
    (root / "etc/apt/apt.conf.d/slim").write_text(_APT_CLEAN, encoding="utf-8")
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text(_POLICY_RC_D, encoding="utf-8")
    policy.chmod(0o755)
    # This machine's name and resolver do not belong in the image.
    (root / "etc/hostname").write_text("localhost\n", encoding="utf-8")
    (root / "etc/resolv.conf").write_text("", encoding="utf-8")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _import(root: Path) -> None:
    tar = subprocess.Popen(["tar", "-C", str(root), "--numeric-owner", "-c", "."], stdout=subprocess.PIPE)
    imported = subprocess.run(
        ["docker", "import", "--change", 'CMD ["bash"]', "--message", "debootstrap minbase, slimmed", "-", IMAGE],
        stdin=tar.stdout,
        capture_output=True,
        text=True,
        check=False,
    )
    if tar.stdout is not None:
        tar.stdout.close()
    if tar.wait() != 0 or imported.returncode != 0:
        raise StepError(f"docker import failed: {imported.stderr.strip()}")


def _docker(*arguments: str, timeout_s: float = 30.0) -> int:
    return subprocess.run(
        ["docker", *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
    ).returncode


def main() -> int:
    """Make the image if necessary."""
    parser = argparse.ArgumentParser(prog="python3 -m tools.base_image", description=__doc__.partition("\n")[0])
    parser.parse_args()
    if shutil.which("docker") is None or _docker("info") != 0:
        print("There is no container engine: `docker info` fails.", file=sys.stderr)
        return 1
    if is_there() or pull():
        return 0
    return exit_code(lambda: make(logs() / "base-image.log"))


if __name__ == "__main__":
    sys.exit(main())
