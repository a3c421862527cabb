"""Settings of the pool and its clients. The one place in `core` that reads the environment."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from core.skill import SkillSpec

_PREFIX = "SARAI_"
_TARGET = re.compile(r"SARAI_[A-Z0-9_]+_TARGET")
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _state_dir(environ: Mapping[str, str]) -> Path:
    state_home = Path(environ.get("XDG_STATE_HOME", ""))
    return (state_home if state_home.is_absolute() else Path.home() / ".local" / "state") / "sarai"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """Settings of a pool. Each is also read from the environment as `SARAI_` and its name in capitals.

    Raises:
        ConfigError: a setting is out of its range; the message names it.
    """

    call_timeout_s: float = 120.0
    """Deadline of a call that is made without one. Seconds, more than 0."""
    health_timeout_s: float = 5.0
    """Deadline of `Health` where none is given. Seconds, more than 0."""
    recovery_s: float = 30.0
    """How long a call waits for a replica that has answered before and is away now. Seconds, 0 or more."""
    queue_limit: int = 256
    """How many calls to a skill wait for a replica at most; further ones fail at once. 0 or more."""
    hedge_s: float = 0.0
    """An answer of which nothing has come for so long is asked of a second replica too, and whoever is first gives it:
    the same one. Within the budget of retries. Seconds, 0 or more; 0: never."""
    connect_timeout_s: float = 0.15
    """How long to look whether something listens at a skill's port on this host. Seconds, more than 0."""
    probe_timeout_s: float = 1.0
    """How long what listens there has for saying that it is SERVING. Seconds, more than 0."""
    embedded: bool = True
    """Whether the pool may start a skill's server as a local process."""
    share_embedded: bool = True
    """Whether processes of the same user that want the same local server share one."""
    idle_stop_s: float = 900.0
    """A local server that has not been called for so long is let go, and ends if nobody else uses it; the next call
    starts it again. Seconds, 0 or more; 0: never."""
    startup_timeout_s: float = 120.0
    """How long a local server has until it is SERVING. Seconds, more than 0."""
    stop_grace_s: float = 5.0
    """How long a local server has to end before it is killed. Seconds, 0 or more."""
    restart_limit: int = 3
    """How often a local server that has ended unasked is started again within `restart_window_s`. 0 or more."""
    restart_window_s: float = 60.0
    """See `restart_limit`. Seconds, more than 0."""
    log_dir: Path = field(default_factory=lambda: _state_dir(os.environ) / "logs")
    """Where local servers write their logs. Default `$XDG_STATE_HOME/sarai/logs`, `~/.local/state/sarai/logs`."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """Addresses of skills: the variable (`SARAI_DRAFT_TARGET`) and the gRPC target (`host:port`, `unix:/path`, …)."""

    def __post_init__(self) -> None:
        for name in ("call_timeout_s", "health_timeout_s", "connect_timeout_s", "probe_timeout_s", "startup_timeout_s",
                     "restart_window_s"):  # fmt: skip
            self._check(name, lambda value: math.isfinite(value) and value > 0, "a finite number of seconds above 0")
        for name in ("recovery_s", "hedge_s", "stop_grace_s", "idle_stop_s"):
            self._check(name, lambda value: math.isfinite(value) and value >= 0, "a finite number of seconds from 0 on")
        for name in ("restart_limit", "queue_limit"):
            self._check(name, lambda value: value >= 0, "a whole number from 0 on")
        object.__setattr__(self, "targets", MappingProxyType(dict(self.targets)))

    def _check(self, name: str, holds: Callable[[Any], bool], allowed: str) -> None:
        value = getattr(self, name)
        if not holds(value):
            raise ConfigError(f"{name} must be {allowed}, not {value!r} (environment: {_PREFIX}{name.upper()})")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **settings: Any) -> Self:
        """The settings as the environment has them. What is given by keyword goes before it.

        Raises:
            ConfigError: a variable cannot be read as what it stands for, or is out of its range.
        """
        environ = os.environ if environ is None else environ
        read: dict[str, Any] = {
            "targets": {
                name: _text(name, value) for name, value in environ.items() if _TARGET.fullmatch(name) and value
            },
            "log_dir": _state_dir(environ) / "logs",
        }
        for setting in fields(cls):
            variable = _PREFIX + setting.name.upper()
            if setting.name != "targets" and environ.get(variable):
                read[setting.name] = _READERS[str(setting.type)](variable, environ[variable])
        return cls(**(read | settings))

    def target_of(self, spec: SkillSpec) -> str | None:
        """The address that is set for a skill, None where none is."""
        return self.targets.get(spec.target_variable)


_SHOWN = 12


def not_utf8(text: str) -> str:
    """Which byte of a text from outside is not valid UTF-8, in words; empty where all are.

    Python lets such bytes through as surrogates, gRPC does not.

    Args:
        text: decoded with `surrogateescape`, as arguments and environment variables are.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - _SHOWN) : error.start + _SHOWN]
        return f"not valid UTF-8 (byte {len(text[: error.start].encode())}, in {around!r})"
    return ""


def _number(variable: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{variable} must be a number, not {text!r}") from None


def _whole(variable: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{variable} must be a whole number, not {text!r}") from None


def _switch(variable: str, text: str) -> bool:
    try:
        return _WORDS[text.strip().lower()]
    except KeyError:
        raise ConfigError(f"{variable} must be one of {', '.join(_WORDS)}, not {text!r}") from None


def _text(variable: str, text: str) -> str:
    if why := not_utf8(text):
        raise ConfigError(f"{variable} is {why}")
    return text


def _path(_variable: str, text: str) -> Path:
    return Path(text).expanduser()


_READERS: Mapping[str, Callable[[str, str], Any]] = MappingProxyType(
    {"float": _number, "int": _whole, "bool": _switch, "Path": _path}
)
