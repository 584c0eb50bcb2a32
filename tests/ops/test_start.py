"""What `dibs serve` says of a store that it cannot stand on, or not any more: one line, no hang."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness import processes
from tests.ops.farm import cluster
from tests.ops.running import DIBS, Running, clean_environ, new_session, until
from tests.ops.test_replicas import over
from tests.tools.servers import KINDS, Server, serving

MOST_S = 15
SECRET = "the-password-of-this-test"
anywhere = pytest.mark.parametrize("kind", KINDS)


def no_start(url: str, *flags: str) -> str:
    """Start dibs over a store that it refuses; return the line in which it says why."""
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
def over_server(server: Server, *flags: str) -> Iterator[Running]:
    """A service over this server, without rates."""
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


@anywhere
def test_a_store_that_begins_to_evict_is_told_and_grants_no_held_task_again(
    kind: str, tmp_path: Path
) -> None:
    config = ("maxmemory 4mb", "rename-command CONFIG operators-config")
    with (
        serving(kind, tmp_path, *config) as server,
        over_server(server, "--workers", "2") as service,
        server.client() as other,
    ):
        ann, bob = new_session(), new_session()
        tasks = [f"T-{number}" for number in range(200)]
        for task in tasks:
            assert service.claim(task, ann, ttl="4h")[0] == 201
        other.execute_command("operators-config", "SET", "maxmemory-policy", "allkeys-lru")
        until(lambda: service.metrics()["dibs_store_unsafe"] == 2, "both workers see it", 5)
        with other.pipeline(transaction=False) as filling:
            for number in range(6_000):
                filling.set(f"other:{number}", "x" * 900)
            filling.execute(raise_on_error=False)
        assert other.info("stats")["evicted_keys"] > 0
        for task in tasks:
            status, body = service.claim(task, bob)
            if status != 409:  # its record is still there
                assert (status, body["outcome"]) == (503, "not-applied")
                assert "allkeys-lru" in body["detail"]
        status, body, _ = service.ask("GET", "/readyz")
        assert status == 503
        assert "noeviction" in body["detail"]
        assert service.ask("POST", "/v1/p/heartbeat", {}, ann)[0] == 200
        assert service.ask("POST", "/v1/p/release", {"all": True}, ann)[0] == 200

        other.flushall()
        other.execute_command("operators-config", "SET", "maxmemory-policy", "noeviction")
        until(lambda: service.metrics()["dibs_store_unsafe"] == 0, "both workers see it", 5)
        assert service.ask("GET", "/readyz")[0] == 200
        assert service.claim("T-new", bob)[0] == 201
        events = [line.split()[2] for line in service.logged]
        assert events.count("store_unsafe") == 2, service.logged
        assert events.count("store_safe_again") == 2, service.logged


def test_every_node_of_a_cluster_is_asked_for_its_policy(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        environ = over("cluster", nodes)
        with Running(env=environ) as service, nodes[2].client() as last:
            last.config_set("maxmemory-policy", "allkeys-lfu")
            until(lambda: service.ask("GET", "/readyz")[0] == 503, "it is seen", 5)
            until(lambda: service.metrics()["dibs_store_unsafe"] == 1, "every look sees it", 5)
            assert service.claim("T-1")[0] == 503
            assert "allkeys-lfu" in no_start(environ["DIBS_REDIS_URL"])
            last.config_set("maxmemory-policy", "noeviction")
            until(lambda: service.claim("T-2")[0] == 201, "it goes on", 5)
