"""Ambiguous HTTP is refused in the same way on every path, and changes nothing."""

import json
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from tests.harness.services import Running, ServiceProcess
from tests.http.conftest import ADMIN, Caller
from tests.http.raw import RawAnswer, RawConnection, ask, chunked, request
from tests.http.test_bad_input import nothing_changes  # noqa: F401 - it is used by every test

from dibs.app import build
from dibs.settings import Settings

JSON = "application/json"


@pytest.fixture
def url(service: ServiceProcess) -> str:
    """Return the service's URL."""
    return service.url


@pytest.fixture(autouse=True)
def no_traceback(service: ServiceProcess) -> Iterator[None]:
    """Assert that the service logged no traceback: no request is its bug."""
    before = len(service.log.read_text())
    yield
    assert "Traceback" not in service.log.read_text()[before:]


def claim(caller: Caller, task: str, *more: str, session: str | None = None) -> bytes:
    """Return the bytes of a claim with extra header lines."""
    body = json.dumps({"task": task}).encode()
    lines = [
        f"POST /v1/{caller.project}/claim HTTP/1.1",
        "Host: dibs.test",
        f"Content-Length: {len(body)}",
        f"Content-Type: {JSON}",
        *([f"Dibs-Session: {session or caller.session}"] if session != "" else []),
        *more,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def refused(answer: RawAnswer, status: int, code: str, *fields: str) -> None:
    """Assert that the answer is this problem and that nothing was changed."""
    problem = answer.problem
    assert (answer.status, problem["code"], problem["outcome"]) == (status, code, "not-applied")
    if fields:
        assert {error["field"] for error in problem["errors"]} == set(fields)


ROUTES = ["/v1/{}/claims", "/v1/{}/events", "/v1/{}/claims/T-1", "/p/{}", "/", "/livez", "/none"]
TWICE = {
    "Dibs-Session": (str(uuid.uuid4()), str(uuid.uuid4())),
    "Authorization": ("Bearer one", "Bearer two"),
    "Content-Type": (JSON, "text/plain"),
    "Idempotency-Key": ("one", "two"),
    "Last-Event-Id": ("1-1-1", "1-1-2"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", TWICE)
def test_an_act_with_a_header_that_decides_twice_does_nothing(
    ann: Caller, url: str, name: str
) -> None:
    for first, second in (TWICE[name], TWICE[name][::-1], TWICE[name][:1] * 2):
        lines = [f"{name}: {first}", f"{name.lower()}: {second}"]
        whole = claim(ann, "T-1", *lines, session="" if name == "Dibs-Session" else None)
        if name == "Content-Type":
            whole = whole.replace(f"Content-Type: {JSON}\r\n".encode(), b"", 1)
        refused(ask(url, whole), 422, "invalid", name)
    assert ann.get("claims/T-1").json()["state"] == "free"


@pytest.mark.parametrize("name", TWICE)
@pytest.mark.parametrize("path", ROUTES)
def test_a_read_with_a_header_that_decides_twice_is_refused(
    ann: Caller, url: str, name: str, path: str
) -> None:
    first, second = TWICE[name]
    head = f"GET {path.format(ann.project)} HTTP/1.1\r\nHost: x\r\n{name}: {first}\r\n"
    refused(ask(url, f"{head}{name}: {second}\r\n\r\n".encode()), 422, "invalid", name)


@pytest.mark.parametrize("name", ["Origin", "Sec-Fetch-Site"])
def test_a_form_with_two_origins_is_refused(ann: Caller, url: str, name: str) -> None:
    body = f"task=kept&fence=1&reason=x&key={ADMIN}".encode()
    head = f"POST /p/{ann.project}/break HTTP/1.1\r\nHost: x\r\n{name}: none\r\n{name}: same-origin"
    head += f"\r\nContent-Length: {len(body)}\r\n\r\n"
    refused(ask(url, head.encode() + body), 422, "invalid", name)


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 15", "Content-Length: 15"],
        ["Content-Length: 15", "Content-Length: 16"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Content-Length: 15", "Transfer-Encoding: chunked"],
        ["Host: other"],
        ["Host: dibs.test"],
    ],
)
def test_what_says_twice_where_a_request_ends_or_for_whom_it_is_is_no_request(
    ann: Caller, url: str, lines: list[str]
) -> None:
    head = f"POST /v1/{ann.project}/heartbeat HTTP/1.1\r\nHost: dibs.test\r\n"
    head += f"Dibs-Session: {ann.session}\r\nContent-Type: {JSON}\r\n"
    with RawConnection(url) as wire:
        wire.send((head + "\r\n".join(lines)).encode() + b'\r\n\r\n{"task": "kept"}')
        refused(wire.answer(), 400, "invalid")
        assert wire.rest() == b"", "the rest is not read as a request"


@pytest.mark.parametrize(
    "host",
    [
        *(
            "x:99999",
            "x:65536",
            "x:port",
            "x:-1",
            "a b",
            'a"b',
            "a'b",
            "a\\b",
            "a<b>",
            "u@h",
            "x/y",
        ),
        *("[::1", "[1:2]", "[zz]", "::1", "x?y", "x#y", "é", "[::1]x", "x:80:80", "x,y", ""),
    ],
)
@pytest.mark.parametrize("path", ["/livez", "/client/dibs.py", "/"])
def test_a_host_that_is_none_is_refused_on_every_route(url: str, host: str, path: str) -> None:
    refused(ask(url, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()), 400, "invalid")


@pytest.mark.parametrize("host", ["dibs.test", "x:80", "x:", "127.0.0.1:8080", "[::1]:8080", "a_b"])
def test_a_host_that_is_one_is_taken(url: str, host: str) -> None:
    answer = ask(url, f"GET /client/dibs.py HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert answer.status == 200
    assert f"http://{host}".encode() in answer.body


def test_http_1_1_without_a_host_is_refused_and_http_1_0_is_not(url: str) -> None:
    refused(ask(url, b"GET /livez HTTP/1.1\r\n\r\n"), 400, "invalid")
    assert ask(url, b"GET /livez HTTP/1.0\r\n\r\n").status == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /livez\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT dibs.test:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://x:99999/livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nA: b\r\n folded\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
        b"GET /livez HTTP/1.1\nHost: x\n\n",
        b"GET /liv\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello",
        b"nonsense\r\n\r\n",
    ],
)
def test_what_is_no_request_gets_a_problem_and_the_connection_ends(
    service: ServiceProcess, raw: bytes
) -> None:
    before = len(service.log.read_text())
    with RawConnection(service.url) as wire:
        wire.send(raw)
        refused(wire.answer(), 400, "invalid")
        assert wire.rest() == b""
    assert service.log.read_text()[before:] == ""


@pytest.mark.parametrize(
    "name", ["Authorization", "Dibs-Session", "Content-Type", "Host", "Origin"]
)
def test_a_header_that_decides_is_refused_as_a_trailer(ann: Caller, url: str, name: str) -> None:
    body = json.dumps({"task": "T-1"}).encode()
    trailer = f"{name}: {ann.session if name == 'Dibs-Session' else JSON}".encode()
    for session in (ann.session, None):
        headers = {"Content-Type": JSON, "Transfer-Encoding": "chunked"}
        if session:
            headers["Dibs-Session"] = session
        head = request("POST", f"/v1/{ann.project}/claim", **headers)
        refused(ask(url, head + chunked(body, trailer)), 400, "invalid")
        refused(ask(url, head, chunked(body, b"a: b", trailer)), 400, "invalid")
    assert ann.get("claims/T-1").json()["state"] == "free"


def test_a_trailer_is_no_header_and_the_connection_goes_on(ann: Caller, url: str) -> None:
    headers = {"Content-Type": JSON, "Transfer-Encoding": "chunked", "Dibs-Session": ann.session}
    head = request("POST", f"/v1/{ann.project}/claim", **headers)
    body = chunked(b'{"task": "T-1"}', b"X-Request-Id: late", b"Expires: never", extension=b";a=b")
    with RawConnection(url) as wire:
        wire.send(head + body + request("GET", "/livez"))
        answer = wire.answer()
        assert answer.status == 201
        assert "x-request-id" not in answer.headers
        assert wire.answer().status == 200
    ann.post("release", task="T-1")


@pytest.mark.parametrize("cut", range(1, 40))
def test_it_does_not_matter_where_a_request_is_cut_into_segments(
    ann: Caller, url: str, cut: int
) -> None:
    headers = {"Content-Type": JSON, "Transfer-Encoding": "chunked", "Dibs-Session": ann.session}
    parts = [
        request("POST", f"/v1/{ann.project}/heartbeat", **headers),
        chunked(b'{"task":\r\n\r\n\r\n"kept", "fence": 1}', size=5),
        request("GET", "/livez"),
        request("POST", f"/v1/{ann.project}/release", b'{"task": "none"}', **{
            "Content-Type": JSON, "Dibs-Session": ann.session}),
    ]  # fmt: skip
    whole = b"".join(parts)
    ends = [len(b"".join(parts[:number])) for number in range(1, len(parts))]
    near = sorted({max(1, min(end + shift, len(whole) - 1)) for end in ends for shift in
                   (cut % 8 - 5, cut // 8 - 3)} | {cut * len(whole) // 40})  # fmt: skip
    with RawConnection(url) as wire:
        pieces = [whole[a:b] for a, b in zip([0, *near], [*near, None], strict=True)]
        wire.send(*(piece for piece in pieces if piece))
        assert [wire.answer().status for _ in range(3)] == [409, 200, 409]


def test_a_body_that_breaks_off_does_nothing(ann: Caller, url: str) -> None:
    head = (
        f"POST /v1/{ann.project}/heartbeat HTTP/1.1\r\nHost: x\r\nDibs-Session: {ann.session}\r\n"
    )
    with RawConnection(url) as wire:
        wire.send(f'{head}Content-Length: 17\r\n\r\n{{"task"'.encode())
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.rest() == b""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # about the framework's 3.0
@pytest.mark.parametrize("arrives", [b"", b'{"task": "T-1"'])
@pytest.mark.parametrize("path", ["/v1/p/heartbeat", "/v1/p/claim", "/v1/p/break", "/p/p/break"])
async def test_a_body_of_another_length_than_declared_does_nothing(
    path: str, arrives: bytes
) -> None:
    """The application itself compares the lengths, under any server."""
    headers = [(b"host", b"x"), (b"content-length", b"15"), (b"content-type", JSON.encode())]
    headers += [(b"dibs-session", str(uuid.uuid4()).encode()), (b"origin", b"http://x")]
    scope: Any = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": arrives, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async with build(Settings(), None).running() as service:
        await service.asgi(scope, receive, send)
    assert sent[0]["status"] == 422
    assert b"15 bytes were declared" in sent[1]["body"]


def test_a_project_may_be_called_claims(url: str) -> None:
    shown = ask(url, request("GET", "/v1/claims/claims/claims/T-1")).json
    assert (shown["project"], shown["task"]) == ("claims", "claims/T-1")


@pytest.mark.parametrize(
    "path",
    [
        *("/metrics/", "//metrics", "/metrics//", "//metrics/", "/metrics%2F", "/metrics%2f"),
        *("/%6detrics", "/%6Detrics/", "/./metrics", "/metrics/.", "/x/../metrics", "/metrics;a"),
        *("/%2Fmetrics", "/METRICS", "/metrics%00", "/metrics%20", "/metrics/x"),
        *("/livez/", "//livez", "/readyz/", "/openapi.json/", "/client//dibs.py"),
        *("/client/dibs.py/", "/skill/SKILL.md/", "/%73kill/SKILL.md", "/problems/held/"),
        *("/p/x/", "/p//x", "//p/x", "/p/x/stream/", "/%70/x", "/p/x%2Fstream", "//", "/board/"),
        *("/v1/x/claims/", "/v1//x/claims", "//v1/x/claims", "/v1/x//claims", "/v1/x/claims//"),
        *("/v1/x/events/", "/%761/x/claims", "/v1/x/%63laims", "/v1/x/claims%2FT-1"),
        *("/v1/x%2Fclaims", "/./v1/x/claims", "/v1/./claims/..", "/v1/x/../y/claims"),
    ],
)
def test_one_path_leads_to_each_thing(url: str, path: str) -> None:
    answer = ask(url, request("GET", path))
    if path == "/v1/x/claims//":
        assert answer.json == ask(url, request("GET", "/v1/x/claims/%2F")).json  # the task is "/"
        assert answer.json["task"] == "/"
    elif path.startswith("/v1/./"):
        refused(answer, 422, "invalid", "project")
    else:
        assert answer.status == 404, answer


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/{}/claim/", "//v1/{}/claim", "/v1//claim", "/v1/{}//claim", "/v1/{}/%63laim"),
        *("/%761/{}/claim", "/v1/{}/claim%2F", "/v1/{}%2Fclaim", "/v1/{}/./claim"),
        *("/v1/{}/x/../claim", "/v1/{}/claim;x", "/v1/{}/Claim", "/V1/{}/claim"),
    ],
)
def test_one_path_leads_to_each_act(ann: Caller, url: str, path: str) -> None:
    headers = {"Content-Type": JSON, "Dibs-Session": ann.session}
    whole = request("POST", path.format(ann.project), b'{"task": "T-1"}', **headers)
    refused(ask(url, whole), 404, "not-found")
    assert ann.get("claims/T-1").json()["state"] == "free"


@pytest.mark.parametrize(
    "task", ["a//b", "../x", ".", "..", "a%2Fb", "trail/", "/lead", "%", "a;b"]
)
def test_a_task_may_look_like_a_path(ann: Caller, url: str, task: str) -> None:
    assert ann.post("claim", task=task).status_code == 201
    encoded = "".join(f"%{byte:02X}" for byte in task.encode())
    for name in {encoded, task} if "%" not in task else {encoded}:
        for place in ("claims", "tasks"):
            shown = ask(url, request("GET", f"/v1/{ann.project}/{place}/{name}"))
            assert (shown.json["task"], shown.json["state"]) == (task, "held")
    ann.post("release", task=task)


@pytest.mark.parametrize(
    "after", ["{}.²", "{}." + "9" * 5000, "x", "{}.-1", "{}.1_0", "{}. 1", "a.b.c", ".", "{}.٣"]
)
def test_an_event_id_that_the_board_never_gave_is_refused(
    ann: Caller, service: Running, after: str
) -> None:
    page = ann.http.get(f"/p/{ann.project}").text
    ident = page.split('data-after="', 1)[1].split(".", 1)[0]
    given = after.format(ident)
    answer = ann.http.get(f"/p/{ann.project}/stream", params={"after": given})
    assert answer.status_code == 422, answer.text
    head = f"GET /p/{ann.project}/stream HTTP/1.1\r\nHost: x\r\nLast-Event-ID: "
    again = ask(service.url, head.encode() + given.encode() + b"\r\n\r\n")
    assert again.status == 422, again
