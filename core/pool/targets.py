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

_DNS = re.compile(r"dns:(?:///)?(?P<host>\[[^\]]+\]|[^:/\[\]]+):(?P<port>\d+)")
_NO_PORT = re.compile(r"(?:dns:(?:///)?)?(?:\[[^\]]+\]|[^:/\[\]]+)")
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
    if _NO_PORT.fullmatch(target):
        return f"{target!r} has no port"  # gRPC would take 443
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


class ServersHere:
    """The skill's servers at its ports on this host.

    Args:
        spec: The skill.
        config: The settings.
    """

    def __init__(self, spec: SkillSpec, config: PoolConfig) -> None:
        self._spec, self._config = spec, config
        self._served: set[int] = set()

    def find(self, *, serving: bool = True) -> list[AddressReplica]:
        """Return those that report SERVING, or all: at the skill's port, and replicas at the next ones."""
        listening = filter(self._listens, self._config.ports_of(self._spec))
        return [replica for port in listening if (replica := self._ask(port, serving=serving)) is not None]

    def targets(self) -> tuple[str, ...]:
        """Return the addresses of those that listen and have reported SERVING at this look or an earlier one.

        Their health is watched, so that they need not be asked again.
        """
        listening = set(filter(self._listens, self._config.ports_of(self._spec)))
        new = {port for port in listening - self._served if self._ask(port) is not None}
        self._served = self._served & listening | new
        return tuple(f"127.0.0.1:{port}" for port in sorted(self._served))

    def _listens(self, port: int) -> bool:
        """Return whether a server listens. A plain connection shows that within microseconds, gRPC in milliseconds."""
        try:
            socket.create_connection(("127.0.0.1", port), timeout=self._config.connect_timeout_s).close()
        except OSError:
            return False
        return True

    def _ask(self, port: int, *, serving: bool = True) -> AddressReplica | None:
        target = f"127.0.0.1:{port}"
        answer = ask_health(target, self._spec.health_service, timeout_s=self._config.probe_timeout_s)
        # The next ports may be another skill's: a server there must report that it is this one.
        if (answer.serving or not serving) and (port == self._spec.port or answer.skill == self._spec.name):
            return AddressReplica(target, "container" if answer.in_container else "running")
        return None
