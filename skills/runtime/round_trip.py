"""The round-trip time to a peer, as measured by the kernel on the connection."""

from __future__ import annotations

import re
import socket
import struct

_PORT = re.compile(r"ipv[46]:.*:(\d+)")
# linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h: a dump of the established TCP sockets, with tcp_info.
_SOCK_DIAG, _BY_FAMILY, _REQUEST_DUMP, _DONE, _ERROR = 4, 20, 0x301, 3, 2
_ESTABLISHED, _INFO = 1 << 1, 2
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_QUERY = struct.Struct("=BBBBI2s2s16s16sIII")
_MESSAGE_BYTES = 72
_RTT_AT, _RTT = 68, struct.Struct("=II")  # of tcp_info: tcpi_rtt and tcpi_rttvar, microseconds


def round_trip_s(peer: str) -> float:
    """Return what a round trip to a peer rarely exceeds, in seconds: the smoothed one plus twice its deviation.

    Args:
        peer: The peer as gRPC names it, `ipv4:10.0.0.7:41234`.

    Returns:
        0 if that is unknown: a Unix socket has no wire, and a kernel may not report it. A proxy hides what lies behind
        it.
    """
    port = _PORT.fullmatch(peer)
    if port is None:
        return 0.0
    try:
        found = _ask(int(port[1]), socket.AF_INET) or _ask(int(port[1]), socket.AF_INET6)
    except OSError:
        return 0.0
    # Peers with different addresses may have the same port; the slowest is the safe choice.
    return max((rtt + 2 * deviation for rtt, deviation in found), default=0) / 1e6


def _ask(peer_port: int, family: int) -> list[tuple[int, int]]:
    """Return the round trip and its deviation for each connection to a peer's port, in microseconds."""
    anywhere = b"\0" * 16
    query = _QUERY.pack(
        family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0, _ESTABLISHED,
        b"\0\0", struct.pack("!H", peer_port), anywhere, anywhere, 0, 0xFFFFFFFF, 0xFFFFFFFF,
    )  # fmt: skip
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.settimeout(0.1)
        kernel.send(_HEADER.pack(_HEADER.size + len(query), _BY_FAMILY, _REQUEST_DUMP, 1, 0) + query)
        found: list[tuple[int, int]] = []
        while True:
            answer = kernel.recv(1 << 16)
            at = 0
            while at + _HEADER.size <= len(answer):
                size, kind, *_ = _HEADER.unpack_from(answer, at)
                if kind in (_DONE, _ERROR) or size < _HEADER.size:
                    return found
                found += _round_trips(answer[at + _HEADER.size + _MESSAGE_BYTES : at + size])
                at += -(-size // 4) * 4


def _round_trips(attributes: bytes) -> list[tuple[int, int]]:
    """Return the round trip and its deviation from one socket's attributes."""
    at = 0
    while at + _ATTRIBUTE.size <= len(attributes):
        size, kind = _ATTRIBUTE.unpack_from(attributes, at)
        info = attributes[at + _ATTRIBUTE.size : at + size]
        if kind == _INFO and len(info) >= _RTT_AT + _RTT.size:
            return [_RTT.unpack_from(info, _RTT_AT)]
        at += max(4, -(-size // 4) * 4)
    return []
