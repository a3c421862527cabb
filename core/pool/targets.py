"""The addresses of replicas: those in `SARAI_<NAME>_TARGET`, or the skill's ports on this host."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.errors import ConfigError
from core.pool.backend import AddressReplica
from core.rpc.health import ask_health

if TYPE_CHECKING:
    from core.config import PoolConfig
    from core.skill import SkillSpec

MAX_REPLICAS_HERE = 8
"""Number of ports that docker-compose.scale.yml publishes replicas at."""
_DNS = re.compile(r"dns:(?:///)?(?P<host>\[[^\]]+\]|[^:/\[\]]+):(?P<port>\d+)")
_MOST_PORT = 65_535


def split_targets(text: str, setting: str = "a target") -> tuple[str, ...]:
    """Return the targets of a comma-separated list, each once, in order.

    Args:
        text: The list.
        setting: Name of the setting, for errors.

    Raises:
        ConfigError: The list is empty, or one of them is not a target.
    """
    targets = tuple(dict.fromkeys(part for part in (part.strip() for part in text.split(",")) if part))
    why = next((why for target in targets if (why := _why_wrong(target))), "" if targets else "there is none")
    if why:
        what = "a comma-separated list of host:port, dns:///name:port or unix:/path"
        raise ConfigError(f"{setting} must be {what}, not {text!r}: {why}")
    return targets


def _why_wrong(target: str) -> str:
    if re.search(r"\s", target):
        return f"{target!r} has white space inside"
    if (name := _DNS.fullmatch(target)) is None:
        return ""
    try:
        name["host"].strip("[]").encode("idna")  # like `getaddrinfo`
    except UnicodeError:
        return f"the name in {target!r} has a part that is empty or has more than 63 letters"
    if len(name["port"]) > len(str(_MOST_PORT)) or int(name["port"]) > _MOST_PORT:
        return f"the port in {target!r} is above {_MOST_PORT}"
    return ""


def names_many(target: str) -> bool:
    """Return whether a target may stand for several addresses, which may change: `dns:///name:port`."""
    return _DNS.fullmatch(target) is not None


def resolve(target: str) -> tuple[str, ...]:
    """Return the addresses of a target: for `dns:///name:port` all current ones of the name, none if it is unknown."""
    try:
        return look_up(target)
    except OSError:
        return ()


def look_up(target: str) -> tuple[str, ...]:
    """Return the addresses of a target: for `dns:///name:port` all current ones of the name.

    If a name has IPv4 and IPv6 addresses, the IPv4 ones are used, as both are the same replicas.

    Raises:
        OSError: The name is unknown, or no name server answers; `socket.gaierror` says which.
    """
    name = _DNS.fullmatch(target)
    if name is None:
        return (target,)
    found = socket.getaddrinfo(name["host"].strip("[]"), int(name["port"]), type=socket.SOCK_STREAM)
    family = min((each[0] for each in found), key=lambda family: family != socket.AF_INET)
    hosts = dict.fromkeys(str(each[4][0]) for each in found if each[0] == family)
    return tuple(f"[{host}]:{name['port']}" if ":" in host else f"{host}:{name['port']}" for host in hosts)


def resolve_all(targets: Sequence[str]) -> tuple[str, ...]:
    """Return the addresses of all targets, each once."""
    return tuple(dict.fromkeys(address for target in targets for address in resolve(target)))


def find_running(spec: SkillSpec, config: PoolConfig) -> list[AddressReplica]:
    """Return the skill's servers on this host that report SERVING: at its port, and replicas at the next ones.

    A plain connection shows within microseconds that no server listens; gRPC would take milliseconds.
    """
    found = []
    for port in range(spec.port, min(spec.port + MAX_REPLICAS_HERE, 65_536)):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=config.connect_timeout_s).close()
        except OSError:
            continue
        target = f"127.0.0.1:{port}"
        answer = ask_health(target, spec.health_service, timeout_s=config.probe_timeout_s)
        # The next ports may be another skill's: a server there must report that it is this one.
        if answer.serving and (port == spec.port or answer.skill == spec.name):
            found.append(AddressReplica(target, "container" if answer.in_container else "running"))
    return found
