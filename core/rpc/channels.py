"""How the host talks to replicas: one set of channel options for sync and async."""

from __future__ import annotations

from core.rpc import grpc

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
