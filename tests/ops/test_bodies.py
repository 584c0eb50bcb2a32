"""Large bodies: a slow sender keeps nobody out, and all bodies together stay within a limit."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import socket
import time
from collections.abc import Iterator

import pytest
from tests.harness.services import Running, new_session

from dibs.api.bodies import BODIES_MOST, BodyBudget
from dibs.problems import ProblemError

SECRET = "the-secret-of-a-webhook"
PART = 900_000
MANY = BODIES_MOST // PART + 12


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("bodies")
    env = {"DIBS_GITHUB_SECRET": SECRET}
    with Running("--data-dir", str(folder / "d"), env=env) as running:
        yield running


@contextlib.contextmanager
def strangers(service: Running, path: str, headers: str) -> Iterator[list[socket.socket]]:
    """Open many connections that send most of a large body and then stop."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n{headers}\r\n".encode()
    with contextlib.ExitStack() as stack:
        slow = []
        for _ in range(MANY):
            slow.append(socket.create_connection(("127.0.0.1", service.port), timeout=20))
            stack.enter_context(slow[-1])
            slow[-1].sendall(head + b" " * PART)
        yield slow


def a_list() -> bytes:
    """Return 500 tasks, nearly the largest list that dibs accepts."""
    tasks = [{"task": f"T-{number}", "body": "x" * 1_900} for number in range(500)]
    return json.dumps({"tasks": tasks}).encode()


def ask(service: Running, path: str, body: bytes, **headers: str) -> tuple[float, int]:
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode()
            + body
        )
        answer = connection.recv(65536)
    return time.monotonic() - began, int(answer.split(b" ")[1])


def test_strangers_who_send_lists_slowly_keep_no_team_from_writing_its_own(
    service: Running,
) -> None:
    headers = f"Dibs-Session: {new_session()}\r\nContent-Type: application/json\r\n"
    with strangers(service, "/v1/theirs/tasks", headers) as slow:
        took, status = ask(service, "/v1/ours/tasks", a_list(), Dibs_Session=new_session())
        assert status == 200
        assert took < 5, "the service waits 10 s for a slow body"
        first = slow[0].recv(65536)
        assert b" 503 " in first.split(b"\r\n")[0], "the body that began first makes room"
        assert b"Send it again" in first


def test_strangers_who_send_deliveries_slowly_keep_no_forge_out(service: Running) -> None:
    body = json.dumps({"zen": "x" * 600_000}).encode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    with strangers(service, "/hooks/github", f"X-Hub-Signature-256: sha256={'0' * 64}\r\n"):
        took, status = ask(
            service,
            "/hooks/github",
            body,
            X_Hub_Signature_256=f"sha256={signature}",
            X_GitHub_Event="ping",
            X_GitHub_Delivery="one",
        )
    assert status == 202
    assert took < 5, "the service waits 10 s for a slow body"


class Sender:
    """A client that sends a body in parts, one for each call of `send`."""

    def __init__(self) -> None:
        self.parts: asyncio.Queue[dict[str, object]] = asyncio.Queue()

    def send(self, size: int, *, more: bool = True) -> None:
        self.parts.put_nowait({"type": "http.request", "body": b"x" * size, "more_body": more})

    async def read(self, room: BodyBudget, size: int, keep: asyncio.Event | None = None) -> int:
        async with room.body(self.parts.get, size, 100) as body:
            if keep:
                await keep.wait()
            return len(body)


async def test_what_has_come_counts_and_who_began_first_makes_room() -> None:
    room = BodyBudget(100)
    first, second, third = senders = [Sender() for _ in range(3)]
    sizes = (90, 75, 90)
    reads = [
        asyncio.create_task(each.read(room, size))
        for each, size in zip(senders, sizes, strict=True)
    ]
    await asyncio.sleep(0)
    first.send(40)
    second.send(50)
    third.send(20)
    with pytest.raises(ProblemError, match="gave up on this one"):
        await reads[0]
    second.send(25, more=False)
    assert await reads[1] == 75, "only one body is refused"
    third.send(70, more=False)
    assert await reads[2] == 90
    last = Sender()
    last.send(100, more=False)
    assert await last.read(room, 100) == 100, "the whole budget is free again"


async def test_what_came_whole_is_not_given_up_but_counts_until_it_is_dealt_with() -> None:
    room, done = BodyBudget(100), asyncio.Event()
    whole, late = Sender(), Sender()
    whole.send(80, more=False)
    read = asyncio.create_task(whole.read(room, 80, done))
    await asyncio.sleep(0)
    for more in (True, False):
        late.send(30, more=more)
        with pytest.raises(ProblemError, match="gave up on this one"):
            await late.read(room, 30)
    done.set()
    assert await read == 80
    late.send(40, more=False)
    assert await late.read(room, 40) == 40
