"""The plugin manager: finds the plugins of this tree and of installed packages, and holds what they provide."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import logging
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pluggy

import core.hookspecs
from core.errors import PluginError, UnknownSkillError, one_line
from core.hookspecs import ENTRY_POINT_GROUP, PROJECT
from core.skill import SkillSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_log = logging.getLogger(__name__)


class Plugins:
    """The plugins of this process. One that fails is left out and reported; the others work.

    Args:
        package: Package whose `skill_*/plugin.py` are plugins.
        group: Entry-point group whose entries are plugins.
    """

    def __init__(self, *, package: str = "skills", group: str = ENTRY_POINT_GROUP) -> None:
        self._pluggy = pluggy.PluginManager(PROJECT)
        self._pluggy.add_hookspecs(core.hookspecs)
        self._places: dict[str, str] = {}
        self._errors: list[PluginError] = []
        self._load_tree(package)
        self._load_entry_points(group)
        self._leave_out_unknown_hooks()
        self._skills = MappingProxyType(dict(self._ask_for_skills()))

    @property
    def hook(self) -> pluggy.HookRelay:
        """The hooks, as callables: `plugins.hook.sarai_score(request=…, response=…)`."""
        return self._pluggy.hook

    @property
    def skills(self) -> Mapping[str, SkillSpec]:
        """All skills by name."""
        return self._skills

    def skill(self, name: str) -> SkillSpec:
        """Return the description of a skill.

        Raises:
            UnknownSkillError: There is no such skill.
        """
        if name not in self._skills:
            raise UnknownSkillError(name, self._skills, left_out=(error.name for error in self._errors))
        return self._skills[name]

    @property
    def errors(self) -> tuple[PluginError, ...]:
        """The plugins that were left out, whole or in part, and why."""
        return tuple(self._errors)

    def _load_tree(self, package: str) -> None:
        # Not by entry points, which an installation writes: a fresh clone has none, nor does a skill just added to it.
        for folder in importlib.import_module(package).__path__:
            for path in sorted(Path(folder).glob("skill_*/plugin.py")):
                name = path.parent.name
                self._load(name, str(path), functools.partial(importlib.import_module, f"{package}.{name}.plugin"))

    def _load_entry_points(self, group: str) -> None:
        for entry in importlib.metadata.entry_points(group=group):
            self._load(entry.name, entry.value, entry.load)

    def _load(self, name: str, place: str, load: Callable[[], Any]) -> None:
        try:
            plugin = load()
            if not self._pluggy.is_registered(plugin):  # an entry point may name a plugin of the tree
                self._pluggy.register(plugin, name)
                self._places[name] = place
        # A plugin is foreign code: whatever it raises is its own failure, not the host's.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            self._leave_out(name, place, error)

    def _leave_out_unknown_hooks(self) -> None:
        """Leave out plugins that implement an unknown hook, most often a misspelt one."""
        while True:
            try:
                self._pluggy.check_pending()
            except pluggy.PluginValidationError as error:
                name = self._pluggy.get_name(error.plugin) or repr(error.plugin)
                self._pluggy.unregister(error.plugin)
                self._leave_out(name, self._places.get(name, ""), error)
            else:
                return

    def _ask_for_skills(self) -> Iterator[tuple[str, SkillSpec]]:
        brought_by: dict[str, str] = {}
        for impl in self._pluggy.hook.sarai_skills.get_hookimpls():
            name = impl.plugin_name
            try:
                specs: Any = impl.function()
                for spec in specs:
                    _check_skill(spec, brought_by)
                    brought_by[spec.name] = name
                    yield spec.name, spec
            except (Exception, SystemExit) as error:  # noqa: BLE001  # as above
                self._leave_out(name, self._places.get(name, ""), error)

    def _leave_out(self, name: str, place: str, error: BaseException) -> None:
        self._errors.append(PluginError(name=name, path=place, exception=error))
        _log.warning("%s", self._errors[-1], exc_info=error if _log.isEnabledFor(logging.DEBUG) else None)


def _check_skill(spec: object, brought_by: Mapping[str, str]) -> None:
    if not isinstance(spec, SkillSpec):
        raise TypeError(f"sarai_skills gave {one_line(repr(spec))}, which is not a SkillSpec")
    if spec.name in brought_by:
        raise ValueError(f"the skill {spec.name!r} is there already, from {brought_by[spec.name]}")


@functools.cache
def get_plugins() -> Plugins:
    """Return the plugins of this process, which the first call finds."""
    return Plugins()
