"""Skills and plugin trees for tests, whose servers are `tests.stub_skill`."""

from __future__ import annotations

import dataclasses
import socket
import sys
import uuid
from typing import TYPE_CHECKING, Any

from core.config import PoolConfig
from core.plugins import Plugins
from core.pool.client import SkillClient
from core.skill import Resources, SkillSpec
from skills import skills_pb2_grpc

if TYPE_CHECKING:
    from pathlib import Path


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def stub_spec(name: str = "echo", *options: str, port: int | None = None, **changes: Any) -> SkillSpec:
    """Return a skill whose local server is the stub with these options. By default, nothing listens on its port."""
    spec = SkillSpec(
        name=name,
        summary="answers as it is told",
        version="0",
        image=f"stub-{name}:v0",
        container=f"stub_{name}",
        port=port or free_port(),
        resources=Resources(cpus=1.0, memory_bytes=1),
        serve=("-m", "tests.stub_skill", *options),
        stub=skills_pb2_grpc.SkillsServiceStub,
    )
    return dataclasses.replace(spec, **changes)


class PluginTree:
    """A package of plugins in a directory, `<package>/skill_*/plugin.py`, that can be imported."""

    def __init__(self, folder: Path) -> None:
        self.package = f"tree_{uuid.uuid4().hex}"
        self.folder = folder
        if str(folder) not in sys.path:
            sys.path.append(str(folder))

    def write(self, plugin: str, source: str) -> Path:
        """Write `skill_<plugin>/plugin.py`."""
        path = self.folder / self.package / f"skill_{plugin}" / "plugin.py"
        path.parent.mkdir(parents=True)
        path.write_text(source)
        return path

    def write_stub(self, name: str, *options: str, port: int | None = None) -> Path:
        """Write a plugin that provides `stub_spec(name, *options, port=port)`."""
        return self.write(
            name,
            "from core.hookspecs import hookimpl\n"
            "from tests.stub_plugin import stub_spec\n\n"
            "@hookimpl\n"
            "def sarai_skills():\n"
            f"    return [stub_spec({name!r}, *{options!r}, port={port or free_port()})]\n",
        )

    def load(self) -> Plugins:
        """Load only the plugins of the tree."""
        return Plugins(package=self.package, group="sarai.no-such-group")


def client_of(target: str, config: PoolConfig | None = None, spec: SkillSpec | None = None) -> SkillClient:
    """Return a client for an address."""
    return SkillClient.at(spec or stub_spec(), target, config or PoolConfig())
