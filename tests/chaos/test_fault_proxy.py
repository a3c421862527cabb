"""The fault tests' proxy does what it promises."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.fault_proxy import FaultProxy

PATIENCE_S = 5.0
SILENCE_S = 0.2


class Echo:
    """A server that echoes everything, records how the bytes arrived, and closes after `bye`."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.reads: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1 << 16):
                    self.reads.append(data)
                    connection.sendall(data)
                    if data.endswith(b"bye"):
                        return
            except OSError:
                pass

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it is closed already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy(echo.target) as running:
        yield running


def connect(proxy: FaultProxy) -> socket.socket:
    host, port = proxy.target.split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def ask(connection: socket.socket, data: bytes = b"hello") -> bytes:
    connection.sendall(data)
    return receive(connection, len(data))


def receive(connection: socket.socket, number: int) -> bytes:
    received = b""
    while len(received) < number:
        data = connection.recv(number - len(received))
        assert data, "the connection was closed"
        received += data
    return received


def is_silent(connection: socket.socket) -> bool:
    connection.settimeout(SILENCE_S)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(PATIENCE_S)
    return False


def test_it_passes_everything_on(proxy: FaultProxy) -> None:
    big = bytes(itertools.islice(itertools.cycle(range(251)), 1_000_000))
    with connect(proxy) as connection:
        writing = threading.Thread(target=connection.sendall, args=(big,))
        writing.start()
        assert receive(connection, len(big)) == big
        writing.join()


def test_what_the_server_closes_is_closed_with_all_that_it_sent(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        assert ask(connection, b"bye") == b"bye"
        assert connection.recv(1) == b""


def test_delay_is_the_same_for_all_bytes_and_holds_each_way(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        ask(connection)
        proxy.delay(0.1)
        begin = time.monotonic()
        for _ in range(5):
            connection.sendall(b"hello")
        assert receive(connection, 25) == b"hello" * 5
        assert 0.2 <= time.monotonic() - begin < 1, "the delay must not apply once per message"
        proxy.heal()
        begin = time.monotonic()
        ask(connection)
        assert time.monotonic() - begin < 0.1


def test_slices_are_single_bytes(proxy: FaultProxy, echo: Echo) -> None:
    with connect(proxy) as connection:
        proxy.slice()
        assert ask(connection, b"x" * 5000) == b"x" * 5000
    assert len(echo.reads) > 20, "a slow reader joins some bytes, but without slices there would be one or two reads"


def test_a_stall_holds_everything_back_until_it_is_over(proxy: FaultProxy) -> None:
    with connect(proxy) as before:
        ask(before)
        proxy.stall()
        with connect(proxy) as meanwhile:
            for connection in (before, meanwhile):
                connection.sendall(b"hello")
                assert is_silent(connection)
            proxy.heal()
            for connection in (before, meanwhile):
                assert receive(connection, 5) == b"hello"


def test_reset_is_a_rst_and_new_connections_are_passed_on(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        ask(connection)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with connect(proxy) as connection:
        assert ask(connection) == b"hello"


def test_refused_connections_are_accepted_again_at_the_same_address(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        ask(connection)
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.heal()
    with connect(proxy) as connection:
        assert ask(connection) == b"hello"


def test_what_is_cut_off_stays_silent_and_what_came_meanwhile_is_let_through(proxy: FaultProxy) -> None:
    with connect(proxy) as before:
        ask(before)
        proxy.cut_off()
        with connect(proxy) as meanwhile:
            for connection in (before, meanwhile):
                connection.sendall(b"hello")
                assert is_silent(connection)
            proxy.heal()
            assert receive(meanwhile, 5) == b"hello"
            assert is_silent(before)


def test_a_server_that_is_gone_resets_its_callers(proxy: FaultProxy, echo: Echo) -> None:
    echo.close()
    with pytest.raises(OSError), connect(proxy) as connection:  # noqa: PT011  # either reset or refused
        ask(connection)


def test_no_link_is_left_when_its_caller_has_gone(proxy: FaultProxy) -> None:
    with connect(proxy) as cut:
        ask(cut)
        proxy.cut_off()
        proxy.heal()
    with connect(proxy) as connection:
        ask(connection)
    end = time.monotonic() + PATIENCE_S
    while proxy.links:
        assert time.monotonic() < end
        time.sleep(0.01)
