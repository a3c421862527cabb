"""The files of a new skill, made from the templates in this folder."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import click

from core.local.compose import SCALE_FILE

if TYPE_CHECKING:
    from core.skill import SkillSpec


_TEMPLATES = Path(__file__).with_name("new_skill_template")
_OWN_TREE = Path(__file__).resolve().parents[2]
_OVERRIDE_FILE = "docker-compose.override.yml"
_FIRST_PORT, _PORT_STEP = 50051, 10
# Number of ports of a skill: the first, and those of further containers (docker-compose.scale.yml).
_PORTS = 8
# What `skills.runtime` needs in a container.
_NEEDED = ("googleapis-common-protos", "grpcio", "grpcio-health-checking", "grpcio-reflection", "prometheus-client",
           "protobuf")  # fmt: skip


class _Template(string.Template):
    """A template with a delimiter that neither Python, YAML, Dockerfiles nor proto use."""

    delimiter = "§"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the files of a skill go."""

    name: str
    root: Path
    """Folder that all paths are relative to."""
    folder: Path
    """Folder that is made, and must not exist before."""
    code: str
    """Folder of its modules."""
    package: str
    """Name of their package."""
    tests: str
    """Folder of its test."""
    installable: bool
    """Whether it is a package of its own, not a part of the tree."""

    @classmethod
    def in_tree(cls, name: str, tree: Path) -> Self:
        """Return the layout of `skills/skill_NAME`."""
        code = f"skills/skill_{name}"
        package = code.replace("/", ".")
        return cls(
            name=name, root=tree, folder=tree / code, code=code, package=package, tests=code, installable=False
        )  # fmt: skip

    @classmethod
    def of_package(cls, name: str, folder: Path) -> Self:
        """Return the layout of a folder with a pyproject.toml."""
        code = f"sarai_skill_{name}"
        return cls(name=name, root=folder, folder=folder, code=code, package=code, tests="tests", installable=True)


def choose_port(wanted: int | None, others: Iterable[SkillSpec]) -> int:
    """Return the given port, or else the next free one.

    Raises:
        click.UsageError: It belongs to another skill.
    """
    owners = {spec.port: spec.name for spec in others}

    def owner(port: int) -> int | None:
        return next((other for other in owners if abs(other - port) < _PORTS), None)

    if wanted is not None and (other := owner(wanted)) is not None:
        raise click.UsageError(
            f"port {wanted} is too near to skill {owners[other]}, which has {other} to {other + _PORTS - 1}"
        )
    port = _FIRST_PORT
    while wanted is None and owner(port) is not None:
        port += _PORT_STEP
    return wanted or port


def plan(layout: Layout, *, port: int, proto: bool) -> dict[str, str]:
    """Return all files that are written, including the compose files, with their contents."""
    values = _values(layout, port=port, proto=proto)
    kind = "proto_" if proto else ""
    code, name = layout.code, layout.name
    chosen = {
        f"{code}/__init__.py": f"{kind}__init__.py",
        f"{code}/plugin.py": "plugin.py",
        f"{code}/server.py": f"{kind}server.py",
        f"{layout.tests}/test_{name}.py": f"{kind}test.py",
        **({f"{code}/{name}.proto": "messages.proto"} if proto else {}),
    }
    if layout.installable:
        chosen |= {"pyproject.toml": "pyproject.toml", "README.md": "package_README.md"}
    else:
        chosen |= {f"{code}/Dockerfile": "Dockerfile", f"{code}/README.md": "README.md"}
    files = {path: _filled(template, values) for path, template in chosen.items()}
    if not layout.installable:
        files[f"{code}/requirements.txt"] = _requirements()
        files |= _compose_files(layout, values)
    return files


def write(layout: Layout, files: Mapping[str, str], *, proto: bool) -> None:
    """Write the files, and generate the stubs of their own messages.

    Raises:
        click.ClickException: The stubs cannot be generated; nothing is written.
    """
    with tempfile.TemporaryDirectory(prefix="sarai-new-skill-") as temporary:
        draft = Path(temporary)
        for path, content in files.items():
            (draft / path).parent.mkdir(parents=True, exist_ok=True)
            (draft / path).write_text(content, encoding="utf-8")
        if proto:
            _generate_stubs(draft, f"{layout.code}/{layout.name}.proto", layout.root)
        made = draft / layout.folder.relative_to(layout.root)
        shutil.copytree(made, layout.folder, dirs_exist_ok=layout.installable)
        for path in files:  # the compose files, which exist already
            if not (layout.root / path).is_relative_to(layout.folder):
                shutil.copyfile(draft / path, layout.root / path)


