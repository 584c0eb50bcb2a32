"""Admission: the connections that get a slot or make room, and the calls that go first."""

import asyncio
import http.client
import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness.processes import until
from tests.harness.services import Running, new_session

from dibs.acceptor import Acceptor
from dibs.api.access import WRONG_MOST, Access
from dibs.api.admission import Admission, Holders, Pace, in_turn, shared
from dibs.api.bodies import BodyBudget
from dibs.api.fast_path import FastPath
from dibs.api.shutdown import answered_at_the_end
from dibs.api.telemetry import FAMILIES
from dibs.connection_slots import FRESH_S, QUIET_S, ConnectionSlots, is_kept_for
from dibs.metrics import Metrics
from dibs.problems import ProblemError
from dibs.responses import Reply


class Guest:
    """A connection, as far as the slots use one."""

    gone = False

    def make_room(self) -> None:
        self.gone = True


def occupied(slots: ConnectionSlots, many: int, at: float) -> list[Guest]:
    guests = [Guest() for _ in range(many)]
    assert all(slots.enter(guest, at) for guest in guests)
    return guests


def test_a_newcomer_takes_the_place_of_who_was_quiet_longest() -> None:
    slots = ConnectionSlots(20)
    old = occupied(slots, 18, at=0)
    slots.busy(old[0])
    assert not slots.scarce
    assert slots.enter(Guest(), QUIET_S + 0.1)
    assert [guest.gone for guest in old[:3]] == [False, True, False]
    slots.quiet(old[0], 1)  # it becomes the most recently quiet one that is left
    occupied(slots, 17, at=QUIET_S + 0.1)
    assert [guest.gone for guest in old] == [False] + [True] * 17


def test_nobody_goes_who_has_just_come_while_there_is_room() -> None:
    slots = ConnectionSlots(20)
    first = occupied(slots, 20, at=0)
    assert slots.scarce
    assert not any(guest.gone for guest in first)
    assert not slots.has_room(FRESH_S / 2)
    assert not slots.enter(Guest(), FRESH_S / 2)
    assert not any(guest.gone for guest in first)
    assert not slots.has_room(FRESH_S * 1.1, 21), "newcomers outnumber the slots"
    assert all(guest.gone for guest in first)


def test_who_is_on_the_way_in_has_a_seat_already() -> None:
    slots = ConnectionSlots(20)
    occupied(slots, 12, at=0)
    assert slots.has_room(0, 7)
    assert not slots.has_room(0, 8)


def test_who_is_being_answered_stays() -> None:
    slots = ConnectionSlots(10)
    for guest in occupied(slots, 10, at=0):
        slots.busy(guest)
    assert not slots.has_room(100)
    stranger = Guest()
    slots.quiet(stranger, 0)  # it has no slot
    assert not slots.has_room(100)


@pytest.mark.parametrize(
    ("method", "url", "kept"),
    [
        ("GET", "/livez", True),
        ("GET", "/readyz", True),
        ("POST", "/v1/p/heartbeat", True),
        ("POST", "/p/p/break", False),
        ("GET", "/v1/p/claims", False),
        ("GET", "/readyz/", False),
    ],
)
def test_seats_are_kept_for_acts_and_health(method: str, url: str, *, kept: bool) -> None:
    assert is_kept_for(method.encode(), url.encode()) is kept


