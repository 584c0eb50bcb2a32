"""What a stranger who reaches the port can cost the service, and what it gives away."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from tests.ops.running import Running, new_session, until

KEY = "a team key of this test"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("hardening")
    environ = {"DIBS_TEAM_KEY": KEY, "DIBS_MAX_CONNECTIONS": "20", "DIBS_LOG_LEVEL": "debug"}
    with Running("--data-dir", str(folder / "d"), env=environ) as running:
        yield running


def open_socket(service: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=20)


def all_of(connection: socket.socket) -> bytes:
    """What the service sends until it closes."""
    found = b""
    try:
        while more := connection.recv(65536):
            found += more
    except ConnectionResetError:
        pass
    return found


def problem(raw: bytes) -> tuple[int, dict]:
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)


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
            time.sleep(0.2)  # the attack itself, not a wait

    threading.Thread(target=suppressed(trickle), args=(connections[3],), daemon=True).start()
    answers = [all_of(connection) for connection in connections]
    assert 8 < time.monotonic() - began < 14
    assert answers[0] == b"", "a connection that was never used is closed without a word"
    assert [problem(answer)[0] for answer in answers[1:3]] == [408, 408]
    for connection in connections:
        connection.close()


def suppressed(attack: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
    def run(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            attack(connection)

    return run


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
        status, body = problem(all_of(connection))
    assert (status, body["code"]) == (413, "too-large")


def test_a_connection_too_many_is_told_so_and_the_others_go_on(service: Running) -> None:
    refused = 'dibs_connections_refused_total{why="many"}'
    before = service.metrics()[refused]
    connections = [open_socket(service) for _ in range(30)]
    try:
        told = [connection for connection in connections if _closed(connection)]
        assert 8 <= len(told) <= 12
        alive = next(connection for connection in connections if connection not in told)
        alive.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert all_of(alive).startswith(b"HTTP/1.1 200")
    finally:
        for connection in connections:
            connection.close()
    until(lambda: service.metrics()["dibs_connections"] < 5, "the connections are gone")
    assert service.metrics()[refused] >= before + 8


def _closed(connection: socket.socket) -> bool:
    connection.settimeout(0.3)
    try:
        status, body = problem(all_of(connection))
    except (TimeoutError, IndexError):
        return False
    assert (status, body["code"], body["outcome"]) == (503, "unavailable", "not-applied")
    return True


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
