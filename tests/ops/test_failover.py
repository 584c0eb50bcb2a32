"""Failovers in which the old primary still answers: which claims they lose, and which not."""

import contextlib
import http.client
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.harness.processes import until
from tests.harness.services import Running, new_session
from tests.ops.farm import Node, cluster, free_ports, sentinels
from tests.ops.steady_load import SteadyLoad
from tests.ops.test_replicas import NO_RATES, PROJECTS, lost_of, lost_ones, over, report
from tests.ops.test_replicas import serving as node_of
from tests.tools.servers import KINDS, serving

LEFT_S = 1.5
"""Seconds after the Sentinels name another primary; a claim requested later must not be lost."""


class Word:
    """Polls the Sentinels; `at` is when the first one named another primary (monotonic seconds)."""

    def __init__(self, watchers: list[Node], old_port: int) -> None:
        self._watchers, self._old = watchers, str(old_port)
        self.at: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> "Word":
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _listen(self) -> None:
        with contextlib.ExitStack() as held:
            clients = [held.enter_context(watcher.client()) for watcher in self._watchers]
            while not self._stop.is_set() and self.at is None:
                if any(self._named(client) != self._old for client in clients):
                    self.at = time.monotonic()
                time.sleep(0.01)

    def _named(self, client: redis.Redis) -> str:
        with contextlib.suppress(redis.RedisError):
            told: Any = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "claims")
            return str(told[1]) if told else self._old
        return self._old


class Stalls:
    """Polls a cheap call of the service; `longest_s` is the longest time it took to answer.

    On a busy machine, a service that gets no processor time does not hear from the Sentinels
    either.
    """

    def __init__(self, service: Running) -> None:
        self._service, self.longest_s = service, 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "Stalls":
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def _ask(self) -> None:
        while not self._stop.wait(0.02):
            asked = time.monotonic()
            self._service.ask("GET", "/livez")
            self.longest_s = max(self.longest_s, time.monotonic() - asked)


def late_losses(service: Running, load: SteadyLoad, word_s: float, stalled_s: float) -> int:
    """Count the lost claims that were requested after the switch, LEFT_S and the longest stall."""
    late = SteadyLoad(load.ports, load.projects)
    late.grants = [grant for grant in load.grants if grant.asked > word_s + LEFT_S + stalled_s]
    assert late.grants, "nothing was granted after the switch: the test proves nothing"
    return lost_of(service, late)


def losses(
    watchers: list[Node], old: Node, fail_over: Callable[[], object], **environ: str
) -> tuple[int, int]:
    """Fail over under load; return the number of lost claims, and of those requested late."""
    with Running(env=over("sentinel", watchers, "/claims") | environ) as service:
        load = SteadyLoad(lambda: [service.port], PROJECTS[:3], threads=8, pause_s=0.0)
        with load, Word(watchers, old.port) as word, Stalls(service) as stalls:
            until(lambda: len(load.grants) > 200, "the load runs", 30)
            fail_over()
            until(lambda: word.at, "the Sentinels name another primary", 30)
            goes_on_after(load, word.at, stalls)
        load.assert_fences_only_grew()
        assert word.at
        # A fresh service asks the new primary; the service under test may still use the old one.
        with Running(env=over("sentinel", watchers, "/claims")) as fresh:
            late = late_losses(fresh, load, word.at, stalls.longest_s)
            lost = lost_of(fresh, load)
            hear_that_they_lost(fresh, load)
        report(f"a failover that the old primary lives through {environ}", load, lost, 0.0)
        return lost, late


def goes_on_after(load: SteadyLoad, word_s: float | None, stalls: Stalls) -> None:
    """Wait for grants of claims requested after the latest moment at which the switch may end."""
    assert word_s

    def late() -> int:
        over_s = word_s + LEFT_S + stalls.longest_s
        return sum(grant.asked > over_s for grant in load.grants[-1000:])

    until(lambda: late() > 100, "the load goes on after the switch", 60)


def hear_that_they_lost(service: Running, load: SteadyLoad) -> None:
    """Assert that the holder of a lost claim gets `lost` with the reason `forgotten`."""
    for grant in lost_ones(service, load)[:300]:
        body = {"task": grant.task, "fence": grant.fence}
        for act in ("heartbeat", "release"):
            path = f"/v1/{grant.project}/{act}"
            status, told, _ = service.ask("POST", path, body, grant.session)
            assert (status, told["code"]) == (409, "lost"), told
            assert told["reason"] == "forgotten"


def told_to_fail_over(watcher: Node) -> None:
    """Make a Sentinel promote the replica although the primary is healthy."""
    with watcher.client() as client:
        client.execute_command("SENTINEL", "FAILOVER", "claims")


@pytest.mark.long
def test_a_primary_that_sentinel_replaced_is_left_although_it_still_answers(
    tmp_path: Path,
) -> None:
    with sentinels(tmp_path) as (servers, watchers):
        _, late = losses(watchers, servers[0], lambda: told_to_fail_over(watchers[0]))
        assert late == 0


