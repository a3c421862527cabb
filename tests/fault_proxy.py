"""A TCP proxy whose network has faults, which can be switched while connections are open.

    with FaultProxy("127.0.0.1:50051") as proxy:
        channel = grpc.insecure_channel(proxy.target)
        ...
        proxy.delay(0.1)
        ...
        proxy.heal()

It runs in a thread of the test's process. Each fault lasts, in both directions, until the next one or `heal`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self

_LINGER_0 = struct.pack("ii", 1, 0)  # makes `close` send a RST instead of a FIN
_READ_BYTES = 1 << 16
_QUEUED_READS = 64


class FaultProxy:
    """A proxy to `HOST:PORT`; a context manager. Its methods may be called from any thread and take effect at once."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.target = ""
        """The address at which it listens; empty before it does."""
        self._network = _Network(upstream)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.target = f"127.0.0.1:{self._do(self._network.listen)}"
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._network.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def links(self) -> int:
        """Return the number of open connections."""
        return len(self._network.links)

    def heal(self) -> None:
        """Forward everything again. Connections that were cut off stay so; those that were opened since are served."""
        self._do(self._network.heal)

    def delay(self, seconds: float) -> None:
        """Delay all bytes by this many seconds in each direction."""
        self._do(lambda: self._network.change(delay_s=seconds))

    def slice(self) -> None:
        """Forward all bytes one by one."""
        self._do(lambda: self._network.change(slices=True))

    def stall(self) -> None:
        """Accept connections, but forward nothing until `heal`; then forward everything."""
        self._do(lambda: self._network.change(stalled=True))

    def reset(self) -> None:
        """Reset all connections (RST), once: new ones are served."""
        self._do(self._network.reset)

    def refuse(self) -> None:
        """Reset all connections, and refuse new ones: nothing listens."""
        self._do(self._network.refuse)

    def cut_off(self) -> None:
        """Cut the network. Callers on old connections receive nothing more, even after `heal`; new ones wait for it."""
        self._do(self._network.cut_off)

    def _do(self, change: Callable[[], object]) -> object:
        async def changed() -> object:
            result = change()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(changed(), self._loop).result(10)


class _Network:
    """The network between callers and the server; used only in the proxy's event loop."""

    def __init__(self, upstream: str) -> None:
        self.host, _, port = upstream.rpartition(":")
        self.port = int(port)
        self.links: set[_Link] = set()
        self.delay_s, self.slices = 0.0, False
        self.flowing = asyncio.Event()
        self._listener: asyncio.Server | None = None
        self._own_port = 0

    async def listen(self) -> int:
        self.flowing.set()
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self._own_port)
        self._own_port = int(self._listener.sockets[0].getsockname()[1])
        return self._own_port

    async def close(self) -> None:
        self.refuse()
        self.flowing.set()
        if tasks := {link.task for link in self.links}:
            await asyncio.wait(tasks, timeout=5)

    def change(self, *, delay_s: float = 0.0, slices: bool = False, stalled: bool = False) -> None:
        self.delay_s, self.slices = delay_s, slices
        (self.flowing.clear if stalled else self.flowing.set)()

    async def heal(self) -> None:
        self.change()
        if self._listener is None:
            await self.listen()

    def reset(self) -> None:
        for link in self.links:
            link.reset()

    def refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.reset()

    def cut_off(self) -> None:
        self.change(stalled=True)
        for link in self.links:
            link.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, reader, writer)
        self.links.add(link)
        try:
            await link.run()
        finally:
            self.links.discard(link)


class _Link:
    """One connection through the proxy."""

    def __init__(self, network: _Network, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._network, self._reader, self._writer = network, reader, writer
        self._upstream: asyncio.StreamWriter | None = None
        self._silent = False
        task = asyncio.current_task()
        assert task is not None
        self.task = task

    async def run(self) -> None:
        """Forward until one of the sides closes the connection."""
        network = self._network
        try:
            await network.flowing.wait()
            if self._writer.is_closing():  # it was reset meanwhile
                return
            back, self._upstream = await asyncio.open_connection(network.host, network.port)
            ways = (self._pass(self._reader, self._upstream), self._pass(back, self._writer))
            tasks = [asyncio.create_task(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._silent:
                await self._reader.read()  # until the caller has closed it
        except OSError:
            self.reset()
        finally:
            self._writer.close()
            if self._upstream is not None:
                self._upstream.close()

    def cut(self) -> None:
        """Send the caller nothing more; reset the server's side, so that the server does not work for it."""
        self._silent = True
        if self._upstream is not None:
            self._upstream.transport.abort()

    def reset(self) -> None:
        """Send a RST in both directions."""
        self._silent = False
        for writer in (self._writer, self._upstream):
            if writer is not None and (connection := writer.get_extra_info("socket")) is not None:
                if not writer.is_closing():
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
                writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one direction until its end."""
        read: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED_READS)
        reading = asyncio.create_task(self._read(reader, read))
        try:
            while True:
                due_s, data = await read.get()
                await asyncio.sleep(max(0.0, due_s - asyncio.get_running_loop().time()))
                await self._network.flowing.wait()
                if self._silent or not data:
                    return
                step = 1 if self._network.slices else len(data)
                for at in range(0, len(data), step):
                    writer.write(data[at : at + step])
                    await writer.drain()
                    if step == 1:
                        await asyncio.sleep(0)
        finally:
            reading.cancel()
            await asyncio.wait({reading})  # until then, nothing else may read from the stream

    async def _read(self, reader: asyncio.StreamReader, read: asyncio.Queue[tuple[float, bytes]]) -> None:
        while True:
            try:
                data = await reader.read(_READ_BYTES)
            except OSError:
                data = b""
            await read.put((asyncio.get_running_loop().time() + self._network.delay_s, data))
            if not data:
                return
