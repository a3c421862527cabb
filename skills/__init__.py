"""Skills: containers that answer over gRPC, each in a folder `skill_NAME`, and their contract.

protoc writes stubs for the folder it runs in. Run at the root of the repository, it names the contract's file
"skills/skills.proto", and the stub says `from skills import skills_pb2`; run in this folder, it writes "skills.proto"
and `import skills_pb2`. The two finders below make both work, and a skill's own stubs likewise: there can be
`import NAME_pb2` or `from skill_NAME import NAME_pb2`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

_CONTRACT = "skills.skills_pb2"
_PROTO = "skills/skills.proto"
"""The name under which other protos import the contract."""
_OURS = ("skills.", "sarai_skill_")
"""Prefixes of the names of skills' packages."""


def _file_that_imports(proto: str) -> bytes:
    """Return the FileDescriptorProto of `_PROTO` with nothing in it but `import public "{proto}";`.

    Written by hand, because the engine imports this package too, and never protobuf.
    """

    def text(field: int, value: str) -> bytes:
        return bytes([field << 3 | 2, len(value)]) + value.encode()

    return text(1, _PROTO) + text(3, proto) + bytes([10 << 3, 0]) + text(12, "proto3")


class _ContractLoader(SourceFileLoader):
    """Load `skills_pb2`, and register its file as `_PROTO` where protoc gave it another name."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if module.DESCRIPTOR.name != _PROTO:
            module.DESCRIPTOR.pool.AddSerializedFile(_file_that_imports(module.DESCRIPTOR.name))


class _ContractFinder:
    """Find `skills.skills_pb2` in the usual place, and give it our loader."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == _CONTRACT else None
        if spec and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _ContractLoader(spec.loader.name, spec.loader.path)
        return spec


class _NeighbourLoader:
    """Load a module of a package under the last part of its name."""

    def __init__(self, full_name: str) -> None:
        self._full_name = full_name

    def create_module(self, spec: ModuleSpec) -> None:
        """Return None for the usual empty module, which is replaced at once."""

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(self._full_name)


class _NeighbourFinder:
    """Find what a stub imports at the top level, if no other finder does, in the stub's own package."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        del target
        full_name = _full_name(name) if path is None else None
        # A loader by its methods alone: `importlib.abc` would cost every process of a skill 5 ms.
        return ModuleSpec(name, _NeighbourLoader(full_name)) if full_name else None  # type: ignore[arg-type]


def _full_name(name: str) -> str | None:
    """Return the only module that a stub can mean by a top-level name."""
    if name.startswith("skill_"):
        return f"{__name__}.{name}" if PathFinder.find_spec(name, __path__) else None
    if not name.endswith(("_pb2", "_pb2_grpc")):
        return None
    stubs = (f".{name}", f".{name}_grpc")
    packages = {m.rpartition(".")[0] for m in list(sys.modules) if m.startswith(_OURS) and m.endswith(stubs)}
    if name.startswith("skills_pb2"):
        packages.add(__name__)
    return f"{packages.pop()}.{name}" if len(packages) == 1 else None


sys.meta_path.insert(0, _ContractFinder)
sys.meta_path.append(_NeighbourFinder)
