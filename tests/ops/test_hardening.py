"""The cost that a stranger at the port can cause, and the information that the service reveals."""

import contextlib
import json
import re
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness.processes import until
from tests.harness.services import Running, new_session
from tests.http.raw import RawConnection

KEY = "a-team-key-of-this-test"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("hardening")
    environ = {"DIBS_TEAM_KEY": KEY, "DIBS_MAX_CONNECTIONS": "20", "DIBS_LOG_LEVEL": "debug"}
    with Running("--data-dir", str(folder / "d"), env=environ) as running:
        yield running


def open_socket(service: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=20)


def all_of(connection: socket.socket) -> bytes:
    """Return all bytes that the service sends until it closes the connection."""
    found = b""
    try:
        while more := connection.recv(65536):
            found += more
    except ConnectionResetError:
        pass
    return found


def problem(raw: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)


@pytest.mark.long
def test_a_request_that_does_not_come_whole_is_not_waited_for(service: Running) -> None:
    head = (
        f"POST /v1/p/claim HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
        f"Authorization: Bearer {KEY}\r\nDibs-Session: {new_session()}\r\n"
        "Content-Type: application/json\r\n\r\n"
    ).encode()
    sent = [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nX: y\r\n", head]
    connections = [open_socket(service) for _ in sent]
    began = time.monotonic()
    for connection, first in zip(connections, sent, strict=True):
        connection.sendall(first)

    def trickle(connection: socket.socket) -> None:
        while True:
            connection.sendall(b" ")
            time.sleep(0.2)  # the attack itself, not a wait for the service

    threading.Thread(target=suppressed(trickle), args=(connections[3],), daemon=True).start()
    answers = [all_of(connection) for connection in connections]
    assert 8 < time.monotonic() - began < 14
    assert answers[0] == b"", "a connection that was never used is closed without an answer"
    for answer in answers[1:]:
        status, body = problem(answer)
        assert (status, body["code"], body["outcome"]) == (408, "invalid", "not-applied")
    for connection in connections:
        connection.close()


def suppressed(attack: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
    def run(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            attack(connection)

    return run


def test_who_has_no_key_is_told_so_before_the_body_is_here(service: Running) -> None:
    head = "POST /v1/p/claim HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    began = time.monotonic()
    with open_socket(service) as connection:
        connection.sendall(head.encode())
        raw = all_of(connection)
    assert time.monotonic() - began < 5
    assert problem(raw)[0] == 401
    assert b"connection: close" in raw.lower(), "the rest of the body is not read as a request"


@pytest.mark.parametrize(("length", "told"), [(20_000, [413]), (17, [100, 409])])
def test_only_a_body_that_is_taken_is_asked_for(
    service: Running, length: int, told: list[int]
) -> None:
    head = (
        f"POST /v1/p/heartbeat HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n"
        f"Authorization: Bearer {KEY}\r\nDibs-Session: {new_session()}\r\n"
        "Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n"
    )
    with open_socket(service) as connection:
        connection.sendall(head.encode())
        raw = connection.recv(65536)
        if told[0] == 100:
            connection.sendall(b'{"task":  "none"}')
            raw += connection.recv(65536)
    assert [int(line.split()[1]) for line in raw.splitlines() if b"HTTP/1.1" in line] == told


def test_a_head_larger_than_32_kib_is_refused(service: Running) -> None:
    with open_socket(service) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000 + b"\r\n\r\n")
        status, body = problem(all_of(connection))
    assert (status, body["code"]) == (431, "too-large")


def test_a_large_body_behind_a_small_head_meets_the_limit_of_bodies(service: Running) -> None:
    with open_socket(service) as connection:
        body = b"x" * 60_000
        head = (
            f"POST /v1/p/claim HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            f"Authorization: Bearer {KEY}\r\nDibs-Session: {new_session()}\r\n"
            "Content-Type: application/json\r\nConnection: close\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        status, told = problem(all_of(connection))
    assert (status, told["code"]) == (413, "too-large")


def told(service: Running, request: str) -> tuple[int, bool]:
    """Send a request on a new connection; return the status, and whether it was then closed."""
    with open_socket(service) as connection:
        connection.settimeout(3)
        key = f"Authorization: Bearer {KEY}\r\nDibs-Session: {new_session()}\r\n"
        connection.sendall(f"{request} HTTP/1.1\r\nHost: x\r\n{key}\r\n".encode())
        raw, closed = b"", False
        with contextlib.suppress(TimeoutError):
            while more := connection.recv(65_536):
                raw += more
            closed = True
    return int(raw.split()[1]), closed


def test_the_last_connections_are_for_acts_and_health_one_request_each(service: Running) -> None:
    refused = 'dibs_connections_refused_total{why="many"}'
    before = service.metrics()[refused]
    with contextlib.ExitStack() as held:

        def crowd() -> None:
            """Fill the slots with connections too recent to be closed for a newcomer."""
            held.close()
            for _ in range(18):
                held.enter_context(open_socket(service))

        for request, status in (
            *(("GET /livez", 200), ("GET /readyz", 200), ("POST /v1/p/heartbeat", 200)),
            *(("GET /v1/p/claims", 503), ("GET /p/p", 503), ("GET /metrics", 503)),
        ):

            def answered(request: str = request, status: int = status) -> bool:
                crowd()  # new ones each time: in a slow attempt they become old enough to be closed
                return told(service, request) == (status, True)

            until(answered, f"{request} is answered with {status}, and closed")
    until(lambda: service.metrics()["dibs_connections"] < 5, "the connections are gone")
    assert told(service, "GET /v1/p/claims") == (200, False)
    assert service.metrics()[refused] >= before + 3


def test_connections_that_are_only_held_keep_nobody_out(service: Running) -> None:
    held = [open_socket(service) for _ in range(20)]
    try:
        for connection in held:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        held += [open_socket(service) for _ in range(5)]  # these never send a request
        session = new_session()

        def claims() -> bool:
            try:
                status, *_ = service.ask(
                    *("POST", "/v1/p/claim", {"task": "T-1"}, session),
                    Authorization=f"Bearer {KEY}",
                )
            except OSError:
                return False
            return status in (200, 201)

        until(claims, "idle connections have made room", 5)
        for _ in range(40):
            assert claims()
            assert service.ask("GET", "/readyz")[0] == 200
    finally:
        for connection in held:
            connection.close()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Start a service with default settings, except for the time that it keeps a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, hard), hard))
    folder = tmp_path_factory.mktemp("wide")
    with Running("--data-dir", str(folder / "d"), env={"DIBS_KEEP_ALIVE": "2s"}) as running:
        for _ in range(20):
            running.ask("GET", "/client/dibs.py")
        yield running
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class MemoryGrowth:
    """The growth of a service's process during a block, in MB."""

    def __init__(self, service: Running) -> None:
        self._statm = Path(f"/proc/{service.process.pid}/statm")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before = self.peak = self.now()

    def now(self) -> float:
        """Return the resident memory now."""
        return int(self._statm.read_text().split()[1]) * resource.getpagesize() / 1e6

    @property
    def grown(self) -> float:
        """Return the largest growth."""
        return self.peak - self.before

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            self.peak = max(self.peak, self.now())

    def __enter__(self) -> "MemoryGrowth":
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()
        self._thread.join(5)


