"""gRPC as `core` uses it: quiet, and with one set of channel options, sync and async. All of `core` takes it from here.

Its C core would write log lines of its own (`I1123 … Got goaway`) into the user's terminal. It reads GRPC_VERBOSITY
while it is imported; the variable is set for that moment only, and not at all where the user has set it.
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
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Milliseconds. A server answers pings closer than every 300 s with GOAWAY too_many_pings, unless it is told else.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Milliseconds between attempts to connect. gRPC's own 1 s to 120 s would let a replica that is back stay unused.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # 1: connections, and with them the waits after failures, are not shared with other channels of the process.
    ("grpc.use_local_subchannel_pool", 1),
    # 0: http_proxy is for the web; gRPC would send even loopback calls there.
    ("grpc.enable_http_proxy", 0),
    ("grpc.primary_user_agent", "sarai"),
)


def open_channel(target: str) -> grpc.Channel:
    """A channel to a target such as `localhost:50051`, `dns:///host:50051` or `unix:/path`. Connects at first use."""
    return grpc.insecure_channel(target, options=CHANNEL_OPTIONS)


def open_aio_channel(target: str) -> grpc.aio.Channel:
    """The same for the event loop that runs just now."""
    return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
