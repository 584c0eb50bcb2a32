"""`dibs serve` on a store it must reject, or that becomes unusable: one line, and no hang."""

import contextlib
import http.client
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import trustme
from tests.harness import processes
from tests.harness.processes import clean_environ, until
from tests.harness.services import DIBS, Running, new_session
from tests.ops.farm import PASSWORD, cluster, free_ports, sentinels
from tests.ops.test_replicas import over
from tests.store.test_rights import documented
from tests.tools.servers import KINDS, StoreServer, serving

MOST_S = 20
ADMIN = "an-admin-key-of-this-test"
SECRET = "the-password-of-this-test"
OUT = {"full": ">/dev/full", "closed": ">&-"}
"""Redirections of stdout, where a start prints its URL."""
anywhere = pytest.mark.parametrize("kind", KINDS)


def no_start(url: str, *flags: str) -> str:
    """Start dibs on a store that it rejects; return the line with the reason."""
    ran = processes.run(
        [*DIBS, "serve", "--port", "0", *flags],
        env=clean_environ({"DIBS_REDIS_URL": url}),
        timeout=MOST_S,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert SECRET not in ran.stdout + ran.stderr
    lines = ran.stderr.splitlines()
    assert len(lines) == 1, ran.stderr
    assert lines[0].startswith("dibs serve: ")
    return lines[0]


@contextlib.contextmanager
def over_server(server: StoreServer, *flags: str) -> Iterator[Running]:
    """Start a service on this server, without rate limits."""
    environ = {
        "DIBS_REDIS_URL": server.url,
        "DIBS_RATE_PER_SESSION": "0",
        "DIBS_RATE_PER_PROJECT": "0",
        "DIBS_MAX_CLAIMS_PER_SESSION": "2000",
    }
    with Running(*flags, env=environ) as service:
        yield service


@anywhere
def test_a_store_that_evicts_and_hides_it_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    hidden = ("maxmemory 4mb", "maxmemory-policy allkeys-lru", 'rename-command CONFIG ""')
    with serving(kind, tmp_path, *hidden) as server:
        assert "allkeys-lru" in no_start(server.url)


@anywhere
def test_a_store_that_shows_no_policy_says_at_start_what_to_set(kind: str, tmp_path: Path) -> None:
    hidden = ('rename-command CONFIG ""', 'rename-command INFO ""')
    with serving(kind, tmp_path, *hidden) as server, over_server(server) as service:
        wanted = "set maxmemory-policy to noeviction"
        until(lambda: any(wanted in line for line in service.said), "it says what to set")
        status, told, _ = service.ask("GET", "/readyz")
        assert (status, told["durability"]) == (200, "unknown")
        assert any(wanted in reason for reason in told["reasons"])


@pytest.mark.long
@anywhere
def test_a_store_that_begins_to_evict_is_told_and_grants_no_held_task_again(
    kind: str, tmp_path: Path
) -> None:
    config = ("maxmemory 4mb", "rename-command CONFIG operators-config")
    with (
        serving(kind, tmp_path, *config) as server,
        over_server(server) as service,
        server.client() as other,
    ):
        ann, bob = new_session(), new_session()
        tasks = [f"T-{number}" for number in range(200)]
        for task in tasks:
            assert service.claim(task, ann, ttl="4h")[0] == 201
        other.execute_command("operators-config", "SET", "maxmemory-policy", "allkeys-lru")
        until(lambda: service.metrics()["dibs_store_unsafe"] == 1, "the policy is noticed", 5)
        with other.pipeline(transaction=False) as filling:
            for number in range(6_000):
                filling.set(f"other:{number}", "x" * 900)
            filling.execute(raise_on_error=False)
        assert other.info("stats")["evicted_keys"] > 0
        for task in tasks:
            status, body = service.claim(task, bob)
            if status != 409:  # 409: the task's record was not evicted
                assert (status, body["outcome"]) == (503, "not-applied")
                assert "allkeys-lru" in body["detail"]
        status, body, _ = service.ask("GET", "/readyz")
        assert status == 503
        assert "noeviction" in body["detail"]
        assert service.ask("POST", "/v1/p/heartbeat", {}, ann)[0] == 200
        assert service.ask("POST", "/v1/p/release", {"all": True}, ann)[0] == 200

        other.flushall()
        other.execute_command("operators-config", "SET", "maxmemory-policy", "noeviction")
        until(lambda: service.metrics()["dibs_store_unsafe"] == 0, "the policy is noticed", 5)
        assert service.ask("GET", "/readyz")[0] == 200
        assert service.claim("T-new", bob)[0] == 201
        events = [line.split()[2] for line in service.logged]
        assert events.count("store_unsafe") == 1, service.logged
        assert events.count("store_safe_again") == 1, service.logged


@pytest.mark.long
def test_every_node_of_a_cluster_is_asked_for_its_policy(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        environ = over("cluster", nodes)
        with Running(env=environ) as service, nodes[2].client() as last:
            last.config_set("maxmemory-policy", "allkeys-lfu")
            until(lambda: service.ask("GET", "/readyz")[0] == 503, "the policy is noticed", 5)
            until(lambda: service.metrics()["dibs_store_unsafe"] == 1, "each check notices it", 5)
            assert service.claim("T-1")[0] == 503
            assert "allkeys-lfu" in no_start(environ["DIBS_REDIS_URL"])
            last.config_set("maxmemory-policy", "noeviction")
            until(lambda: service.claim("T-2")[0] == 201, "claims are granted again", 5)


# Other programs at the store's address, or none.


class Peer:
    """A listener on a loopback port that is not Redis."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self._answer = answer
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(MOST_S)
                self._answer(connection)

    def __enter__(self) -> "Peer":
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(MOST_S + 1)


def says(*words: bytes) -> Callable[[socket.socket], None]:
    """Return a handler that answers with `words` in turn, then repeats the last one."""

    def answer(connection: socket.socket) -> None:
        left = list(words)
        while connection.recv(65_536):
            connection.sendall(left.pop(0) if len(left) > 1 else left[0])

    return answer


def hears(connection: socket.socket) -> None:
    """Read and never answer."""
    while connection.recv(65_536):
        pass


def goes(connection: socket.socket) -> None:
    """Close the connection at once."""


PEERS = {
    "HTTP": (says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), "speaks HTTP"),
    "an alert of TLS": (says(b"\x15\x03\x01\x00\x02\x02\x46"), "speaks TLS"),
    "a banner": (says(b"SSH-2.0-OpenSSH_9.6\r\n"), "is not Redis"),
    "zeros": (says(b"\0" * 200), "is not Redis"),
    "OK to everything": (says(b"+OK\r\n"), "is not Redis"),
    "zero to everything": (says(b":0\r\n"), "is not Redis"),
    "nothing": (hears, "does not answer"),
    "an end": (goes, "rediss://"),
}


@pytest.mark.long
@pytest.mark.parametrize("what", PEERS)
def test_what_is_no_store_is_told_in_one_line(what: str) -> None:
    answer, told = PEERS[what]
    with Peer(answer) as peer:
        line = no_start(f"redis://user:{SECRET}@127.0.0.1:{peer.port}/0")
        assert f"redis://127.0.0.1:{peer.port}: " in line
        assert told in line, line


@pytest.mark.long
@pytest.mark.parametrize("what", ["HTTP", "a banner", "OK to everything", "nothing", "an end"])
def test_what_speaks_no_tls_is_told_in_one_line(what: str) -> None:
    with Peer(PEERS[what][0]) as peer:
        line = no_start(f"rediss://user:{SECRET}@127.0.0.1:{peer.port}/0")
        assert any(
            word in line for word in ("not speak TLS", "does not answer", "ended", "reached")
        ), line


@pytest.mark.long
def test_a_port_with_tls_and_one_without_are_told_apart(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    plain, tls = free_ports(2)
    config = (
        *(f"port {plain}", f"tls-port {tls}", "tls-auth-clients no"),
        *(f"tls-{what}-file {tmp_path}/{what}" for what in ("key", "cert")),
        f"tls-ca-cert-file {tmp_path}/ca",
    )
    with serving("redis", tmp_path, *config):
        assert "begins with redis://" in no_start(f"rediss://127.0.0.1:{plain}/0")
        assert "rediss://" in no_start(f"redis://127.0.0.1:{tls}/0")
        assert "certificate is not trusted" in no_start(f"rediss://127.0.0.1:{tls}/0")
        right = f"rediss://127.0.0.1:{tls}/0?ssl_ca_certs={tmp_path}/ca"
        with Running(env={"DIBS_REDIS_URL": right}) as service:
            assert service.claim("T-1")[0] == 201


@pytest.mark.long
@anywhere
def test_a_login_that_the_store_refuses_is_told_in_one_line(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path, f"requirepass {SECRET}") as server:
        assert "requires a password" in no_start(server.url)
        assert "user or the password" in no_start(server.url_of("", f"not-{SECRET}"))
        assert "user or the password" in no_start(server.url_of("nobody", SECRET))
        assert "no database" in no_start(server.url_of("", SECRET) + "?db=99")
    with serving(kind, tmp_path) as server:
        assert "has no password" in no_start(server.url_of("", SECRET))


@pytest.mark.long
@anywhere
def test_a_store_that_takes_no_writes_is_told_in_one_line(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path, "min-replicas-to-write 1") as server:
        assert "NOREPLICAS" in no_start(server.url)
    with serving(kind, tmp_path, "replicaof 127.0.0.1 1") as server:
        assert "replica" in no_start(server.url)
    with serving(kind, tmp_path, "maxmemory 1") as server:
        assert "is full" in no_start(server.url)
    with serving(kind, tmp_path) as server:
        assert "not a cluster" in no_start(f"redis+cluster://127.0.0.1:{_port_to(server)}")


@pytest.mark.long
def test_a_sentinel_is_not_taken_for_the_store(tmp_path: Path) -> None:
    with sentinels(tmp_path) as (servers, watchers):
        assert "Sentinel" in no_start(f"redis://127.0.0.1:{watchers[0].port}/0")
        login = quote(PASSWORD)
        url = f"redis+sentinel://:{login}@127.0.0.1:{servers[0].port}/claims"
        assert "No Sentinel answers" in no_start(url)


@pytest.mark.long
def test_a_node_of_a_cluster_is_not_taken_for_all_of_it(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        lines = {no_start(f"redis://:{quote(PASSWORD)}@127.0.0.1:{n.port}/0") for n in nodes[:2]}
        assert any("redis+cluster://" in line for line in lines), lines


@anywhere
def test_while_a_store_takes_no_writes_ready_says_what_claims_hear(
    kind: str, tmp_path: Path
) -> None:
    with serving(kind, tmp_path) as server, over_server(server) as service:
        ann, bob = new_session(), new_session()
        assert service.claim("T-1", ann)[0] == 201
        with server.client() as operator:
            operator.config_set("min-replicas-to-write", 1)
            assert service.ask("GET", "/readyz")[0] == 503
            status, body, _ = service.ask("GET", "/readyz")
            assert "NOREPLICAS" in body["detail"]
            beat = service.ask("POST", "/v1/p/heartbeat", {}, ann)
            for status, body in (service.claim("T-2", bob), service.claim("T-1", ann), beat[:2]):
                assert (status, body["code"], body["outcome"]) == (
                    503,
                    "unavailable",
                    "not-applied",
                ), body
                assert "NOREPLICAS" in body["detail"]
            operator.config_set("min-replicas-to-write", 0)
        until(lambda: service.ask("GET", "/readyz")[0] == 200, "the service is ready again", 5)
        assert service.claim("T-2", bob)[0] == 201
        assert not any("Traceback" in line for line in service.logged)


def _port_to(server: StoreServer) -> int:
    """Open a TCP port on a server that has only a socket, and return it."""
    port = free_ports(1)[0]
    with server.client() as operator:
        operator.config_set("port", port)
    return port


@pytest.mark.long
@anywhere
def test_the_documented_rights_are_enough_for_all_that_a_service_does(
    kind: str, tmp_path: Path
) -> None:
    user = f"user dibs on >{SECRET} {documented()}"
    admin = ADMIN
    with serving(kind, tmp_path, user, "appendonly yes", "appendfsync always") as server:
        environ = {"DIBS_REDIS_URL": server.url_of("dibs", SECRET), "DIBS_ADMIN_KEY": admin}
        with Running(env=environ) as service:
            status, told, _ = service.ask("GET", "/readyz")
            assert (status, told["durability"]) == (200, "strict")
            stream = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
            stream.request("GET", "/v1/p/events", headers={"Accept": "text/event-stream"})
            lines = iter(stream.getresponse().readline, b"")
            ann, bob = new_session(), new_session()
            walk_through(service, ann, bob, admin)
            for kind_of_event in ("claimed", "queued", "parked", "broken", "released"):
                assert f"event: {kind_of_event}".encode() in map(bytes.strip, lines)
            stream.close()
            after = service.ask("GET", "/v1/p/events")[1]["events"]
            assert len(after) >= 8
            again = service.ask("GET", f"/v1/p/events?after={after[0]['id']}")[1]["events"]
            assert again == after[1:]
            for page in ("/", "/p/p", "/metrics", "/openapi.json"):
                status, told, _ = service.ask("GET", page, Authorization=f"Bearer {admin}")
                assert status == 200, told
            used = 'dibs_store_memory_bytes{what="used"}'
            until(lambda: service.metrics()[used] > 0, "a sweep has run")
            assert not [line for line in service.logged if " error " in line], service.logged


def walk_through(service: Running, ann: str, bob: str, admin: str) -> None:
    """Make every call of a session and of a person, and every read."""

    def post(act: str, body: dict[str, Any], session: str, expected: int = 200) -> Any:
        status, told, _ = service.ask("POST", f"/v1/p/{act}", body, session)
        assert status == expected, (act, body, told)
        return told

    post("claim", {"task": "T-1", "ttl": 60}, ann, 201)
    post("claim", {"task": "T-1", "queue": True}, bob, 409)
    post("claim", {"any_of": ["T-1", "T-2"]}, bob, 201)
    post("claim", {"all_of": ["T-3", "T-4"]}, ann, 201)
    post("heartbeat", {}, ann)
    post("heartbeat", {"task": "T-3", "state": "parked", "note": "which?"}, ann)
    post("release", {"task": "T-3", "outcome": "done", "pr": "https://example.org/1"}, ann)
    post("claim", {"task": "T-3"}, bob, 409)
    post("claim", {"task": "T-3", "reopen": True}, bob, 201)
    fence = post("claim", {"task": "T-4"}, ann)["fence"]
    broken = {"task": "T-4", "fence": fence, "reason": "stuck"}
    status, told, _ = service.ask("POST", "/v1/p/break", broken, Authorization=f"Bearer {admin}")
    assert status == 200, told
    assert post("heartbeat", {}, ann)["lost"]
    post("release", {"task": "T-1"}, ann)
    post("claim", {"task": "T-1", "wait": 5}, bob, 201)
    assert service.ask("GET", "/v1/p/claims?state=held,done&q=T&limit=2")[0] == 200
    assert service.ask("GET", "/v1/p/claims/T-1?fence=1")[1]["current"] is False


@pytest.mark.long
def test_the_documented_rights_are_enough_for_a_cluster_and_each_that_it_takes_is_named(
    tmp_path: Path,
) -> None:
    needed, better = ("cluster|slots", "cluster|info"), "cluster|nodes"
    with cluster(tmp_path) as nodes:
        url = f"redis+cluster://dibs:{SECRET}@127.0.0.1:{nodes[0].port}"

        def allow(*also: str) -> None:
            words = [f">{SECRET}", *documented().split(), *(f"+{each}" for each in also)]
            for node in nodes:
                with node.client() as operator:
                    operator.execute_command("ACL", "SETUSER", "dibs", "reset", "on", *words)

        for left_out in needed:
            allow(better, *(each for each in needed if each != left_out))
            assert left_out.replace("|", " ").upper() in no_start(url)
        allow(*needed, better)
        with Running(env={"DIBS_REDIS_URL": url, "DIBS_ADMIN_KEY": ADMIN}) as service:
            walk_through(service, new_session(), new_session(), ADMIN)


@pytest.mark.long
@anywhere
def test_another_database_and_replicas_take_rights_of_their_own(kind: str, tmp_path: Path) -> None:
    user = f"user dibs on >{SECRET} {documented()}"
    with serving(kind, tmp_path, user) as server:
        url = server.url_of("dibs", SECRET)
        assert "SELECT" in no_start(f"{url}?db=1")
        assert "WAIT" in no_start(url, "--replicas", "1")


@pytest.mark.parametrize("out", ["full", "closed"])
def test_a_service_starts_though_nobody_can_hear_where_it_is(tmp_path: Path, out: str) -> None:
    (port,) = free_ports(1)
    command = " ".join([*DIBS, f"serve --port {port} --data-dir d", OUT[out]])
    process = processes.start(["sh", "-c", f"exec {command}"], cwd=tmp_path)
    try:

        def answers() -> bool:
            assert process.poll() is None, "the service has ended"
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
            return False

        until(answers, "it serves", 30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        processes.end(process)


@pytest.mark.parametrize("host", ["a..b", "no-such-host.invalid", "x" * 300])
def test_a_host_that_is_none_is_told_in_one_line(tmp_path: Path, host: str) -> None:
    flags = ("--host", host, "--open", "--port", "0", "--data-dir", str(tmp_path / "d"))
    ran = processes.run([*DIBS, "serve", *flags], timeout=30)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1), ran.stderr
    assert ran.stderr.startswith(f"dibs serve: cannot listen on {host} port 0: ")
