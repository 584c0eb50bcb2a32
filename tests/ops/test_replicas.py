"""Several services over one replicated store: a cluster, or a primary under Sentinels."""

import http.client
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from redis.crc import key_slot
from tests.harness import acting
from tests.harness.processes import until
from tests.harness.services import Running, new_session
from tests.ops.farm import PASSWORD, Node, cluster, sentinels
from tests.ops.steady_load import Grant, SteadyLoad

from dibs.model import Project, Session, Task
from dibs.results import Granted
from dibs.store import Rules, Store
from dibs.store.clock import ClockReading
from dibs.store.local.embedded import EmbeddedStore
from dibs.store.redis.link import PipelineLink

PROJECTS = [f"team.repo{number}" for number in range(9)]
NO_RATES = dict.fromkeys(
    ("DIBS_RATE_PER_SESSION", "DIBS_RATE_PER_PROJECT", "DIBS_READS_PER_PROJECT"), "0"
)


def over(kind: str, nodes: Sequence[Node], service: str = "") -> dict[str, str]:
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    return NO_RATES | {"DIBS_REDIS_URL": f"redis+{kind}://:{quote(PASSWORD)}@{hosts}{service}"}


def serving(nodes: Sequence[Node], project: str) -> Node:
    """Return the primary that serves this project's slot."""
    with nodes[0].client() as client:
        slots = client.execute_command("CLUSTER SLOTS")
    for start, end, primary, *_ in slots:
        if start <= key_slot(f"dibs:{{{project}}}".encode()) <= end:
            return next(node for node in nodes if node.port == primary[1])
    raise AssertionError(f"no node serves {project}")


def lost_of(service: Running, load: SteadyLoad) -> int:
    """Return the number of acknowledged, unreleased claims that the store does not have."""
    return len(lost_ones(service, load))


def lost_ones(service: Running, load: SteadyLoad) -> list[Grant]:
    """Return the acknowledged, unreleased claims that the store does not have."""
    lost = []
    for grant in [grant for grant in load.grants if grant.kept]:
        path = f"/v1/{grant.project}/claims/{grant.task}?fence={grant.fence}"
        status, body, _ = service.ask("GET", path)
        assert status == 200, body
        if not body["current"]:
            lost.append(grant)
    return lost


def _takes_claims(service: Running, project: str) -> bool:
    return service.claim("again", project=project)[0] in (201, 409)


def goes_on(service: Running, projects: list[str]) -> None:
    """Wait until every project accepts claims again."""
    for project in projects:
        until(
            partial(_takes_claims, service, project),
            f"{project} takes claims again",
            30,
        )


