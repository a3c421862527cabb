"""The pool: from the name of a skill to a client that is ready for calls."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Self
from weakref import WeakSet

from core.config import PoolConfig
from core.errors import PoolClosedError, SkillStartError
from core.local.embedded import EmbeddedReplica
from core.local.numbered import NumberedServers
from core.local.progress import Absent, OnProgress, report
from core.plugins import Plugins, get_plugins
from core.pool.backend import AddressReplica
from core.pool.client import SkillClient
from core.pool.face import ClientFace
from core.pool.replica_set import ReplicaSet
from core.pool.status import SkillStatus
from core.pool.targets import ServersHere, names_many, resolve_all, split_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from core.pool.aio import AsyncSkillClient
    from core.skill import SkillSpec


class ModelPool:
    """Provides clients for skills, and holds the local servers that it started for them. Thread-safe.

    A skill is called at the addresses in `SARAI_<NAME>_TARGET`; or else at its port on this host and the next ones, if
    servers there report SERVING, or an autoscaler is to bring them (`SARAI_<NAME>_SCALER`); or else at a local process,
    which the pool starts, and releases when it is closed, at the latest when the program ends.

    Args:
        config: The settings, by default those of the environment.
        plugins: The plugins, by default those of the process.
        on_progress: Handler for the events while a server starts or is waited for; by default
            `core.local.progress.report`.
    """

    def __init__(
        self,
        config: PoolConfig | None = None,
        *,
        plugins: Plugins | None = None,
        on_progress: OnProgress = report,
    ) -> None:
        self._config = PoolConfig.from_env() if config is None else config
        self._plugins = get_plugins() if plugins is None else plugins
        self._on_progress = on_progress
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._lock_of: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._replicas: dict[str, ReplicaSet] = {}
        # Of servers that were found here and have gone. Clients that are still held continue to use them.
        self._retired: list[ReplicaSet] = []
        # By skill and caller.
        self._clients: dict[tuple[str, str], SkillClient] = {}
        self._async_clients: dict[tuple[str, str], AsyncSkillClient] = {}
        # All that may still be held.
        self._given: WeakSet[ClientFace] = WeakSet()
        self._closed = False
        atexit.register(self.close)

    @property
    def plugins(self) -> Plugins:
        """The plugins, with their hooks."""
        return self._plugins

    @property
    def closed(self) -> bool:
        """Whether the pool is closed."""
        return self._closed

    def skills(self) -> Mapping[str, SkillSpec]:
        """All skills by name, whether or not they run."""
        return self._plugins.skills

    def get_skill_client(self, name: str, *, caller: str = "") -> SkillClient:
        """Return the client for a skill, ready for calls; the same one each time.

        Args:
            name: Name of the skill.
            caller: Name for a part of a program: when calls must wait for a replica, the callers take turns.

        Raises:
            UnknownSkillError: There is no such skill.
            SkillStartError: Its local process did not start.
            PoolClosedError: The pool is closed, or belongs to another process.
        """
        replicas = self._ready_replicas(name)
        with self._lock:
            self._check_open()
            client = self._clients.get((name, caller))
            if client is None or client.closed or not client.calls(replicas):
                client = self._clients[name, caller] = SkillClient(replicas, caller=caller)
                self._given.add(client)
            return client

    async def get_async_skill_client(self, name: str, *, caller: str = "") -> AsyncSkillClient:
        """Return such a client for `asyncio`, for any event loop.

        Raises:
            UnknownSkillError, SkillStartError, PoolClosedError: See `get_skill_client`.
        """
        from core.pool.aio import AsyncSkillClient

        replicas = await asyncio.to_thread(self._ready_replicas, name)
        with self._lock:
            self._check_open()
            client = self._async_clients.get((name, caller))
            if client is None or client.closed or not client.calls(replicas):
                client = self._async_clients[name, caller] = AsyncSkillClient(replicas, caller=caller)
                self._given.add(client)
            return client

    # --- the life of a skill's replicas ---

    def start(self, name: str) -> SkillStatus:
        """Find or start a skill before its first call, and return its status.

        Raises:
            UnknownSkillError, SkillStartError, PoolClosedError: See `get_skill_client`.
        """
        return self._ready_replicas(name).status()

    def stop(self, name: str) -> None:
        """Release a skill: close its clients, and end its local process if no other program uses it.

        The next `get_skill_client` finds or starts it again. A skill that the pool does not use yet is left alone.

        Raises:
            UnknownSkillError: There is no such skill.
        """
        self._plugins.skill(name)
        with self._lock:
            replicas = self._replicas.pop(name, None)
            released = [each for each in self._retired if each.spec.name == name]
            self._retired = [each for each in self._retired if each.spec.name != name]
            released += [replicas] if replicas is not None else []
            clients = [each for each in self._given if each.skill == name and isinstance(each, SkillClient)]
            self._drop_clients(lambda client: client.skill == name)
        for client in clients:
            client.close()
        for each in released:
            each.close()

    def status(self) -> list[SkillStatus]:
        """Return the status of each skill and its replicas as this pool knows it. Contacts and starts no server."""
        with self._lock:
            held = dict(self._replicas)
        return [
            held[name].status()
            if name in held
            else SkillStatus(skill=name, origin=None, waiting=0, calls=0, attempts=0, failovers=0, replicas=())
            for name in self.skills()
        ]

    def _ready_replicas(self, name: str) -> ReplicaSet:
        self._check_open()
        spec = self._plugins.skill(name)
        with self._lock:
            lock = self._lock_of[name]
        with lock:  # a skill may start while another one is requested
            replicas = self._replicas.get(name)
            # Servers that were found on this host may have been stopped since: look again then.
            if replicas is None or (replicas.lost and replicas.origin in ("running", "container")):
                replicas = self._replace(name, replicas, self._find_replicas(spec))
        self._close_unused()
        if self._closed:  # meanwhile: `close` may not have seen these
            replicas.close()
        self._check_open()
        replicas.make_ready()
        return replicas

    def _replace(self, name: str, old: ReplicaSet | None, new: ReplicaSet) -> ReplicaSet:
        with self._lock:
            if old is not None:
                self._retired.append(old)
                self._drop_clients(lambda client: client.calls(old))
            self._replicas[name] = new
        return new

    def _drop_clients(self, which: Callable[[ClientFace], bool]) -> None:
        """Do not return these clients again. The lock must be held."""
        self._clients = {key: client for key, client in self._clients.items() if not which(client)}
        self._async_clients = {key: client for key, client in self._async_clients.items() if not which(client)}

    def _close_unused(self) -> None:
        """Close the replicas that have gone and that no client or answer uses any more."""
        with self._lock:
            used = [each for each in self._retired if each.outstanding or any(c.calls(each) for c in self._given)]
            unused = [each for each in self._retired if each not in used]
            self._retired = used
        for each in unused:
            each.close()

    def _find_replicas(self, spec: SkillSpec) -> ReplicaSet:
        text = self._config.target_of(spec)
        if text is not None:
            return self._at_addresses(spec, split_targets(text, spec.target_variable))
        running = ServersHere(spec, self._config).find()
        if running:
            scaled = len(running) > 1 or running[0].origin == "container"
            look = ServersHere(spec, self._config).targets if scaled else None
            return ReplicaSet(spec, self._config, running, look)
        if (scaler := self._config.scaler_of(spec)) is not None:
            first = AddressReplica(f"127.0.0.1:{self._config.ports_of(spec)[0]}", "container")
            self._on_progress(Absent(skill=spec.name, scaler=scaler))
            return ReplicaSet(spec, self._config, [first], ServersHere(spec, self._config).targets)
        if not self._config.embedded:
            raise SkillStartError(
                f"does not run: no server answers at 127.0.0.1:{spec.port}, {spec.target_variable} is not set, "
                f"and local processes are switched off: start it with `sarai serve {spec.name}`",
                skill=spec.name,
                log=None,
            )
        own = EmbeddedReplica(spec, self._config, self._on_progress)
        look = NumberedServers(spec, self._config).targets if self._config.share_embedded else None
        return ReplicaSet(spec, self._config, [own], look)

    def _at_addresses(self, spec: SkillSpec, targets: tuple[str, ...]) -> ReplicaSet:
        addresses = resolve_all(targets) or targets  # a name without an address is an error when it is called
        look = partial(resolve_all, targets) if any(map(names_many, targets)) else None
        return ReplicaSet(spec, self._config, [AddressReplica(address, "address") for address in addresses], look)

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise PoolClosedError(
                f"this pool belongs to process {self._pid}, this is process {os.getpid()}: call get_model_pool() in it"
            )
        if self._closed:
            raise PoolClosedError("the pool is closed; get_model_pool() gives another one")

    def close(self) -> None:
        """Close the clients and stop the local servers. Idempotent; does nothing in a forked child."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            clients = [each for each in self._given if isinstance(each, SkillClient)]
            held = [*self._replicas.values(), *self._retired]
        atexit.unregister(self.close)
        for client in clients:
            client.close()
        for replicas in held:
            replicas.close()

    async def aclose(self) -> None:
        """Close the async clients too, from `asyncio`."""
        with self._lock:
            clients = [each for each in self._given if not isinstance(each, SkillClient)]
        for client in clients:
            await client.close()
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _ProcessPool:
    """The pool of one process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pool: ModelPool | None = None


# By process id: a forked child has a copy of the parent's, whose lock may be held by a thread that it lacks.
_pools: dict[int, _ProcessPool] = {}


def get_model_pool() -> ModelPool:
    """Return the pool of this process, made at the first call; a new one after it was closed, and in a forked child.

    Raises:
        ConfigError: A variable of the environment (`SARAI_*`) is out of its range.
    """
    own = _pools.setdefault(os.getpid(), _ProcessPool())
    with own.lock:
        if own.pool is None or own.pool.closed:
            own.pool = ModelPool()
        return own.pool
