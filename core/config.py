"""Settings of the pool and its clients. The one place in `core` that reads the environment."""

from __future__ import annotations

import contextlib
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

MAX_REPLICAS_HERE = 8
"""Number of ports that docker-compose.scale.yml publishes replicas at, unless `SARAI_<NAME>_PORTS` is set."""
_PREFIX = "SARAI_"
_MOST_PORT = 65_535
_MOST_PORTS = 256
_OF_SKILLS = {
    name: re.compile(rf"SARAI_[A-Z0-9_]+_{what}")
    for name, what in (("targets", "TARGET"), ("ports", "PORTS"), ("scalers", "SCALER"))
}
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _state_dir(environ: Mapping[str, str]) -> Path:
    state_home = Path(environ.get("XDG_STATE_HOME", ""))
    return (state_home if state_home.is_absolute() else Path.home() / ".local" / "state") / "sarai"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """Settings of a pool. Each is also an environment variable: `SARAI_` and its name in upper case.

    Raises:
        ConfigError: A setting is out of its range; the message names it.
    """

    call_timeout_s: float = 120.0
    """Default deadline of a call. Seconds, more than 0."""
    health_timeout_s: float = 5.0
    """Default deadline of `Health`. Seconds, more than 0."""
    recovery_s: float = 30.0
    """How long a call waits for replicas that have answered before and are unavailable now. Seconds, 0 or more."""
    queue_limit: int = 256
    """Maximum number of calls to a skill that wait for a replica; further ones fail at once. 0 or more."""
    hedge_s: float = 0.0
    """After this time without any piece, an answer is requested from a second replica too, and the first replica to
    respond provides it: the same answer. Within the retry budget. Seconds, 0 or more; 0: never."""
    connect_timeout_s: float = 0.15
    """Timeout of the check whether anything listens at a skill's port on this host. Seconds, more than 0."""
    probe_timeout_s: float = 1.0
    """Timeout of the check whether what listens there is SERVING. Seconds, more than 0."""
    embedded: bool = True
    """Whether the pool may start a skill's server as a local process."""
    share_embedded: bool = True
    """Whether processes of the same user share a local server if they want the same one."""
    idle_stop_s: float = 900.0
    """After this time without calls, a local server is released, and ends if no other process uses it; the next call
    starts it again. Seconds, 0 or more; 0: never."""
    startup_timeout_s: float = 120.0
    """Time for a local server to become SERVING. Seconds, more than 0."""
    stop_grace_s: float = 5.0
    """Time for a local server to end before it is killed. Seconds, 0 or more."""
    restart_limit: int = 3
    """Maximum number of restarts of a local server within `restart_window_s`. 0 or more."""
    restart_window_s: float = 60.0
    """See `restart_limit`. Seconds, more than 0."""
    log_dir: Path = field(default_factory=lambda: _state_dir(os.environ) / "logs")
    """Folder for the logs of local servers. Default `$XDG_STATE_HOME/sarai/logs`, `~/.local/state/sarai/logs`."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """Addresses of skills by variable (`SARAI_DRAFT_TARGET`), each a gRPC target (`host:port`, `unix:/path`, …)."""
    ports: Mapping[str, str] = field(default_factory=dict)
    """Ports of skills on this host by variable (`SARAI_DRAFT_PORTS`), `FIRST-LAST`, where containers of
    docker-compose.scale.yml are published and looked for. By default the skill's port and the next seven."""
    scalers: Mapping[str, str] = field(default_factory=dict)
    """Addresses of autoscalers by variable (`SARAI_DRAFT_SCALER`), which are told of calls that wait for a replica."""

    def __post_init__(self) -> None:
        for name in ("call_timeout_s", "health_timeout_s", "connect_timeout_s", "probe_timeout_s", "startup_timeout_s",
                     "restart_window_s"):  # fmt: skip
            self._check(name, lambda value: math.isfinite(value) and value > 0, "a finite number of seconds above 0")
        for name in ("recovery_s", "hedge_s", "stop_grace_s", "idle_stop_s"):
            self._check(name, lambda value: math.isfinite(value) and value >= 0, "a finite number of seconds from 0 on")
        for name in ("restart_limit", "queue_limit"):
            self._check(name, lambda value: value >= 0, "a whole number from 0 on")
        for name in _OF_SKILLS:
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        for variable, text in self.ports.items():
            _ports(variable, text)

    def _check(self, name: str, holds: Callable[[Any], bool], allowed: str) -> None:
        value = getattr(self, name)
        if not holds(value):
            raise ConfigError(f"{name} must be {allowed}, not {value!r} (environment: {_PREFIX}{name.upper()})")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **settings: Any) -> Self:
        """Read the settings from the environment. Keyword arguments take precedence.

        Raises:
            ConfigError: A variable has the wrong type, or is out of its range.
        """
        environ = os.environ if environ is None else environ
        read: dict[str, Any] = {
            of_skills: {
                name: _text(name, value) for name, value in environ.items() if pattern.fullmatch(name) and value
            }
            for of_skills, pattern in _OF_SKILLS.items()
        }
        read["log_dir"] = _state_dir(environ) / "logs"
        for setting in fields(cls):
            variable = _PREFIX + setting.name.upper()
            if setting.name not in _OF_SKILLS and environ.get(variable):
                read[setting.name] = _READERS[str(setting.type)](variable, environ[variable])
        return cls(**(read | settings))

    def target_of(self, spec: SkillSpec) -> str | None:
        """Return the address that is set for a skill, None if there is none."""
        return self.targets.get(spec.target_variable)

    def ports_of(self, spec: SkillSpec) -> range:
        """Return the ports of a skill's containers on this host."""
        if (text := self.ports.get(spec.ports_variable)) is not None:
            return _ports(spec.ports_variable, text)
        return range(spec.port, min(spec.port + MAX_REPLICAS_HERE, _MOST_PORT + 1))

    def scaler_of(self, spec: SkillSpec) -> str | None:
        """Return the address of a skill's autoscaler, None if there is none."""
        return self.scalers.get(spec.scaler_variable)


_SHOWN = 12


def not_utf8(text: str) -> str:
    """Return in words which byte of a text is not valid UTF-8; an empty text if all are.

    Python lets such bytes through as surrogates, gRPC does not.

    Args:
        text: Decoded with `surrogateescape`, as arguments and environment variables are.
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


def _ports(variable: str, text: str) -> range:
    first, _, last = text.partition("-")
    with contextlib.suppress(ValueError):
        ports = range(int(first), int(last or first) + 1)
        if ports and 0 < ports[0] <= ports[-1] <= _MOST_PORT and len(ports) <= _MOST_PORTS:
            return ports
    raise ConfigError(f"{variable} must be FIRST-LAST, {_MOST_PORTS} ports at most, not {text!r}")


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
