"""How much of a deadline an answer needs to get back, as measured."""

from __future__ import annotations

import socket
import struct
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from core.pool.answer import HARD_DEADLINES
from skills.runtime.round_trip import round_trip_s
from skills.runtime.way_back import LEAST_DELAY_S, MOST_DELAY_S, REMEMBERED_S, WayBack, rounding_s
from skills.skill_draft import last_moment

NO_WIRE = "unix:"


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
    assert round_trip_s(f"ipv4:127.0.0.1:{port}") == 0, "the connection is gone"


@pytest.mark.parametrize("peer", [NO_WIRE, "unix:/run/x.sock", "nonsense", ""])
def test_where_there_is_no_wire_there_is_no_round_trip(peer: str) -> None:
    assert round_trip_s(peer) == 0


class _Remaining(grpc.GenericRpcHandler):
    def service(self, _: object) -> grpc.RpcMethodHandler[bytes, bytes]:
        return grpc.unary_unary_rpc_method_handler(lambda _, context: repr(context.time_remaining()).encode())


def test_grpc_sends_timeouts_rounded_up_by_no_more_than_is_allowed_for() -> None:
    server = grpc.server(ThreadPoolExecutor(1), handlers=[_Remaining()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    late = {}
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/any/Method")
        for timeout_s in (0.2345, 0.9991, 1.0, 1.234, 9.876, 10.0, 15.01, 54.321, 100.0, 119.5, 543.21, 1234.5):
            arrived_s = float(ask(b"", timeout=timeout_s))
            late[timeout_s] = arrived_s - timeout_s
            assert late[timeout_s] <= rounding_s(arrived_s) + 0.005
            assert rounding_s(arrived_s) <= 0.011 * timeout_s + 0.001
    server.stop(None)
    assert late[10.0] > 0.05, "there is something to allow for"


def test_delays_are_remembered_for_a_while() -> None:
    way = WayBack()
    quiet_s = way.needs_s(NO_WIRE, 5.0)
    assert quiet_s == pytest.approx(2 * LEAST_DELAY_S + rounding_s(5.0))
    way.note_delay(0.2, now=100.0)
    way.note_delay(0.001, now=100.1)
    assert way.needs_s(NO_WIRE, 5.0) == pytest.approx(quiet_s + 2 * (0.2 - LEAST_DELAY_S), rel=0.05)
    way.note_delay(0.001, now=100.0 + 5 * REMEMBERED_S)
    assert way.needs_s(NO_WIRE, 5.0) == quiet_s


def test_process_that_was_frozen_does_not_cost_later_calls_their_time() -> None:
    way = WayBack()
    way.note_delay(3600.0, now=1.0)
    assert way.needs_s(NO_WIRE, 60.0) <= 2 * MOST_DELAY_S + rounding_s(60.0)
    assert way.needs_s(NO_WIRE, 1.0) == 0.25


def test_pool_and_server_mean_the_same_by_hard_deadlines() -> None:
    assert HARD_DEADLINES == last_moment.HARD_DEADLINES
