"""gRPC as all of `core` uses it: quiet, and with the same channel options for sync and async.

Its C core writes log lines (`I1123 … Got goaway`) to the user's terminal unless GRPC_VERBOSITY says otherwise while it
is imported. So the variable is set for that moment only, and left alone if the user has set it.
"""

from __future__ import annotations

import os
import sys

_VARIABLE = "GRPC_VERBOSITY"

if "grpc" in sys.modules or _VARIABLE in os.environ:
    import grpc
else:
    os.environ[_VARIABLE] = "ERROR"
    try:
        import grpc
    finally:
        del os.environ[_VARIABLE]

__all__ = ["CHANNEL_OPTIONS", "MAX_MESSAGE_BYTES", "grpc", "open_aio_channel", "open_channel"]

MAX_MESSAGE_BYTES = 16 * 1024 * 1024

CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    # Bytes. An answer of 32,000 tokens with 20 alternatives each is about 12 MiB.
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # -1: no limit here. That of the server holds, and its error says so.
    ("grpc.max_send_message_length", -1),
    # Milliseconds. By default, a server answers more than one ping in 300 s with GOAWAY too_many_pings.
    ("grpc.keepalive_time_ms", 330_000),
    # Milliseconds. By default 60 s. It ends the connection to a server that is stopped, or behind what swallows bytes:
    # keepalive_timeout_ms, 20 s by default, does so only where the other machine's kernel acknowledges no bytes.
    ("grpc.http2.ping_timeout_ms", 20_000),
    # Milliseconds between attempts to connect. With gRPC's 1 s to 120 s a replica that is back would stay unused.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # 1: connections, and their backoff after failures, are not shared with other channels of the process.
    ("grpc.use_local_subchannel_pool", 1),
    # 0: ignore http_proxy, which is meant for the web; gRPC would send even loopback calls there.
    ("grpc.enable_http_proxy", 0),
    ("grpc.primary_user_agent", "sarai"),
)


def open_channel(target: str) -> grpc.Channel:
    """Return a channel to `localhost:50051`, `dns:///host:50051` or `unix:/path`, which connects at first use."""
    return grpc.insecure_channel(target, options=CHANNEL_OPTIONS)


def open_aio_channel(target: str) -> grpc.aio.Channel:
    """Return such a channel for the running event loop."""
    return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