def test_a_failover_takes_nothing_that_a_replica_had_to_have(tmp_path: Path) -> None:
    with sentinels(tmp_path) as (servers, watchers):
        order = partial(told_to_fail_over, watchers[0])
        assert losses(watchers, servers[0], order, DIBS_REPLICAS="1") == (0, 0)


@pytest.mark.long
def test_a_primary_that_only_the_sentinels_lost_sight_of_is_left(tmp_path: Path) -> None:
    with sentinels(tmp_path) as (servers, watchers):
        _, late = losses(watchers, servers[0], lambda: shut_out_sentinels(servers[0]))
        assert late == 0


def shut_out_sentinels(primary: Node) -> None:
    """Change the password so that the Sentinels are locked out; dibs' open connections stay."""
    with primary.client() as client:
        mine = client.client_id()
        client.execute_command("CONFIG", "SET", "requirepass", "another")
        for row in client.client_list():
            watching = row["cmd"] in ("ping", "publish", "subscribe", "info", "client|setname")
            if watching and int(row["id"]) != mine:
                client.execute_command("CLIENT", "KILL", "ID", row["id"])


@pytest.mark.long
@pytest.mark.parametrize("old", ["answers", "hangs"])
def test_a_reader_of_events_follows_to_the_new_primary(tmp_path: Path, old: str) -> None:
    with sentinels(tmp_path) as (servers, watchers):
        with Running(env=over("sentinel", watchers, "/claims")) as service:
            seen: list[str] = []
            ended = threading.Event()
            reader = threading.Thread(target=follow, args=(service, "p", seen, ended))
            reader.start()
            until(lambda: "open" in seen, "the reader listens")
            assert service.claim("before")[0] == 201
            until(lambda: "claimed" in seen, "the reader gets the event")
            if old == "hangs":
                servers[0].process.send_signal(signal.SIGSTOP)
            else:
                told_to_fail_over(watchers[0])
            until(lambda: primary(servers[1]), "the replica is promoted", 30)
            until(lambda: granted_at(servers[1], service), "claims go on", 30)
            heard = len(seen)
            assert service.claim("after")[0] == 201
            # A read that stays with the old primary waits ten seconds, or twenty if that primary
            # hangs.
            until(lambda: len(seen) > heard, "the reader gets the event", 8)
            ended.set()
        reader.join(20)


def granted_at(node: Node, service: Running) -> bool:
    """Claim a task; return whether `node` has it."""
    task = f"T-{new_session()}"
    with node.client() as client:
        return service.claim(task)[0] == 201 and bool(client.exists(f"dibs:{{p}}:task:{task}"))


def follow(service: Running, project: str, seen: list[str], ended: threading.Event) -> None:
    """Append the type of each event of a project to `seen`."""

    stream = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    with contextlib.closing(stream), contextlib.suppress(OSError, http.client.HTTPException):
        stream.request("GET", f"/v1/{project}/events", headers={"Accept": "text/event-stream"})
        reply = stream.getresponse()
        while not ended.is_set() and (line := reply.readline()):
            kind, _, value = line.decode().strip().partition(": ")
            if kind == "event":
                seen.append(value)