async def test_all_who_wait_outside_are_let_in_at_once() -> None:
    loop = asyncio.get_running_loop()
    met: list[Any] = []

    class Meets(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            met.append(transport)

    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        listener.setblocking(False)
        acceptor = Acceptor(listener, ConnectionSlots(100))
        outside = [socket.create_connection(listener.getsockname()) for _ in range(50)]
        rounds = 0
        acceptor.open(Meets)
        while len(met) < 50 and rounds < 20:
            rounds += 1
            await asyncio.sleep(0)
        assert len(met) == 50
        acceptor.close()
        acceptor.close()
    for transport in met:
        transport.abort()
    for one in outside:
        one.close()
    assert loop.is_running()


async def test_who_finds_no_seat_waits_outside_until_there_is_one() -> None:
    met: list[Any] = []

    class Meets(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            met.append(transport)

    slots = ConnectionSlots(10)
    inside = occupied(slots, 10, at=asyncio.get_running_loop().time() + 100)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        acceptor = Acceptor(listener, slots)
        outside = socket.create_connection(listener.getsockname())
        acceptor.open(Meets)
        await asyncio.sleep(0.05)
        assert met == []
        slots.leave(inside[0])
        slots.leave(inside[1])
        async with asyncio.timeout(5):
            while not met:
                await asyncio.sleep(0.01)
        acceptor.close()
    met[0].abort()
    outside.close()


async def test_holders_begin_before_others_a_few_in_each_round() -> None:
    pace, order = Pace(2), []

    async def asks(name: str, *, first: bool) -> None:
        if not pace.count():
            await pace.wait(first=first)
        order.append(name)

    others = [asyncio.create_task(asks(f"other {n}", first=False)) for n in range(6)]
    holders = [asyncio.create_task(asks(f"holder {n}", first=True)) for n in range(2)]
    await asyncio.gather(*others, *holders)
    assert order[:4] == ["other 0", "other 1", "holder 0", "holder 1"]
    assert order[4:] == [f"other {n}" for n in range(2, 6)]


def test_a_holder_is_known_by_its_answers_and_forgotten_when_it_asks_too_often() -> None:
    holders = Holders(most=2)
    holders.heard(b"ann", 201)
    holders.heard(b"bob", 409)
    assert (holders.has(b"ann"), holders.has(b"bob")) == (True, False)
    holders.heard(b"ann", 409)
    assert holders.has(b"ann"), "a refused claim leaves its other claims in place"
    holders.heard(b"ann", 429)
    assert not holders.has(b"ann")
    for who in (b"ann", b"bob", b"cat"):
        holders.heard(who, 200)
    assert [holders.has(who) for who in (b"ann", b"bob", b"cat")] == [False, True, True]


def scope(path: str, method: str = "GET", session: str = "") -> dict[str, Any]:
    headers = [(b"dibs-session", session.encode())] if session else []
    return {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}


async def test_reads_begin_a_few_at_a_time_and_health_does_not_wait_for_them() -> None:
    begun, go_on = [], asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.append(scope["path"])
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    metrics = Metrics(FAMILIES)
    wrapped: Any = in_turn(app, metrics)
    reads = [asyncio.create_task(wrapped(scope(f"/p/{n}"), None, send)) for n in range(300)]
    health = asyncio.create_task(wrapped(scope("/livez"), None, send))
    await asyncio.sleep(0.01)
    assert begun == ["/p/0", "/p/1", "/p/2", "/p/3", "/livez"]
    assert statuses == [503] * 40, "the rest exceed the limit on waiting reads"
    assert b"\ndibs_reads_refused_total 40.0\n" in metrics.text()
    go_on.set()
    await asyncio.gather(*reads, health)
    assert statuses.count(200) == 261


async def test_a_stream_that_has_begun_keeps_no_turn_and_nor_does_one_that_failed() -> None:
    async def streams(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.Event().wait()

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("a bug")

    async def send(message: Any) -> None:
        begun.append(message)

    for app, tries in ((streams, 20), (fails, 20)):
        begun: list[Any] = []
        wrapped: Any = in_turn(app, Metrics(FAMILIES))
        tasks = [asyncio.create_task(wrapped(scope("/"), None, send)) for _ in range(tries)]
        await asyncio.sleep(0.01)
        assert len(begun) == (tries if app is streams else 0)
        assert all(task.done() for task in tasks) is (app is fails)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_has_shown_wrong_keys_waits_in_nobodys_way() -> None:
    access = Access(["a" * 20])
    answered: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/wrong":
            await access.slow_down(scope, ProblemError("unauthorized", "wrong"))
        answered.append(scope["path"])

    wrapped: Any = in_turn(app, Metrics(FAMILIES))
    for _ in range(WRONG_MOST):
        await wrapped(scope("/wrong"), None, None)
    answered.clear()
    wrong = [asyncio.create_task(wrapped(scope("/wrong"), None, None)) for _ in range(20)]
    await asyncio.sleep(0)
    await wrapped(scope("/right"), None, None)
    assert answered == ["/right"]
    await asyncio.gather(*wrong)
    assert len(answered) == 21


class Asked:
    """A request with the fields that uvicorn gives it."""

    def __init__(self, *, disconnected: bool) -> None:
        self.disconnected = disconnected

    async def receive(self) -> dict[str, str]:
        return {"type": "http.disconnect"}


async def test_a_read_of_who_has_hung_up_is_not_begun() -> None:
    begun: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.append(scope["path"])

    wrapped: Any = in_turn(app, Metrics(FAMILIES))
    for number in range(20):
        asked = Asked(disconnected=number != 10)
        await asyncio.wait_for(wrapped(scope(f"/p/{number}"), asked.receive, None), 5)
    assert begun == ["/p/10"]


def act(project: str, session: str) -> dict[str, Any]:
    path = f"/v1/{project}/claim"
    return scope(path, "POST", session) | {"raw_path": path.encode()}


async def body() -> Any:
    return {"type": "http.request", "body": b"{}"}


async def test_an_act_of_a_session_that_holds_something_passes_a_crowd() -> None:
    order: list[str] = []

    class Answering(FastPath):
        async def _do(self, act: Any, post: Any, scope: Any) -> Reply:
            order.append(post.project)
            if post.project == "too-many":
                raise ProblemError("quota", "That is more than it may hold.", whose="session")
            return Reply(b"", "text/plain")

    async def send(message: Any) -> None: ...

    nothing: Any = None
    acts = Answering(nothing, nothing, Access(), Metrics(FAMILIES), 1_000, nothing)

    def claim(project: str, session: str) -> Any:
        return acts(act(project, session), body, send)

    await claim("first", "holder")
    await claim("too-many", "holder")
    asked = [asyncio.create_task(claim(f"n{n}", f"nobody {n}")) for n in range(200)]
    asked.append(asyncio.create_task(claim("mine", "holder")))
    await asyncio.gather(*asked)
    assert order.index("mine") <= 66
    assert len(order) == 203


@pytest.mark.parametrize("waits", [False, True], ids=["begun", "waits for its turn"])
async def test_an_act_that_the_end_of_the_service_cuts_off_is_told_as_unknown(waits: bool) -> None:
    class Hanging(FastPath):
        async def _do(self, *_: Any) -> Reply:
            begun.set()
            await asyncio.sleep(3600)
            raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    begun, nothing = asyncio.Event(), None
    sent: list[Any] = []
    acts = Hanging(nothing, nothing, Access(), Metrics(FAMILIES), 1_000, BodyBudget())  # type: ignore[arg-type]
    before = [asyncio.create_task(acts(act("p", "s"), body, send)) for _ in range(32 * waits)]
    asked = asyncio.create_task(acts(act("p", "s"), body, send))
    await begun.wait()
    asked.cancel()
    await asked
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["outcome"] == "unknown"
    for each in before:
        each.cancel()
    await asyncio.gather(*before)


@pytest.mark.parametrize(
    ("method", "outcome"), [("GET", "not-applied"), ("HEAD", "not-applied"), ("POST", "unknown")]
)
async def test_a_page_that_the_end_of_the_service_cuts_off_is_answered(
    method: str, outcome: str
) -> None:
    begun = asyncio.Event()
    sent: list[Any] = []

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        begun.set()
        await asyncio.sleep(3600)

    async def send(message: Any) -> None:
        sent.append(message)

    wrapped: Any = answered_at_the_end(app)
    asked = asyncio.create_task(wrapped(scope("/p/p/break") | {"method": method}, None, send))
    await begun.wait()
    asked.cancel()
    await asked
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["outcome"] == outcome


async def test_totals_are_added_up_once_for_all_who_ask_at_the_same_time_and_are_new() -> None:
    made = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal made
        made += 1
        await send({"type": "http.response.start", "status": made, "headers": []})

    wrapped: Any = shared(app)

    async def asks() -> int:
        told: list[int] = []

        async def send(message: Any) -> None:
            told.append(message["status"])

        await wrapped(scope("/metrics"), None, send)
        return told[0]

    assert await asyncio.gather(*(asks() for _ in range(50))) == [1] * 50
    assert [await asks(), await asks()] == [2, 3]


async def test_turns_are_given_back_by_who_gives_up() -> None:
    turns = Admission(1, waiting=1)
    await turns.take()
    waits = asyncio.create_task(turns.take())
    await asyncio.sleep(0)
    with pytest.raises(Exception, match="Too many clients read"):
        await turns.take()
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    again = asyncio.create_task(turns.take())
    await asyncio.sleep(0)
    turns.give()
    await asyncio.wait_for(again, 5)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Running]:
    env = {"DIBS_MAX_CONNECTIONS": "40"}
    with Running("--data-dir", str(tmp_path / "d"), env=env) as running:
        yield running


@pytest.mark.long
def test_claims_that_wait_take_a_part_of_the_connections_and_others_hear_at_once(
    small: Running,
) -> None:
    assert small.claim("T-1")[0] == 201
    waiting = [
        threading.Thread(target=small.claim, args=("T-1",), kwargs={"wait": 8}) for _ in range(10)
    ]
    for one in waiting:
        one.start()
    until(lambda: small.metrics()["dibs_streams"] == 10, "ten wait")
    status, told = small.claim("T-1", wait=25)  # a quarter of the 40 already waits
    assert (status, told["code"]) == (409, "held")
    stream = http.client.HTTPConnection("127.0.0.1", small.port, timeout=10)
    stream.request("GET", "/v1/p/events", headers={"Accept": "text/event-stream"})
    assert stream.getresponse().status == 429
    stream.close()
    assert small.ask("POST", "/v1/p/heartbeat", {"task": "T-1"}, new_session())[0] == 409
    for one in waiting:
        one.join(30)


@pytest.mark.long
def test_who_is_being_answered_stays_however_many_come(small: Running) -> None:
    assert small.claim("T-1")[0] == 201
    told: list[int] = []
    waits = threading.Thread(target=lambda: told.append(small.claim("T-1", wait=4)[0]))
    waits.start()
    until(lambda: small.metrics()["dibs_streams"] == 1, "one waits")
    crowd = [socket.create_connection(("127.0.0.1", small.port)) for _ in range(150)]
    for one in crowd:
        one.setblocking(False)
    until(lambda: sum(map(is_closed, crowd)) >= 100, "others made room")
    waits.join(30)
    for one in crowd:
        one.close()
    assert told == [409]


def test_of_many_who_come_in_one_moment_none_is_refused_for_want_of_a_seat(small: Running) -> None:
    """They wait in the listen backlog. The acceptor cannot know whether holders are among them."""
    session = new_session()
    assert small.claim("T-1", session)[0] == 201
    head = f"POST /v1/p/heartbeat HTTP/1.1\r\nHost: x\r\nDibs-Session: {session}\r\n"
    request = f"{head}Connection: close\r\nContent-Length: 0\r\n\r\n".encode()
    os.kill(small.pid, signal.SIGSTOP)
    try:
        crowd = [socket.create_connection(("127.0.0.1", small.port), 30) for _ in range(300)]
        for one in crowd:
            one.sendall(request)
    finally:
        os.kill(small.pid, signal.SIGCONT)
    answers = [one.recv(65536) for one in crowd]
    for one in crowd:
        one.close()
    told = Counter(answer.split(b" ")[1] for answer in answers)
    assert not told.keys() - {b"200", b"429"}, told  # 429: over the session's rate


def test_a_claim_that_waits_for_who_has_hung_up_takes_nothing(small: Running) -> None:
    holder = new_session()
    assert small.claim("T-1", holder)[0] == 201
    body = b'{"task": "T-1", "wait": 25}'
    head = f"POST /v1/p/claim HTTP/1.1\r\nHost: x\r\nDibs-Session: {new_session()}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    waiter = socket.create_connection(("127.0.0.1", small.port))
    waiter.sendall(head.encode() + body)
    until(lambda: small.metrics()["dibs_streams"] == 1, "the claim waits")
    waiter.close()
    until(lambda: small.metrics()["dibs_connections"] <= 1, "the service has seen it go")
    release = {"task": "T-1"}
    assert small.ask("POST", "/v1/p/release", release, holder)[0] == 200
    until(lambda: small.metrics()["dibs_streams"] == 0, "the wait is over")
    assert small.ask("GET", "/v1/p/claims/T-1")[1]["state"] == "free"


def is_closed(one: socket.socket) -> bool:
    """Return whether the service has closed the connection."""
    try:
        return one.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_health_is_asked_of_the_store_a_few_times_a_second_for_everybody(small: Running) -> None:
    import redis

    path = small.flags[1] + "/valkey.sock"
    with redis.Redis(unix_socket_path=path) as store:
        before = int(store.info("stats")["total_commands_processed"])
        for _ in range(150):
            assert small.ask("GET", "/readyz")[0] == 200
        asked = int(store.info("stats")["total_commands_processed"]) - before
    assert asked < 150
