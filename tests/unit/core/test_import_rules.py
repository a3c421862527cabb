"""Which module may import which."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from tests.python_files import examine, python_file, sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

ROOT = Path(__file__).parents[3]
CONTRACT = ("skills.skills_pb2", "skills.skills_pb2_grpc", "skills.types_pb2", "skills.wire")
SHARED = ("skills.gguf", "skills.runtime.resources")
SCALER_CONTRACT = ("core.scaling.scaler_pb2", "core.scaling.scaler_pb2_grpc")


def of_each(paths: Iterable[str]) -> Callable[[Callable[[str], None]], Callable[[], None]]:
    """Make one test of a rule for many files; with one test per file, these would be a third of all unit tests."""

    def decorate(rule: Callable[[str], None]) -> Callable[[], None]:
        def test() -> None:
            for path in paths:
                rule(path)

        return test

    return decorate


def imports(path: str) -> tuple[str, ...]:
    """Return the full names of a file's imports."""
    return python_file(path).imports


def within(name: str, *packages: str) -> bool:
    """Return whether a name is one of the packages or inside one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def top_level(path: str) -> Iterator[str]:
    """Yield the top-level packages that a file imports."""
    yield from (name.partition(".")[0] for name in imports(path))


def test_the_walk_sees_every_form_of_import() -> None:
    text = (
        "import x.y\nfrom . import c\nfrom .d import e\ndef f():\n  from g import h\n  importlib.import_module('i')\n"
    )
    assert sorted(examine(text, ["a"]).imports) == ["a.c", "a.d.e", "g.h", "i", "x.y"]


@of_each(sources("core"))
def test_core_imports_no_skill_and_no_engine(path: str) -> None:
    for name in imports(path):
        assert not within(name, "llama_cpp", "numpy", "sarai"), f"{path} imports {name}"
        if within(name, "skills"):
            assert within(name, *CONTRACT, *SHARED), f"{path} imports {name}; core knows no skill"


@of_each(sources("core"))
def test_core_names_no_skill(path: str) -> None:
    skills = [folder.name for folder in (ROOT / "skills").glob("skill_*")]
    assert skills
    named = python_file(path).constants.intersection(skills)
    assert not named, f"{path} names {named}"


@of_each(sources("core"))
def test_core_takes_grpc_from_where_it_is_quiet(path: str) -> None:
    if path != "core/rpc/__init__.py":
        assert "grpc" not in top_level(path), f"{path} imports grpc itself"


# The layers of core, lowest first, and what each may import from the others.
GROUND = ("core.skill", "core.rpc", "core.errors", "core.config")
ROOMS: dict[str, tuple[str, ...]] = {
    "core.skill": (),
    "core.rpc": (),
    "core.hookspecs": ("core.skill",),
    "core.errors": ("core.rpc",),
    "core.config": ("core.skill", "core.errors"),
    "core.images": ("core.errors",),
    "core.plugins": ("core.hookspecs", "core.skill", "core.errors"),
    "core.local": GROUND,
    "core.models": GROUND,
    "core.pool": GROUND,
    "core.scaling": (*GROUND, "core.local", "core.pool"),
    "core.model_pool": (*GROUND, "core.plugins", "core.local", "core.pool"),
    "core.loop": (*GROUND, "core.images", "core.plugins", "core.pool"),
    "core.omni_loop": ("core.errors", "core.images", "core.model_pool", "core.pool", "core.loop"),
    "core.testing": (*GROUND, "core.plugins", "core.local", "core.pool"),
    "core.cli": (
        *GROUND,
        "core.images",
        "core.plugins",
        "core.local",
        "core.models",
        "core.pool",
        "core.scaling",
        "core.model_pool",
        "core.loop",
        "core.omni_loop",
    ),
}

IN_ROOMS = [path for path in sources("core") if path != "core/__init__.py"]


def room_of(name: str) -> str:
    """Return the layer of a full name in core."""
    (room,) = (room for room in ROOMS if within(name, room))
    return room


def room_of_file(path: str) -> str:
    """Return the layer of a file of core."""
    return room_of(path.removesuffix(".py").replace("/", "."))


def test_rooms_stand_above_all_that_they_may_take() -> None:
    below = set[str]()
    for room, allowed in ROOMS.items():
        assert below.issuperset(allowed), f"{room} may import from a layer above it"
        below.add(room)


@of_each(IN_ROOMS)
def test_rooms_of_core_reach_no_higher(path: str) -> None:
    own = room_of_file(path)
    for name in imports(path):
        if within(name, "core") and not within(name, *SCALER_CONTRACT):
            assert room_of(name) in (own, *ROOMS[own]), f"{path} imports {name}"


def test_every_room_of_core_is_there() -> None:
    assert set(map(room_of_file, IN_ROOMS)) == set(ROOMS)


@of_each([path for path in sources("core") if path != "core/images/scaling.py"])
def test_only_scaling_of_images_imports_pillow(path: str) -> None:
    # `core.images` names Pillow's image as a type.
    assert not {name for name in imports(path) if within(name, "PIL")} - {"PIL.Image.Image"}, f"{path} imports Pillow"


# The modules that decide for the pool: the same events at the same times always give the same actions.
PURE = [
    f"core/pool/{name}.py"
    for name in ("balance", "events", "latency", "records", "state", "status", "verdicts", "waiting")
]


@of_each(PURE)
def test_what_decides_for_the_pool_has_no_clock_no_lock_and_no_wire(path: str) -> None:
    assert not {"asyncio", "os", "random", "socket", "threading", "time"} & set(top_level(path))
    for name in imports(path):
        core = file_of(name) if within(name, "core") else None
        allowed = ("core/config.py", "core/errors/__init__.py", "core/pool/__init__.py", "core/pool/backend.py",
                   "core/pool/rpc_status.py", "core/rpc/__init__.py", *PURE)  # fmt: skip
        assert core is None or core in allowed, f"{path} imports {name}"


# The modules that decide how many replicas there should be.
PURE_SCALING = [f"core/scaling/{name}.py" for name in ("policy", "queueing", "samples")]


@of_each(PURE_SCALING)
def test_what_decides_for_the_scaler_has_no_clock_no_lock_and_no_wire(path: str) -> None:
    assert not {"asyncio", "os", "random", "socket", "threading", "time"} & set(top_level(path))
    for name in imports(path):
        assert not within(name, "core", "skills") or file_of(name) in PURE_SCALING, f"{path} imports {name}"


def file_of(name: str) -> str | None:
    """Return the file of this tree that a full name refers to, or that defines it."""
    return next(reversed(files_of(name)), None)


def circle_in(imported: Mapping[str, AbstractSet[str]]) -> list[str]:
    """Return the files of an import cycle, each importing the next and the last the first; empty if there is none."""
    done = set[str]()

    def walk(path: str, way: list[str]) -> list[str]:
        if path in way:
            return way[way.index(path) :]
        found: list[str] = []
        if path not in done:
            found = next(filter(None, (walk(each, [*way, path]) for each in sorted(imported[path]))), [])
            done.add(path)
        return found

    return next(filter(None, (walk(path, []) for path in imported)), [])


def test_the_search_finds_a_circle() -> None:
    assert circle_in({"a": {"b", "c"}, "b": set(), "c": {"d"}, "d": {"b", "c"}}) == ["c", "d"]


def test_no_files_of_core_import_each_other_in_a_circle() -> None:
    """Not even for type checking: to understand one file of a cycle, a reader has to read them all."""
    files = sources("core")
    imported = {path: {file_of(name) or "" for name in imports(path)} & set(files) - {path} for path in files}
    assert imported["core/pool/state.py"]
    assert circle_in(imported) == []


@of_each([path for path in sources("core") if not path.startswith("core/cli")])
def test_only_the_command_line_shows_things(path: str) -> None:
    for name in imports(path):
        # `core.hookspecs` uses click's group as a type.
        allowed = path == "core/hookspecs.py" and within(name, "click")
        assert not within(name, "rich", "click", "core.cli") or allowed, f"{path} imports {name}"


@of_each(sources("skills"))
def test_skills_come_through_the_door_and_in_their_plugin_alone(path: str) -> None:
    through = ("sarai.Resources", "sarai.SkillSpec", "sarai.hookimpl") if Path(path).name == "plugin.py" else ()
    for name in imports(path):
        assert not within(name, "core", "sarai") or name in through, f"{path} imports {name}"


@of_each([path for path in sources("skills") if Path(path).name == "plugin.py"])
def test_plugin_is_light(path: str) -> None:
    own = Path(path).parent.as_posix().replace("/", ".")
    stubs = (f"{own}.{file.stem}" for file in (ROOT / path).parent.glob("*_pb2*.py"))
    light = ("__future__", "typing", "sarai", *CONTRACT, *stubs, f"{own}.IMAGE", f"{own}.VERSION")
    for name in imports(path):
        assert within(name, *light), f"{path} imports {name}"


def reached_from(path: str) -> Iterator[tuple[str, str]]:
    """Yield (importer, name) for each import of a file and, recursively, of the files of this tree that it imports."""
    waiting, seen = [path], set[str]()
    while waiting:
        importer = waiting.pop()
        if importer in seen:
            continue
        seen.add(importer)
        for name in imports(importer):
            yield importer, name
            waiting += files_of(name)


@functools.cache
def files_of(name: str) -> tuple[str, ...]:
    """Return the files of this tree that are loaded to import a full name."""
    parts = name.split(".")
    modules = ("/".join(parts[:length]) for length in range(1, len(parts) + 1))
    candidates = (path for module in modules for path in (f"{module}.py", f"{module}/__init__.py"))
    return tuple(path for path in candidates if (ROOT / path).is_file())


def test_what_core_and_skills_share_imports_neither() -> None:
    for path in (f"{name.replace('.', '/')}.py" for name in SHARED):
        assert not [name for name in imports(path) if within(name, "core", "skills", "numpy")], path


@of_each([path for path in sources("skills") if "/engine/" in path])
def test_engine_knows_nothing_of_the_wire(path: str) -> None:
    for importer, name in reached_from(path):
        assert not within(name, "grpc", "grpc_health", "grpc_reflection", "google", "asyncio"), f"{importer}: {name}"
        assert not within(name, *CONTRACT), f"{importer} imports {name}"


def test_what_decides_for_the_supervisor_has_no_clock_no_task_and_no_process() -> None:
    for importer, name in reached_from("skills/skill_draft/supervisor_state.py"):
        assert not within(name, "asyncio", "logging", "os", "random", "socket", "subprocess", "threading", "time")
        assert not within(name, "skills.runtime", "skills.skill_draft.supervisor"), f"{importer} imports {name}"


def test_the_log_of_cells_needs_no_llama_cpp() -> None:
    assert "numpy" in {name for _, name in reached_from("skills/skill_draft/engine/cells.py")}
    for importer, name in reached_from("skills/skill_draft/engine/cells.py"):
        assert not within(name, "llama_cpp"), f"{importer} imports it"


def test_one_file_imports_llama_cpp() -> None:
    found = {path for path in [*sources("core"), *sources("skills")] if "llama_cpp" in top_level(path)}
    assert found == {"skills/skill_draft/engine/binding.py"}
