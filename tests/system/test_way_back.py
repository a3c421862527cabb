"""What the time for an answer's way back depends on: the kernel's round trips, and timeouts as gRPC sends them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from skills.runtime.round_trip import round_trip_s
from skills.runtime.way_back import sent_late_s


def test_kernel_tells_the_round_trip_of_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as caller:
        caller.connect(listening.getsockname())
        accepted, (_, port) = listening.accept()
        with accepted:
            caller.sendall(b"x")
            assert accepted.recv(1) == b"x"
            microseconds: tuple[int, int] = struct.unpack_from(
                "=II", accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 68
            )
            told_s = round_trip_s(f"ipv4:127.0.0.1:{port}")
            assert told_s == pytest.approx((microseconds[0] + 2 * microseconds[1]) / 1e6)
            assert told_s > 0
    assert round_trip_s(f"ipv4:127.0.0.1:{port}") == 0, "a closed connection has no round trip"


class _Remaining(grpc.GenericRpcHandler):
    def service(self, _: object) -> grpc.RpcMethodHandler[bytes, bytes]:
        return grpc.unary_unary_rpc_method_handler(lambda _, context: repr(context.time_remaining()).encode())


@pytest.fixture
def remaining_s() -> Iterator[Callable[[float], float]]:
    """Return a function that makes a call, always on the same connection, and returns its remaining time on arrival."""
    server = grpc.server(ThreadPoolExecutor(1), handlers=[_Remaining()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/any/Method")
        yield lambda timeout_s: float(ask(b"", timeout=timeout_s))
    server.stop(None)


def test_grpc_sends_timeouts_rounded_up_by_no_more_than_is_allowed_for(remaining_s: Callable[[float], float]) -> None:
    for timeout_s in (0.2345, 0.9991, 1.0, 1.234, 9.876, 10.0, 15.01, 54.321, 100.0, 119.5, 543.21, 1234.5):
        arrived_s = remaining_s(timeout_s)
        assert arrived_s - timeout_s <= sent_late_s(arrived_s) + 0.005
        assert sent_late_s(arrived_s) <= 0.045 * timeout_s
        if timeout_s == 10.0:
            assert arrived_s - timeout_s > 0.05, "gRPC no longer rounds timeouts up"


@pytest.mark.parametrize("longest_s", [0.9, 3.5, 12.0, 130.0])
def test_grpc_sends_an_earlier_longer_timeout_within_what_is_allowed_for(
    remaining_s: Callable[[float], float], longest_s: float
) -> None:
    remaining_s(longest_s)
    shares = []
    for thousandths in range(1, 31):
        timeout_s = longest_s * (1 - thousandths / 1000)
        arrived_s = remaining_s(timeout_s)
        assert arrived_s - timeout_s <= sent_late_s(arrived_s) + 0.005
        shares.append(arrived_s / timeout_s - 1)
    assert max(shares) > 0.025, "gRPC no longer rounds timeouts up"
