"""A gRPC server for clients that may ask too often, or vanish."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from core.errors import ConfigError
from core.rpc import grpc

PING_MS = 20_000
"""How often a client with an open stream is pinged, and how long it may take to answer. With gRPC's two hours, the
streams of clients whose machines have died would leave no room for others."""
_THREADS = 8
_MOST_CALLS = 256
"""Calls that run or wait at once; further ones are refused, and not queued without bound."""


def bind(address: str, *, streams: int = 0) -> tuple[grpc.Server, str]:
    """Return a server to add services to and to start, and its address with the port.

    Args:
        address: `HOST:PORT`; port 0 takes a free one.
        streams: How many streams may be open at once; each takes a thread.

    Raises:
        ConfigError: The address cannot be bound.
    """
    server = grpc.server(
        ThreadPoolExecutor(_THREADS + streams),
        maximum_concurrent_rpcs=_MOST_CALLS,
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", PING_MS),
            ("grpc.http2.ping_timeout_ms", PING_MS),
        ],
    )
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigError(f"cannot listen on {address}: is it in use, or not an address of this machine?") from error
    return server, f"{address.rpartition(':')[0]}:{port}"
