"""The pool: from the name of a skill to a client that is ready to be called."""

from __future__ import annotations

import asyncio
import atexit
import math
import os
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Self

from core.backends.address import AddressReplica, find_running
from core.backends.embedded import EmbeddedReplica
from core.client import SkillClient
from core.config import PoolConfig
from core.errors import PluginError, PoolClosedError, SkillStartError, UnknownSkillError
from core.plugins import Plugins, get_plugins
from core.progress import OnProgress, report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.aio import AsyncSkillClient
    from core.backends import Replica
    from core.skill import SkillSpec


class ModelPool:
    """Gives clients for skills, and holds the local servers that it started for them. Thread-safe.

    A skill is called at the address that `SARAI_<NAME>_TARGET` names; else at its port on this host, if a server there
    says SERVING; else at a local process, which the pool starts, and stops when it is closed, at the latest when the
    program ends.

    Args:
        config: the settings, by default those of the environment.
        plugins: the plugins, by default those of the process.
        on_progress: called with what happens while a server starts; by default `core.progress.report`.
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
        self._replicas: dict[str, Replica] = {}
        self._clients: dict[str, SkillClient] = {}
        # A channel of grpc.aio belongs to the event loop that it was opened in.
        self._async_clients: dict[asyncio.AbstractEventLoop, dict[str, AsyncSkillClient]] = {}
        self._closed = False
        atexit.register(self.close)

    @property
    def plugins(self) -> Plugins:
        """The plugins, with their hooks."""
        return self._plugins

    @property
    def closed(self) -> bool:
        """Whether the pool was closed."""
        return self._closed

    def skills(self) -> Mapping[str, SkillSpec]:
        """All skills by name, whether or not they run."""
        return self._plugins.skills

    def plugin_errors(self) -> tuple[PluginError, ...]:
        """The plugins that were left out, and why."""
        return self._plugins.errors

    def get_skill_client(self, name: str) -> SkillClient:
        """The client for a skill, ready to be called; the same one each time.

        Raises:
            UnknownSkillError: there is no such skill.
            SkillStartError: its local process did not come up.
            PoolClosedError: the pool was closed, or belongs to another process.
        """
        replica = self._ready_replica(name)
        with self._lock:
            self._check_open()
            client = self._clients.get(name)
            if client is None or client.closed or not client.calls(replica):
                client = self._clients[name] = SkillClient(self.skills()[name], replica, self._config)
            return client

    async def get_async_skill_client(self, name: str) -> AsyncSkillClient:
        """The same for `asyncio`: a client of the running event loop, with the same words.

        Raises:
            UnknownSkillError, SkillStartError, PoolClosedError: see `get_skill_client`.
        """
        from core.aio import AsyncSkillClient

        replica = await asyncio.to_thread(self._ready_replica, name)
        with self._lock:
            self._check_open()
            for loop in [loop for loop in self._async_clients if loop.is_closed()]:
                del self._async_clients[loop]
            clients = self._async_clients.setdefault(asyncio.get_running_loop(), {})
            client = clients.get(name)
            if client is None or client.closed or not client.calls(replica):
                client = clients[name] = AsyncSkillClient(self.skills()[name], replica, self._config)
            return client

    def _ready_replica(self, name: str) -> Replica:
        self._check_open()
        spec = self.skills().get(name)
        if spec is None:
            raise UnknownSkillError(name, self.skills(), left_out=(error.name for error in self.plugin_errors()))
        with self._lock:
            lock = self._lock_of[name]
        with lock:  # one skill may start while another one is asked for
            replica = self._replicas.get(name)
            # What was found on this host may have been stopped since: then look again.
            if replica is None or (replica.lost and replica.origin in ("running", "container")):
                replica = self._replicas[name] = self._find_replica(spec)
        if self._closed:  # while it was looked for: `close` may have been through already
            replica.close()
        self._check_open()
        replica.ready(math.inf)  # a start has a limit of its own
        return replica

    def _find_replica(self, spec: SkillSpec) -> Replica:
        target = self._config.target_of(spec)
        if target is not None:
            return AddressReplica(target, "address")
        running = find_running(spec, self._config)
        if running is not None:
            return running
        if not self._config.embedded:
            raise SkillStartError(
                f"does not run: nobody serves it at 127.0.0.1:{spec.port}, {spec.target_variable} is not set, "
                "and local processes are switched off",
                skill=spec.name,
                log=None,
            )
        return EmbeddedReplica(spec, self._config, self._on_progress)

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise PoolClosedError(
                f"this pool belongs to process {self._pid}, this is process {os.getpid()}: call get_model_pool() in it"
            )
        if self._closed:
            raise PoolClosedError("the pool is closed; get_model_pool() gives another one")

    def close(self) -> None:
        """Closes the clients and stops the local servers. Again does nothing; nor does it in a forked child."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        for client in self._clients.values():
            client.close()
        for replica in list(self._replicas.values()):
            replica.close()

    async def aclose(self) -> None:
        """The same for `asyncio`: closes the clients of the running event loop first."""
        for client in self._async_clients.pop(asyncio.get_running_loop(), {}).values():
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


# By process id: a forked child has a copy of the parent's, whose lock a thread may hold that the child does not have.
_pools: dict[int, _ProcessPool] = {}


def get_model_pool() -> ModelPool:
    """The pool of this process, made at the first call; another one after it was closed, and in a forked child.

    Raises:
        ConfigError: a variable of the environment (`SARAI_*`) is out of its range.
    """
    own = _pools.setdefault(os.getpid(), _ProcessPool())
    with own.lock:
        if own.pool is None or own.pool.closed:
            own.pool = ModelPool()
        return own.pool