CHUNKED = b"POST /v1/p/claim HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "trailers": (CHUNKED + b"0\r\n", b"a:b\r\n", 413),
    "one trailer": (CHUNKED + b"0\r\na: ", b"x" * 50, 413),
    "one trailer's name": (CHUNKED + b"0\r\n", b"x" * 50, 413),
    "an extension": (CHUNKED + b"1;", b"x" * 50, 413),
    "chunks of a byte": (CHUNKED, b"1\r\nx\r\n", 413),
    "a chunk's size": (CHUNKED, b"0" * 50, 413),
    "headers": (CHUNKED[:-2], b"a:b\r\n", 431),
    "a path": (b"GET /", b"x" * 50, 431),
    "empty lines": (b"", b"\r\n", 431),
}


@pytest.mark.parametrize(("first", "then", "status"), ENDLESS.values(), ids=ENDLESS)
def test_what_never_ends_is_cut_off_early(
    wide: Running, first: bytes, then: bytes, status: int
) -> None:
    with MemoryGrowth(wide) as memory, open_socket(wide) as connection:
        sent = 0
        with contextlib.suppress(ConnectionError):
            connection.sendall(first)
            while sent < 12_000_000:
                connection.sendall(then * (60_000 // len(then)))
                sent += 60_000
        raw = all_of(connection)
    if raw:  # the answer may be lost if the client sent far more than the service read
        assert (problem(raw)[0], problem(raw)[1]["outcome"]) == (status, "not-applied")
    assert sent < 12_000_000
    assert memory.grown <= 20


@pytest.mark.parametrize(("first", "then", "status"), ENDLESS.values(), ids=ENDLESS)
def test_what_is_a_little_too_large_hears_so(
    wide: Running, first: bytes, then: bytes, status: int
) -> None:
    with open_socket(wide) as connection:
        connection.sendall(first)
        for _ in range(4):  # this client reads the answer only after it has sent all
            connection.sendall(then * (200_000 // len(then)))
            time.sleep(0.1)
        found, body = problem(all_of(connection))
    assert (found, body["outcome"]) == (status, "not-applied")


GET = b"GET /client/dibs.py HTTP/1.1\r\nHost: x\r\n\r\n"


def test_requests_behind_one_another_are_answered_in_order(wide: Running) -> None:
    parts = [b"GET /problems/%s HTTP/1.1\r\nHost: x\r\n\r\n" % code for code in (b"held", b"done")]
    with open_socket(wide) as connection:
        connection.sendall(
            b"".join(parts) * 200 + GET.replace(b"\r\n\r", b"\r\nConnection: close\r\n\r")
        )
        raw = all_of(connection)
    assert raw.count(b"HTTP/1.1 200") == 401
    assert re.findall(rb"\r\n(held|done) \(", raw) == [b"held", b"done"] * 200


def test_a_flood_of_requests_on_a_connection_costs_no_memory(wide: Running) -> None:
    pipelined = 'dibs_connections_refused_total{why="pipelined"}'
    before = wide.metrics()[pipelined]
    connections = [open_socket(wide) for _ in range(20)]
    with MemoryGrowth(wide) as memory:
        for connection in connections:
            connection.setblocking(False)
            connection.send(GET * (300_000 // len(GET)))
        until(lambda: wide.metrics()[pipelined] == before + 20, "each was told to stop")
        until(lambda: wide.metrics()["dibs_connections"] == 1, "and closed")
    for connection in connections:
        connection.close()
    assert memory.grown <= 20
    assert memory.now() <= memory.before + 10


@pytest.mark.long
def test_answers_that_nobody_reads_end_their_connections_and_cost_no_memory(wide: Running) -> None:
    unread = 'dibs_connections_refused_total{why="unread"}'
    before = wide.metrics()[unread]
    with MemoryGrowth(wide) as memory, contextlib.ExitStack() as held:
        ten = [held.enter_context(open_socket(wide)) for _ in range(10)]
        for connection in ten:
            connection.sendall(GET * 100)
        slow = held.enter_context(open_socket(wide))
        slow.sendall(GET * 99 + GET.replace(b"\r\n\r", b"\r\nConnection: close\r\n\r"))
        got = slow.recv(1 << 16)

        def ended() -> bool:
            nonlocal got
            got += slow.recv(1 << 16)  # a slow reader that still reads is not closed
            time.sleep(0.3)
            return wide.metrics()[unread] == before + 10

        until(ended, "all ten are closed", within_s=40)
        got += all_of(slow)
    assert got.count(b"HTTP/1.1 200") == 100
    assert memory.grown <= 20
    assert memory.now() <= memory.before + 10


def read_nothing(wide: Running) -> None:
    """Open a thousand connections, send a request on each, read nothing, and close them."""
    with contextlib.ExitStack() as held:
        for _ in range(990):
            connection = held.enter_context(open_socket(wide))
            connection.sendall(GET)
        assert wide.ask("GET", "/livez")[0] == 200
    until(lambda: wide.metrics()["dibs_connections"] == 1, "the connections are gone")


def test_a_thousand_connections_that_read_nothing_cost_little(wide: Running) -> None:
    read_nothing(wide)  # the one-time cost of a first crowd, also if this test runs alone
    with MemoryGrowth(wide) as memory:
        read_nothing(wide)
    assert memory.grown <= 20
    assert memory.now() <= memory.before + 10


def test_a_connection_is_kept_between_requests_for_as_long_as_is_set(wide: Running) -> None:
    with RawConnection(f"http://127.0.0.1:{wide.port}") as wire:
        for _ in range(2):
            wire.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n\r\n")
            assert wire.answer().status == 200
            time.sleep(1)  # the pause under test
        began = time.monotonic()
        assert wire.rest() == b""
    assert 0.5 < time.monotonic() - began < 4


def test_no_answer_names_the_software(service: Running) -> None:
    for path in ("/livez", "/nothing", "/v1/p/claims", "/metrics"):
        _, body, headers = service.ask("GET", path)
        assert not {"server", "x-powered-by", "via"} & headers.keys()
        assert "uvicorn" not in str(body).lower()
        assert "litestar" not in str(body).lower()


@pytest.mark.parametrize("name", ["key", "session", "Dibs-Session", "team_key", "token"])
@pytest.mark.parametrize("path", ["/v1/p/claims", "/v1/p/claims/T-1", "/livez", "/v1/p/events"])
def test_a_key_or_session_in_a_url_is_refused(service: Running, name: str, path: str) -> None:
    status, body, _ = service.ask("GET", f"{path}?{name}=abc", Authorization=f"Bearer {KEY}")
    assert status == 422
    assert [error["field"] for error in body["errors"]] == [name.lower().replace("-", "_")]


def test_an_unknown_query_field_is_refused(service: Running) -> None:
    for path in ("/v1/p/claims", "/v1/p/claims/T-1", "/v1/p/events"):
        status, body, _ = service.ask("GET", f"{path}?nonsense=1", Authorization=f"Bearer {KEY}")
        assert (status, body["code"]) == (422, "invalid"), path


def test_no_key_and_no_session_reaches_the_log(service: Running) -> None:
    session = new_session()
    auth = {"Authorization": f"Bearer {KEY}"}
    service.ask("POST", "/v1/p/claim", {"task": "T-9"}, new_session(), **auth)
    status, _, headers = service.ask(
        "POST", "/v1/p/claim", {"task": "T-9"}, session, X_Request_Id="req-17", **auth
    )
    assert status == 409
    assert headers["x-request-id"] == "req-17"
    service.ask(
        "POST", "/v1/p/claim", {"task": "T-9"}, session, Authorization="Bearer wrong-key-of-x"
    )
    service.ask("GET", f"/v1/p/claims?session={session}&key={KEY.replace(' ', '+')}")
    until(lambda: any("req-17" in line for line in service.logged), "the refusal is logged")
    log = "".join(service.logged)
    assert "request_refused route=claim code=held" in log
    for secret in (session, KEY, KEY.replace(" ", "+"), "wrong-key-of-x"):
        assert secret not in log
