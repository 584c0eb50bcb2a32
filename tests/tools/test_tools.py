"""The tools that other tests rely on work as described."""

import http.client
import importlib.metadata
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import redis
from tests.tools.clock import SteppedClock
from tests.tools.faultproxy import FAULTS, FaultProxy

from dibs.store.local import programs
from dibs.store.local.embedded import EmbeddedStore

pytestmark = pytest.mark.long

# The clock


@pytest.fixture
def clock(tmp_path: Path) -> SteppedClock:
    return SteppedClock(tmp_path / "clock")


@pytest.fixture(params=["wheel", "path"])
def store(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    clock: SteppedClock,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[redis.Redis]:
    if request.param == "path":
        monkeypatch.setattr(importlib.metadata, "files", lambda _name: None)
        if not any(True for _ in programs.servers()):
            pytest.skip("no valkey-server or redis-server on the PATH")
    started = EmbeddedStore.start(tmp_path / "data", env=clock.env)
    try:
        with redis.Redis.from_url(started.url, decode_responses=True) as client:
            yield client
    finally:
        started.stop()


def script_time(store: redis.Redis) -> float:
    """Return the time as a script reads it."""
    seconds, micros = store.eval("return redis.call('TIME')", 0)
    return int(seconds) + int(micros) / 1e6


def test_an_untouched_clock_is_the_real_one(store: redis.Redis) -> None:
    before = time.time()
    assert before - 0.001 <= script_time(store) <= time.time() + 0.001


@pytest.mark.parametrize("by_s", [1, 0.4, 86_400 * 400, -1, -0.4, -1.6, -86_400 * 400])
def test_a_step_is_seen_by_the_very_next_script(
    store: redis.Redis, clock: SteppedClock, by_s: float
) -> None:
    script_time(store)
    for _ in range(50):
        clock.step(by_s / 50)
        before = time.time() + clock.offset_s
        assert before - 0.001 <= script_time(store) <= time.time() + clock.offset_s + 0.001
    assert clock.offset_s == pytest.approx(by_s)


def test_time_passes_forward_only(clock: SteppedClock) -> None:
    with pytest.raises(AssertionError, match="forward"):
        clock.advance(-1)


def test_a_key_with_an_expiry_goes_when_the_clock_passes_it(
    store: redis.Redis, clock: SteppedClock
) -> None:
    store.set("key", "value", ex=3600)
    clock.advance(3599)
    assert store.exists("key")
    clock.advance(1.001)
    assert not store.exists("key")


def test_a_frozen_clock_moves_only_when_stepped(store: redis.Redis, clock: SteppedClock) -> None:
    for by_s in (0, 0.01, -0.01):
        clock.freeze()
        clock.step(by_s)
        for _ in range(20):
            assert script_time(store) == pytest.approx(clock.now_us / 1e6, abs=1e-6)


@pytest.mark.parametrize("by_s", [7200, -7200])
def test_the_stores_timers_keep_firing_after_a_step(
    store: redis.Redis, clock: SteppedClock, by_s: float
) -> None:
    clock.step(by_s)
    store.set("key", "value", px=50)
    deadline = time.monotonic() + 5
    while store.info("stats")["expired_keys"] == 0:  # only the periodic sweep can have counted it
        assert time.monotonic() < deadline, "the store's periodic work has stopped"
        time.sleep(0.01)


# The proxy


class CountingService(BaseHTTPRequestHandler):
    """Counts the requests that reach it, and answers with their bodies."""

    heard: Counter[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).heard[body] += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


Listening = tuple[tuple[str, int], Counter[bytes]]
"""The address of the service, and the bodies that it received."""


@pytest.fixture
def service() -> Iterator[Listening]:
    heard: Counter[bytes] = Counter()
    handler = type("Handler", (CountingService,), {"heard": heard})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield ("127.0.0.1", server.server_port), heard
        server.shutdown()
        thread.join()


def post(proxy: FaultProxy, body: bytes) -> bytes | Exception:
    """Return the reply, or the error that the client got instead."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5)
    try:
        connection.request("POST", "/", body)
        with connection.getresponse() as response:
            return response.read()
    except (OSError, http.client.HTTPException) as error:
        return error
    finally:
        connection.close()


CASES: list[tuple[str | None, object, int]] = [
    (None, b"x" * 5000, 1),
    ("delay", b"x" * 5000, 1),
    ("duplicate", b"x" * 5000, 2),
    ("drop_request", http.client.RemoteDisconnected, 0),
    ("drop_reply", http.client.RemoteDisconnected, 1),
    ("reset", ConnectionResetError, 1),
]


@pytest.mark.parametrize(("fault", "expected", "heard"), CASES)
def test_each_fault_is_what_it_says(
    service: Listening, fault: str | None, expected: object, heard: int
) -> None:
    address, requests = service
    body = b"x" * 5000
    with FaultProxy(address, seed=1, odds={fault: 1} if fault else {}) as proxy:
        got = post(proxy, body)
    assert got == expected if isinstance(expected, bytes) else type(got) is expected
    assert requests[body] == heard
    assert proxy.met == {fault or "pass": 1}


def test_every_fault_is_tested_here() -> None:
    assert {case[0] for case in CASES} == {None, *FAULTS}


def test_the_same_seed_treats_the_same_requests_alike_in_any_order(service: Listening) -> None:
    address, _requests = service
    bodies = [b"request %d" % (number % 40) for number in range(120)]

    def run(seed: int, bodies: list[bytes]) -> Counter[str]:
        odds = {"drop_request": 0.3, "drop_reply": 0.3, "duplicate": 0.2}
        with FaultProxy(address, seed=seed, odds=odds) as proxy, ThreadPoolExecutor(8) as clients:
            list(clients.map(lambda body: post(proxy, body), bodies))
        proxy.assert_every_fault_met_traffic(10)
        return proxy.met

    assert run(1, bodies) == run(1, bodies[::-1])
    assert run(1, bodies) != run(2, bodies)


def test_a_run_without_its_faults_does_not_pass(service: Listening) -> None:
    address, _requests = service
    with FaultProxy(address, seed=3, odds={"drop_reply": 1e-9}) as proxy:
        assert post(proxy, b"once") == b"once"
    with pytest.raises(AssertionError, match=r"seed 3: \['drop_reply'\]"):
        proxy.assert_every_fault_met_traffic()


def test_a_service_that_is_down_is_a_closed_connection(service: Listening) -> None:
    with FaultProxy(("127.0.0.1", 1), seed=1, odds={}) as proxy:
        assert type(post(proxy, b"hello")) is http.client.RemoteDisconnected
    assert proxy.met["no_service"] == 1


def test_a_proxy_can_be_left_with_requests_under_way(service: Listening) -> None:
    address, requests = service
    with FaultProxy(address, seed=1, odds={"delay": 1}, max_delay_s=1e6) as proxy:
        client = threading.Thread(target=post, args=(proxy, b"waiting"))
        client.start()
        deadline = time.monotonic() + 5
        while not proxy.met["delay"]:
            assert time.monotonic() < deadline, "the request has not reached the proxy"
            time.sleep(0.01)
    client.join(5)
    assert not client.is_alive()
    assert not requests