@pytest.mark.long
def test_two_services_over_a_cluster_have_one_winner_for_each_task(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        environ = over("cluster", nodes[:2])
        with Running(env=environ) as one, Running(env=environ) as two:
            assert len({serving(nodes, project).port for project in PROJECTS}) == 3
            for project in PROJECTS:
                outcomes = [
                    service.claim(task, project=project)[0]
                    for task in ("T-1", "T-2")
                    for service in (one, two, two)
                ]
                assert sorted(outcomes) == [201, 201, 409, 409, 409, 409], project
            status, told, _ = two.ask("GET", "/readyz")
            assert (status, told["durability"]) == (200, "relaxed")
            assert told["server"].startswith("3 × ")
            assert any("cluster" in reason for reason in told["reasons"])


@pytest.mark.long
def test_events_reach_listeners_from_every_node_of_a_cluster(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes, Running(env=over("cluster", nodes)) as service:
        for project in PROJECTS[:4]:
            stream = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
            stream.request("GET", f"/v1/{project}/events", headers={"Accept": "text/event-stream"})
            reply = stream.getresponse()
            assert service.claim("T-1", project=project)[0] == 201
            lines = map(bytes.decode, iter(reply.readline, b""))
            assert any(line.strip() == "event: claimed" for line in lines), project
            stream.close()


@pytest.mark.long
def test_a_project_on_the_move_between_nodes_is_refused_not_granted_twice(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes, Running(env=over("cluster", nodes)) as service:
        project, session = PROJECTS[0], new_session()
        fence = service.claim("T-1", session, project)[1]["fence"]
        source = serving(nodes, project)
        target = next(node for node in nodes if node is not source)
        slot = key_slot(f"dibs:{{{project}}}".encode())
        with source.client() as here, target.client() as there:
            ids = [client.execute_command("CLUSTER MYID") for client in (here, there)]
            there.execute_command(f"CLUSTER SETSLOT {slot} IMPORTING {ids[0]}")
            here.execute_command(f"CLUSTER SETSLOT {slot} MIGRATING {ids[1]}")
            status, body = service.claim("T-1", project=project)
            assert (status, body["code"]) == (503, "unavailable"), body
            assert body["outcome"] == "not-applied"
            keys = here.execute_command(f"CLUSTER GETKEYSINSLOT {slot} 1000")
            here.execute_command(
                *("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "AUTH", PASSWORD),
                *("KEYS", *keys),
            )
            for node in nodes:
                with node.client() as client:
                    client.execute_command(f"CLUSTER SETSLOT {slot} NODE {ids[1]}")
        until(lambda: service.claim("T-1", session, project)[0] == 200, "the slot is served again")
        assert service.claim("T-1", session, project)[1]["fence"] == fence
        assert service.claim("T-1", project=project)[0] == 409


@pytest.mark.long
def test_an_outage_of_one_node_of_a_cluster_does_not_count_for_its_claims(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes, Running(env=over("cluster", nodes)) as service:
        claims = {project: new_session() for project in PROJECTS[:3]}
        for project, session in claims.items():
            assert service.claim("T-1", session, project, ttl=10)[0] == 201
        project = PROJECTS[0]
        path = f"/v1/{project}/claims/T-1"
        until(lambda: service.ask("GET", path)[1]["expires_in"] <= 4, "most of the ttl is over")
        node = serving(nodes, project)
        node.kill()
        until(lambda: service.claim("T-2", project=project)[0] == 503, "the outage is noticed")
        node.start()
        until(lambda: service.ask("GET", path)[0] == 200, "the store is back", 30)
        for project in claims:
            shown = service.ask("GET", f"/v1/{project}/claims/T-1")[1]
            assert shown["state"] == "held"
            assert shown["expires_in"] >= 9, "each live claim has at least one more ttl"
            assert service.claim("T-1", project=project)[0] == 409


@pytest.mark.long
def test_fences_never_repeat_when_a_primary_of_a_cluster_is_killed(tmp_path: Path) -> None:
    with cluster(tmp_path, replicas=1) as nodes:
        environ = over("cluster", nodes)
        with Running(env=environ) as one, Running(env=environ) as two:
            ports = [one.port, two.port]
            with SteadyLoad(lambda: ports, PROJECTS) as load:
                until(lambda: len(load.grants) > 200, "the load runs")
                victim = serving(nodes, PROJECTS[0])
                victim.kill()
                began = time.monotonic()
                goes_on(one, PROJECTS)
                away_s = time.monotonic() - began
                count = len(load.grants)
                until(lambda: len(load.grants) > count + 200, "the load goes on", 30)
            load.assert_fences_only_grew()
            lost = lost_of(one, load)
            report("cluster", load, lost, away_s)
            assert serving([n for n in nodes if n is not victim], PROJECTS[0]) is not victim
            assert lost <= len(load.grants) // 10, "replication loses a tail, not more"


@pytest.mark.long
def test_fences_never_repeat_when_sentinel_promotes_a_replica(tmp_path: Path) -> None:
    with sentinels(tmp_path) as (servers, watchers):
        environ = over("sentinel", watchers, "/claims")
        with Running(env=environ) as one, Running(env=environ) as two:
            ports = [one.port, two.port]
            with SteadyLoad(lambda: ports, PROJECTS[:3]) as load:
                until(lambda: len(load.grants) > 200, "the load runs")
                servers[0].kill()
                began = time.monotonic()
                goes_on(one, PROJECTS[:3])
                away_s = time.monotonic() - began
                count = len(load.grants)
                until(lambda: len(load.grants) > count + 200, "the load goes on", 30)
            with servers[1].client() as client:
                assert client.info("replication")["role"] == "master"
            load.assert_fences_only_grew()
            lost = lost_of(one, load)
            report("sentinel", load, lost, away_s)
            assert lost <= len(load.grants) // 10, "replication loses a tail, not more"


def report(what: str, load: SteadyLoad, lost: int, away_s: float) -> None:
    """Print the measurements; `pytest -s` shows them."""
    print(
        f"\n{what}: {len(load.grants)} grants, {lost} acknowledged claims lost, "
        f"{away_s:.1f} s down; {dict(load.answers)} {dict(load.unanswered)}"
    )


async def test_a_promoted_replica_with_a_slow_clock_gives_no_fence_from_the_past(
    tmp_path: Path,
) -> None:
    started = EmbeddedStore.start(tmp_path / "d")
    store = Store(PipelineLink.to(started.url), Rules())
    try:
        await store.open()
        seen = store.clock.reading
        ahead_us = seen.observed_us + 3_000_000  # the last clock reading of the old primary
        store.clock.reading = ClockReading(ahead_us, seen.lost_us, seen.stalls)
        granted = await acting.claim(store, Project("p"), Session(new_session()), [Task("T-1")])
        assert isinstance(granted, Granted)
        assert granted.claims[0].fence >= ahead_us
    finally:
        await store.close()
        started.stop()