def _values(layout: Layout, *, port: int, proto: bool) -> dict[str, str]:
    name, dashed = layout.name, layout.name.replace("_", "-")
    camel = "".join(part.capitalize() for part in name.split("_"))
    service = f"{camel}Service" if proto else "SkillsService"
    messages = f"{name}_pb2" if proto else "skills_pb2"
    return {
        "name": name,
        "Name": camel,
        "NAME": name.upper(),
        "dashed": dashed,
        "port": str(port),
        "image": f"sarai-skill-{dashed}:v0.1",
        "package": layout.package,
        "tests": layout.tests,
        "service": service,
        "full_service": f"{layout.package}.{service}" if proto else service,
        "stubs": f"{layout.package}.{name}_pb2_grpc" if proto else "skills.skills_pb2_grpc",
        "import_messages": f"from {layout.package if proto else 'skills'} import {messages}",
        "example": f'Run({messages}.RunRequest(text="hello")).text' if proto
        else f'Generate({messages}.GenReq(prompt="hello")).text',
    }  # fmt: skip


def _filled(template: str, values: Mapping[str, str]) -> str:
    return _Template((_TEMPLATES / f"{template}.template").read_text(encoding="utf-8")).substitute(values)


def _compose_files(layout: Layout, values: Mapping[str, str]) -> dict[str, str]:
    first, name = int(values["port"]), values["NAME"]
    published = {
        _OVERRIDE_FILE: (f"SARAI_{name}_PORT:-{first}", f"    container_name: skill_{layout.name}\n"),
        SCALE_FILE: (f"SARAI_{name}_PORTS:-{first}-{first + _PORTS - 1}", ""),
    }
    files = {}
    for file, (ports, container_name) in published.items():
        service = _filled("service.yml", {**values, "published": ports, "container_name": container_name})
        files[file] = add_service(layout.root / file, f"skill_{layout.name}", service)
    return files


def _requirements() -> str:
    """Return the requirements of every skill, in the versions that are installed here."""
    lines = ["# What the server needs, in the versions that it was first tested with. Add what your skill imports.\n"]
    for package in _NEEDED:
        try:
            lines.append(f"{package}=={importlib.metadata.version(package)}\n")
        except importlib.metadata.PackageNotFoundError:  # only the host's packages are installed
            lines.append(f"{package}\n")
    return "".join(lines)


def _generate_stubs(folder: Path, proto: str, tree: Path) -> None:
    """Generate the stubs of a proto in its folder, with types if mypy-protobuf is installed."""
    contract = tree if (tree / "skills" / "skills.proto").is_file() else _OWN_TREE
    places = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"-I{contract}",
               f"--python_out={folder}", f"--grpc_python_out={folder}"]  # fmt: skip
    for plugin, out in (("protoc-gen-mypy", "mypy_out"), ("protoc-gen-mypy_grpc", "mypy_grpc_out")):
        if (found := shutil.which(plugin, path=places)) is not None:
            command += [f"--plugin={plugin}={found}", f"--{out}=quiet:{folder}"]
    done = subprocess.run([*command, proto], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise click.ClickException(f"the stubs cannot be generated (pip install grpcio-tools): {done.stderr.strip()}")


_ANCHOR = "&skill"


def add_service(file: Path, name: str, service: str) -> str:
    """Return the text of a compose file with the service added, or as it is if it has one of this name already.

    The service goes to the end of `services`, where a person would add it, and nothing else changes. A YAML library
    would lose the comments, the order and the anchors.

    Args:
        file: A compose file with the anchor `&skill`, which the service refers to.
        name: Name of the service.
        service: Its entry, indented by two spaces, after an empty line.

    Raises:
        click.UsageError: The file does not exist, or is not of this kind.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise click.UsageError(f"{file} is not there; the new skill would be a service of it") from None
    section = re.search(r"^services:[ \t]*(#.*)?\n", text, re.MULTILINE)
    if section is None or _ANCHOR not in text:
        raise click.UsageError(f"{file} has no `services:`, or no `x-skill: {_ANCHOR}` that a service can refer to")
    # The section ends at the next line that is not indented, including unindented comments before it.
    after = re.compile(r"^(?:(?:#.*|[ \t]*)\n)*^[^\s#]", re.MULTILINE).search(text, section.end())
    end = after.start() if after else len(text)
    if re.search(rf"^  {re.escape(name)}:", text[section.end() : end], re.MULTILINE):
        return text
    body = text[:end].rstrip("\n") + "\n" + service
    return body + ("\n" + text[end:].lstrip("\n") if after else "")
