"""From what `SARAI_<NAME>_TARGET` says to the addresses of replicas."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence

from core.errors import ConfigError

_DNS = re.compile(r"dns:(?:///)?(?P<host>\[[^\]]+\]|[^:/\[\]]+):(?P<port>\d+)")


def split_targets(text: str) -> tuple[str, ...]:
    """The targets of a list with commas, each once, in their order.

    Raises:
        ConfigError: there is none, or one of them has white space inside.
    """
    targets = tuple(dict.fromkeys(part for part in (part.strip() for part in text.split(",")) if part))
    wrong = next((target for target in targets if re.search(r"\s", target)), None)
    if wrong is not None or not targets:
        raise ConfigError(f"a target is host:port, dns:///name:port or unix:/path, with commas between: not {text!r}")
    return targets


def names_many(target: str) -> bool:
    """Whether there may be several addresses behind a target, which may change: `dns:///name:port`."""
    return _DNS.fullmatch(target) is not None


def resolve(target: str) -> tuple[str, ...]:
    """The addresses behind a target: of `dns:///name:port` all that the name has now, none where it is unknown.

    Of a name with IPv4 and IPv6 addresses the former are taken: they are the same replicas.
    """
    name = _DNS.fullmatch(target)
    if name is None:
        return (target,)
    try:
        found = socket.getaddrinfo(name["host"].strip("[]"), int(name["port"]), type=socket.SOCK_STREAM)
    except OSError:
        return ()
    family = min((each[0] for each in found), key=lambda family: family != socket.AF_INET)
    hosts = dict.fromkeys(str(each[4][0]) for each in found if each[0] == family)
    return tuple(f"[{host}]:{name['port']}" if ":" in host else f"{host}:{name['port']}" for host in hosts)


def resolve_all(targets: Sequence[str]) -> tuple[str, ...]:
    """The addresses behind all targets, each once."""
    return tuple(dict.fromkeys(address for target in targets for address in resolve(target)))
