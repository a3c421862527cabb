"""Settings of a skill's server: one dataclass, the same names as flags and as environment variables.

Precedence: default < environment (`SKILL_IMAGE_WORKERS`) < flag (`--workers`). A skill with its own settings subclasses
`WorkerSettings`, or `ServerSettings` if it is not a `WorkerSkill`, and adds fields with `setting`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_MOST_PORT = 65_535
_KINDS: Mapping[str, tuple[type, str]] = {
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "str": (str, "text"),
}


class SettingsError(ValueError):
    """A setting is wrong; the message names it as the user wrote it."""


def setting(
    default: str | float, help_: str, *, low: float = -math.inf, high: float = math.inf, choices: tuple[str, ...] = ()
) -> typing.Any:
    """Return a field of a settings dataclass; its type is `int`, `float` or `str`."""
    return field(default=default, metadata={"help": help_, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The settings of every skill's server.

    Raises:
        SettingsError: A setting is out of its range.
    """

    listen: str = setting("", "address to serve on: HOST:PORT or unix:/PATH; empty: 127.0.0.1 and the skill's port")
    queue: int = setting(64, "most requests that wait; others are refused with RESOURCE_EXHAUSTED", low=0, high=10000)
    grace_s: float = setting(30.0, "time for running requests after SIGTERM, seconds", low=0, high=3600)
    on_start_failure: str = setting(
        "exit", "if it cannot start. exit: end with code 1; stay: be NOT_SERVING, report why, and try again",
        choices=("exit", "stay"),
    )  # fmt: skip
    max_message_mb: float = setting(4.0, "largest request, MiB", low=0.01, high=1024)
    metrics: str = setting("", "address for Prometheus metrics over HTTP, HOST:PORT; empty: none")
    log_level: str = setting("info", "what is logged to stderr", choices=("debug", "info", "warning", "error"))

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            _check(item, getattr(self, item.name), flag(item.name))
        if self.listen and not self.listen.startswith("unix") and not _is_address(self.listen):
            raise SettingsError(f"--listen is {self.listen!r}; it must be HOST:PORT or unix:/PATH")
        if self.metrics and not _is_address(self.metrics):
            raise SettingsError(f"--metrics is {self.metrics!r}; it must be HOST:PORT")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings(ServerSettings):
    """The settings of a server that bounds its own work (`skills.runtime.skill.WorkerSkill`)."""

    workers: int = setting(0, "requests to process at once; 0: one for each CPU", low=0, high=256)


_STORES = ("valkey", "redis", "rediss", "unix")


@dataclass(frozen=True, slots=True, kw_only=True)
class CachingSettings(ServerSettings):
    """The settings of a server that keeps answers (`skills.runtime.answer_cache`)."""

    cache_mb: float = setting(
        64.0, "memory for kept answers, MiB, at most a twentieth of the memory limit; 0: no answer is kept anywhere",
        low=0, high=65536,
    )  # fmt: skip
    cache_disk: str = setting("", "file (SQLite) that keeps answers beyond the server's end; empty: none")
    cache_disk_mb: float = setting(1024.0, "size of that file, MiB", low=1, high=1 << 20)
    cache_shared: str = setting(
        "", "store (Valkey or Redis) that replicas share: valkey://HOST:PORT, redis://, rediss:// for TLS, or "
        "unix:///PATH; empty: none",
    )  # fmt: skip
    cache_secret_file: str = setting(
        "", "file with the deployment's secret, at least 16 bytes, by which replicas know each other's kept answers; "
        "required with --cache-shared",
    )  # fmt: skip
    cache_recheck: int = setting(
        1000, "one of this many hits is computed anew and compared, bit by bit; 0: none", low=0, high=1 << 30
    )  # fmt: skip

    def __post_init__(self) -> None:
        # Without arguments `super` looks for the class before `slots` made another one of it.
        ServerSettings.__post_init__(self)
        if not self.cache_shared:
            return
        scheme, separator, _ = self.cache_shared.partition("://")
        if not separator or scheme not in _STORES:
            # The rest may hold a password.
            raise SettingsError(f"--cache-shared must begin with {', '.join(f'{each}://' for each in _STORES)}")
        if not self.cache_secret_file:
            raise SettingsError(
                "--cache-shared needs --cache-secret-file: who can write to the store must not be able to write answers"
            )


_Settings = typing.TypeVar("_Settings", bound=ServerSettings)


def flag(name: str) -> str:
    """Return a setting's name on the command line."""
    return "--" + name.replace("_", "-")


def variable(skill: str, name: str) -> str:
    """Return a setting's name in the environment."""
    return f"SKILL_{skill}_{name}".upper()


def load(
    kind: type[_Settings], skill: str, arguments: Sequence[str], environment: Mapping[str, str] = os.environ
) -> tuple[_Settings, bool]:
    """Return the settings of a skill, and whether `--lifeline` was given.

    Raises:
        SettingsError: A setting cannot be read or is out of its range.
    """
    parsed = vars(_parser(kind, skill).parse_args(arguments))
    values = {}
    for item in dataclasses.fields(kind):
        if parsed[item.name] is not None:
            values[item.name] = _parse(item, parsed[item.name], flag(item.name))
        elif text := environment.get(variable(skill, item.name), ""):
            values[item.name] = _parse(item, text, variable(skill, item.name))
    return kind(**values), bool(parsed["lifeline"])


def _parser(kind: type[ServerSettings], skill: str) -> argparse.ArgumentParser:
    """Return the command line's parser: argparse, since containers have no library for that."""
    parser = argparse.ArgumentParser(
        prog="server.py",
        description=f"Serves the {skill} skill over gRPC. Each setting is also an environment variable: [NAME].",
    )
    for item in dataclasses.fields(kind):
        shown = "" if item.default in ("", 0) else f" (default {item.default})"
        parser.add_argument(
            flag(item.name),
            metavar=str(item.type).upper(),
            help=f"{item.metadata['help']}{shown} [{variable(skill, item.name)}]".replace("%", "%%"),
        )
    parser.add_argument("--lifeline", action="store_true", help="stop when standard input ends")
    return parser


def _parse(item: dataclasses.Field[typing.Any], text: str, name: str) -> typing.Any:
    kind, wanted = _KINDS[str(item.type)]
    try:
        value = kind(text)
    except ValueError:
        raise SettingsError(f"{name} is {text!r}; it must be {wanted}") from None
    _check(item, value, name)
    return value


def _is_address(text: str) -> bool:
    """Return whether a text is `HOST:PORT`. Of a port that is too large, gRPC takes the lower 16 bits."""
    port = text.rpartition(":")[2] if ":" in text else ""
    return port.isdecimal() and int(port) <= _MOST_PORT


def _check(item: dataclasses.Field[typing.Any], value: typing.Any, name: str) -> None:
    low, high, choices = item.metadata["low"], item.metadata["high"], item.metadata["choices"]
    if choices and value not in choices:
        raise SettingsError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
    if isinstance(value, (int, float)) and not low <= value <= high:
        raise SettingsError(f"{name} is {value}; it must be from {low:g} to {high:g}")
