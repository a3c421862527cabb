"""The settings of the draft skill: one dataclass, the same names as flags, environment variables and in README.

Order: default < environment (`SKILL_DRAFT_N_CTX`) < flag (`--n-ctx`).
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

PREFIX = "SKILL_DRAFT_"


class SettingsError(ValueError):
    """A setting is out of its range; the message names it as the user wrote it."""


def _setting(default: str | float, help_: str, *, low: float = -math.inf, high: float = math.inf,
             choices: tuple[str, ...] = ()) -> typing.Any:  # fmt: skip
    return field(default=default, metadata={"help": help_, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a draft skill runs. 0 means that the skill chooses by what the machine has."""

    listen: str = _setting("127.0.0.1:50051", "address to serve on: HOST:PORT or unix:/PATH")
    model: str = _setting("", "a GGUF file, or a name of models/catalog.toml; empty: what lies in the models folder, "
                          "else the embedded small model")  # fmt: skip
    models_dir: str = _setting("", "folder of GGUF files; empty: /models, else models/ of the repository, "
                               "else ~/.local/share/sarai/models")  # fmt: skip
    threads: int = _setting(0, "CPU threads; 0: the CPUs this process may use, cgroup quota included, also where that "
                            "changes while it runs", low=0, high=512)  # fmt: skip
    n_ctx: int = _setting(0, "tokens of prompt and answer together; 0: 4096, or what model and memory allow",
                          low=0, high=1 << 20)  # fmt: skip
    kv_cells: int = _setting(0, "cells of the KV cache, for running requests and prefixes; 0: twice n_ctx, or what "
                             "memory allows", low=0, high=1 << 22)  # fmt: skip
    n_batch: int = _setting(512, "most rows in one step", low=16, high=4096)
    slots: int = _setting(16, "requests that run at once", low=1, high=128)
    queue: int = _setting(64, "requests that wait at most; one more is answered RESOURCE_EXHAUSTED", low=0, high=10000)
    prefixes: int = _setting(32, "finished conversations that the KV cache holds; others are parked", low=1, high=120)
    gap_ms: float = _setting(250.0, "how long others may hold up a stream between two of its tokens, milliseconds",
                             low=1, high=60000)  # fmt: skip
    piece_ms: float = _setting(50.0, "how long tokens of a stream may wait to be sent together, but for the first; "
                               "milliseconds, 0: each goes alone", low=0, high=10000)  # fmt: skip
    deadline: str = _setting("answer", "what a call gets whose answer is not whole at its deadline. answer: what is "
                             "written by then; error: DEADLINE_EXCEEDED", choices=("answer", "error"))  # fmt: skip
    numerics: str = _setting("exact", "exact: an answer is a function of its request alone; fast: all kernels",
                             choices=("exact", "fast"))  # fmt: skip
    step_timeout_s: float = _setting(20.0, "an engine without a step for this long is replaced, seconds",
                                     low=0.5, high=3600)  # fmt: skip
    start_timeout_s: float = _setting(300.0, "time for loading the model, seconds", low=1, high=86400)
    grace_s: float = _setting(30.0, "time for running requests after SIGTERM, seconds", low=0, high=3600)
    on_start_failure: str = _setting("exit", "where the model cannot be loaded. exit: end with code 1; stay: be "
                                     "NOT_SERVING, say why, and try again", choices=("exit", "stay"))  # fmt: skip
    max_message_mb: float = _setting(4.0, "largest request, MiB", low=0.01, high=1024)
    metrics: str = _setting("", "address for Prometheus metrics over HTTP, HOST:PORT; empty: none")
    log_level: str = _setting("info", "what is logged to stderr", choices=("debug", "info", "warning", "error"))

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            check(item, getattr(self, item.name), flag(item.name))


def flag(name: str) -> str:
    """A setting's name on the command line."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """A setting's name in the environment."""
    return PREFIX + name.upper()


def check(item: dataclasses.Field[typing.Any], value: typing.Any, name: str) -> None:
    """Raises `SettingsError` if a value is out of its setting's range."""
    low, high, choices = item.metadata["low"], item.metadata["high"], item.metadata["choices"]
    if choices and value not in choices:
        raise SettingsError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
    if isinstance(value, (int, float)) and not low <= value <= high:
        raise SettingsError(f"{name} is {value}; it must be from {low:g} to {high:g}")


def _parse(item: dataclasses.Field[typing.Any], text: str, name: str) -> typing.Any:
    kind = {"int": int, "float": float, "str": str}[str(item.type)]
    try:
        value = kind(text)
    except ValueError:
        wanted = {"int": "a whole number", "float": "a number"}[str(item.type)]
        raise SettingsError(f"{name} is {text!r}; it must be {wanted}") from None
    check(item, value, name)
    return value


def parser() -> argparse.ArgumentParser:
    """The command line of `server.py`; argparse, as the container has no CLI library."""
    result = argparse.ArgumentParser(
        prog="server.py",
        description="Serves the draft skill over gRPC. Each setting is also an environment variable: [NAME].",
    )
    for item in dataclasses.fields(Settings):
        shown = "" if item.default in ("", 0) else f" (default {item.default})"
        result.add_argument(flag(item.name), metavar=str(item.type).upper(),
                            help=f"{item.metadata['help']}{shown} [{variable(item.name)}]")  # fmt: skip
    result.add_argument("--lifeline", action="store_true", help="stop when standard input ends")
    return result


def load(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> tuple[Settings, bool]:
    """The settings and whether `--lifeline` was given. Raises `SettingsError`."""
    parsed = vars(parser().parse_args(arguments))
    values = {}
    for item in dataclasses.fields(Settings):
        if parsed[item.name] is not None:
            values[item.name] = _parse(item, parsed[item.name], flag(item.name))
        elif text := environment.get(variable(item.name), ""):
            values[item.name] = _parse(item, text, variable(item.name))
    return Settings(**values), bool(parsed["lifeline"])