@pytest.mark.long
def test_a_grant_that_no_replica_confirms_is_unknown_and_granted_once_they_do(
    tmp_path: Path,
) -> None:
    with sentinels(tmp_path) as (servers, watchers):
        environ = over("sentinel", watchers, "/claims") | {"DIBS_REPLICAS": "1"}
        with Running(env=environ) as service:
            session = new_session()
            status, first = service.claim("T-1", session)
            assert status == 201
            until(lambda: durability(service) == "replicated", "/readyz says replicated")
            with servers[0].client() as client, servers[1].client() as replica:
                # The replica stays connected but applies nothing more.
                replica.execute_command("CLIENT", "PAUSE", 1, "WRITE")
                servers[1].process.send_signal(signal.SIGSTOP)
                try:
                    status, body = service.claim("T-2", session)
                    assert (status, body["code"], body["outcome"]) == (
                        503,
                        "unavailable",
                        "unknown",
                    ), body
                    assert service.claim("T-1")[0] == 409, "a refusal waits for no replica"
                    beat = {"task": "T-1", "fence": first["fence"]}
                    asked = time.monotonic()
                    assert service.ask("POST", "/v1/p/heartbeat", beat, session)[0] == 200
                    assert time.monotonic() - asked < 1.0, "a heartbeat waits for no replica"
                    until(lambda: durability(service) == "relaxed", "/readyz says relaxed", 20)
                finally:
                    servers[1].process.send_signal(signal.SIGCONT)
                until(lambda: service.claim("T-2", session)[0] in (200, 201), "T-2 is granted", 20)
                assert service.claim("T-2", session)[0] == 200
                until(lambda: durability(service) == "replicated", "/readyz says replicated again")
                assert client.ping()


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_an_end_that_no_replica_has_is_not_confirmed_by_asking_again(
    tmp_path: Path, kind: str
) -> None:
    with contextlib.ExitStack() as held:
        ports = free_ports(2)
        log = ("appendonly yes", "appendfsync always", "repl-diskless-sync-delay 0")
        primary, replica = (
            held.enter_context(serving(kind, tmp_path / name, f"port {port}", *log, *more))
            for name, port, more in (
                ("primary", ports[0], ()),
                ("replica", ports[1], (f"replicaof 127.0.0.1 {ports[0]}",)),
            )
        )
        client = held.enter_context(primary.client())
        environ = NO_RATES | {"DIBS_REDIS_URL": f"redis://127.0.0.1:{ports[0]}"}
        environ |= {"DIBS_REPLICAS": "1", "DIBS_ADMIN_KEY": "admin-key-for-this-test"}
        service = held.enter_context(Running(env=environ))
        ann, bob, cat = new_session(), new_session(), new_session()
        whose = (("T-1", ann), ("T-2", bob), ("T-3", cat))
        until(lambda: service.claim("T-1", ann)[0] in (200, 201), "the replica confirms", 20)
        fences = {task: service.claim(task, session)[1]["fence"] for task, session in whose}
        admin = {"Authorization": "Bearer admin-key-for-this-test"}
        acts: list[tuple[str, dict[str, Any], str, dict[str, str]]] = [
            ("release", {"task": "T-1", "fence": fences["T-1"]}, ann, {}),
            ("release", {"all": True}, bob, {}),
            ("break", {"task": "T-3", "fence": fences["T-3"], "reason": "stuck"}, "", admin),
        ]

        def ends() -> list[tuple[int, Any]]:
            """End each of the three claims in a different way."""
            replies = [
                service.ask("POST", f"/v1/p/{act}", body, session, **headers)
                for act, body, session, headers in acts
            ]
            return [(status, body) for status, body, _ in replies]

        replica.process.send_signal(signal.SIGSTOP)
        try:
            for status, body in ends():
                assert (status, body["outcome"]) == (503, "unknown"), body
            # On a new connection, WAIT ignores earlier writes on some servers.
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            for status, body in ends():
                assert (status, body["outcome"]) == (503, "unknown"), body
        finally:
            replica.process.send_signal(signal.SIGCONT)
        until(lambda: all(status == 200 for status, _ in ends()), "the ends are confirmed", 20)
        released, all_released, broken = (body for _, body in ends())
        assert (released["already"], broken["already"]) == (True, True)
        assert all_released == {"released": []}


def durability(service: Running) -> Any:
    return service.ask("GET", "/readyz")[1]["durability"]


@pytest.mark.long
@pytest.mark.parametrize("one_way_ms", [10, 50])
def test_a_host_that_is_gone_takes_nothing_that_a_replica_had_to_have(
    tmp_path: Path, one_way_ms: int
) -> None:
    """The primary's host is gone, with all bytes that were in transit to the replica."""
    with sentinels(tmp_path, replica_behind_s=one_way_ms / 1000) as (servers, watchers):
        wire = servers[1].wire
        assert wire
        environ = over("sentinel", watchers, "/claims") | {"DIBS_REPLICAS": "1"}
        with Running(env=environ) as service:
            load = SteadyLoad(lambda: [service.port], PROJECTS[:3], threads=8, pause_s=0.0)
            with load:
                until(lambda: len(load.grants) > 100, "the load runs", 30)
                wire.cut()
                servers[0].kill()
                until(lambda: primary(servers[1]), "the replica is promoted", 30)
                # Without a replica no write can be confirmed, so the service grants nothing.
                servers[0].start()
                count = len(load.grants)
                until(lambda: len(load.grants) > count + 100, "the load goes on", 60)
            load.assert_fences_only_grew()
            lost = lost_of(service, load)
            report(f"host gone, {one_way_ms} ms, DIBS_REPLICAS=1", load, lost, 0.0)
            assert lost == 0


def test_a_node_of_a_cluster_that_was_replaced_is_left(tmp_path: Path) -> None:
    with cluster(tmp_path, replicas=1) as nodes, Running(env=over("cluster", nodes)) as service:
        project = PROJECTS[0]
        old = node_of(nodes, project)
        load = SteadyLoad(lambda: [service.port], [project], threads=4, pause_s=0.0)
        with load, Stalls(service) as stalls:
            until(lambda: len(load.grants) > 100, "the load runs", 30)
            replica = next(node for node in nodes[3:] if follows(node, old))
            with replica.client() as client:
                client.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
            taken = time.monotonic()
            until(lambda: demoted(old), "the old primary is a replica", 30)
            goes_on_after(load, taken, stalls)
        load.assert_fences_only_grew()
        with Running(env=over("cluster", nodes)) as fresh:
            report("taken over", load, lost_of(fresh, load), 0.0)
            assert late_losses(fresh, load, taken, stalls.longest_s) == 0


def demoted(node: Node) -> bool:
    with node.client() as client, contextlib.suppress(redis.RedisError):
        return client.info("replication")["role"] == "slave"
    return False


def primary(node: Node) -> bool:
    with node.client() as client:
        return client.info("replication")["role"] == "master"


def follows(replica: Node, node: Node) -> bool:
    with replica.client() as client:
        return int(client.info("replication")["master_port"]) == node.port
