"""Metrics, logs and the dashboard are correct; alerts and dashboard use only names that exist."""

import json
import logging
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.harness.processes import until
from tests.harness.services import Running, new_session

from dibs.api.telemetry import FAMILIES
from dibs.logs import Json, Text

ROOT = Path(__file__).parents[2]
ADMIN = "an-admin-key-of-this-test"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    environ = {"DIBS_ADMIN_KEY": ADMIN, "DIBS_MIN_TTL": "1s", "DIBS_LOG_LEVEL": "debug"}
    data = str(tmp_path / "d")
    with Running("--data-dir", data, env=environ) as running:
        yield running


def test_each_act_is_counted_by_what_came_of_it(service: Running) -> None:
    ann, bob = new_session(), new_session()
    fence = service.claim("T-1", ann)[1]["fence"]
    service.claim("T-1", ann)
    service.claim("T-1", bob)
    service.claim("", bob)
    beat = {"task": "T-1"}
    service.ask("POST", "/v1/p/heartbeat", beat, ann)
    service.ask("POST", "/v1/p/heartbeat", beat, bob)
    service.ask("GET", "/v1/p/claims")
    service.ask("GET", "/v1/p/claims/T-1")
    service.ask("POST", "/v1/p/release", {"task": "T-1", "fence": fence, "outcome": "done"}, ann)
    service.claim("T-1", bob)
    expected = {
        'dibs_acts_total{act="claim",outcome="granted"}': 1,
        'dibs_acts_total{act="claim",outcome="ok"}': 1,
        'dibs_acts_total{act="claim",outcome="held"}': 1,
        'dibs_acts_total{act="claim",outcome="invalid"}': 1,
        'dibs_acts_total{act="claim",outcome="done"}': 1,
        'dibs_acts_total{act="heartbeat",outcome="ok"}': 1,
        'dibs_acts_total{act="heartbeat",outcome="not-holder"}': 1,
        'dibs_acts_total{act="list",outcome="ok"}': 1,
        'dibs_acts_total{act="show",outcome="ok"}': 1,
        'dibs_acts_total{act="release",outcome="ok"}': 1,
    }

    def counted() -> dict[str, float]:
        found = service.metrics().items()  # the service counts an answer after sending it
        return {name: value for name, value in found if "acts_total" in name and value}

    until(lambda: counted() == expected, f"the counts are {expected}")


def test_a_shared_answer_about_health_counts_for_each_who_asked(service: Running) -> None:
    def asked(route: str) -> float:
        return service.metrics()[f'dibs_request_seconds_count{{route="{route}"}}']

    before, others = asked("health"), asked("other")
    for _ in range(5):
        service.ask("GET", "/livez")
    until(lambda: asked("health") >= before + 5, "each is counted as health")
    assert asked("other") == others


@pytest.mark.long
def test_what_is_held_parked_lapsed_done_and_queued_is_shown_once(service: Running) -> None:
    used = 'dibs_store_memory_bytes{what="used"}'
    until(lambda: service.metrics()[used], "a sweep of this service has run")
    ann, bob = new_session(), new_session()
    for project in ("p", "q"):
        service.claim("held", ann, project)
        service.claim("parked", ann, project)
        service.ask("POST", f"/v1/{project}/heartbeat", {"task": "parked", "state": "parked"}, ann)
        service.claim("short", new_session(), project, ttl=1)
        service.claim("end", ann, project)
        service.ask("POST", f"/v1/{project}/release", {"task": "end", "outcome": "done"}, ann)
        service.claim("held", bob, project, queue=True)
    service.ask("POST", "/v1/p/claim", {"task": "broken"}, ann)
    fence = service.ask("GET", "/v1/p/claims/broken")[1]["fence"]
    broken = {"task": "broken", "fence": fence, "reason": "stuck"}
    assert service.ask("POST", "/v1/p/break", broken, Authorization=f"Bearer {ADMIN}")[0] == 200
    expected = {
        'dibs_claims{state="held"}': 2,
        'dibs_claims{state="parked"}': 2,
        'dibs_claims{state="lapsed"}': 2,
        'dibs_claims{state="done"}': 2,
        "dibs_queue_tickets": 2,
        "dibs_projects": 2,
        "dibs_lapses_total": 2,
        "dibs_breaks_total": 1,
    }

    def shown() -> dict[str, float]:
        metrics = service.metrics()
        return {name: metrics[name] for name in expected}

    until(lambda: shown() == expected, f"the sweep shows {expected}")
    service.ask("POST", "/v1/p/heartbeat", {"task": "parked", "state": "working"}, ann)
    service.ask("POST", "/v1/q/release", {"task": "parked"}, ann)
    service.ask("POST", "/v1/p/release", {"task": "held"}, bob)
    expected |= {
        'dibs_claims{state="held"}': 3,
        'dibs_claims{state="parked"}': 0,
        "dibs_queue_tickets": 1,
    }
    until(lambda: shown() == expected, f"the sweep shows {expected}")


@pytest.mark.long
def test_an_outage_is_one_line_and_one_count(tmp_path: Path) -> None:
    with Running("--data-dir", str(tmp_path / "d")) as owner:
        env = {"DIBS_REDIS_URL": f"unix://{tmp_path}/d/valkey.sock", "DIBS_LOG_FORMAT": "json"}
        with Running(env=env) as service:
            assert service.metrics()["dibs_store_up"] == 1
            store = owner.store()
            os.kill(store, signal.SIGSTOP)
            until(lambda: service.metrics()["dibs_store_up"] == 0, "the outage is noticed")
            for _ in range(3):
                assert service.claim("T-1")[0] == 503
            os.kill(store, signal.SIGCONT)
            until(lambda: service.metrics()["dibs_store_up"] == 1, "the store is back")
            metrics = service.metrics()
            assert metrics["dibs_store_outages_total"] == 1
            assert metrics['dibs_acts_total{act="claim",outcome="unavailable"}'] == 3
            lines = [json.loads(line) for line in service.logged]
            events = [(line["level"], line["event"]) for line in lines]
            assert events.count(("error", "store_unreachable")) == 1
            assert events.count(("warning", "store_back")) == 1
            assert any("does not answer" in line.get("reason", "") for line in lines)


@pytest.mark.long
def test_a_damaged_clock_is_counted_once_and_is_no_outage(tmp_path: Path) -> None:
    with Running("--data-dir", str(tmp_path / "d")) as service:
        with redis.Redis(unix_socket_path=str(tmp_path / "d/valkey.sock")) as store:
            store.hset("dibs:clock", "lost", "a word")
        counted = 'dibs_time_lost_total{why="damaged"}'
        until(lambda: service.metrics()[counted] == 1, "the damage is counted")
        assert any("time_lost why=damaged" in line for line in service.logged)
        assert not any("maintenance_failed" in line for line in service.logged)
        assert service.metrics()["dibs_store_outages_total"] == 0


@pytest.mark.long
def test_the_rate_that_refused_is_counted(tmp_path: Path) -> None:
    env = {"DIBS_RATE_PER_SESSION": "1", "DIBS_RATE_PER_PROJECT": "0"}
    with Running("--data-dir", str(tmp_path / "d"), env=env) as service:
        session = new_session()
        codes = [service.claim("T-1", session)[0] for _ in range(8)]
        refused = codes.count(429)
        assert refused
        counted = 'dibs_rate_refusals_total{whose="session"}'
        until(lambda: service.metrics()[counted] == refused, "the refusals are counted")
        metrics = service.metrics()
        assert metrics['dibs_rate_refusals_total{whose="project"}'] == 0


def test_metrics_are_in_the_format_that_prometheus_reads(service: Running) -> None:
    service.claim("T-1")
    granted = 'dibs_acts_total{act="claim",outcome="granted"}'
    until(lambda: service.metrics()[granted] == 1, "the claim is counted")
    status, text, headers = service.ask("GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {family.name: family for family in text_string_to_metric_families(text)}
    ours = {name for name in found if not name.startswith("process_")}
    assert {family.name.removesuffix("_total") for family in FAMILIES} == ours
    assert found["process_resident_memory_bytes"].samples[0].value > 10_000_000
    times = found["dibs_request_seconds"]
    buckets = [s for s in times.samples if s.labels == {"route": "claim", "le": "+Inf"}]
    counts = [
        s for s in times.samples if s.name.endswith("_count") and s.labels["route"] == "claim"
    ]
    assert buckets[0].value == counts[0].value == 1


def test_no_name_of_a_project_task_or_session_is_a_label(service: Running) -> None:
    session = new_session()
    service.claim("very-own-task", session, "very-own-project")
    service.ask("GET", "/very-own-path")
    text = service.ask("GET", "/metrics")[1]
    for name in ("very-own", session):
        assert name not in text


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bdibs_[a-z_]+", expression))


def known() -> set[str]:
    names = {family.name for family in FAMILIES}
    for family in FAMILIES:
        if family.kind == "histogram":
            names |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
    return names


def labels_are_known(expression: str) -> None:
    """Assert that each label value an expression selects exists."""
    values = {family.name: family.labels for family in FAMILIES}
    for name, matchers in re.findall(r"\b(dibs_[a-z_]+?)(?:_bucket)?\{([^}]*)\}", expression):
        for label, operator, value in re.findall(r'(\w+)(=~|=)"([^"]*)"', matchers):
            if label in ("job", "instance"):
                continue
            wanted = set(value.split("|")) if operator == "=~" else {value}
            assert wanted <= set(values[name][label]), (name, label, value)


def test_every_metric_of_the_alert_rules_exists() -> None:
    rules = yaml.safe_load((ROOT / "docs/ops/alerts.yaml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len(alerts) >= 8
    for alert in alerts:
        assert names_in(alert["expr"]) <= known(), alert["alert"]
        labels_are_known(alert["expr"])
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert set(alert["annotations"]) == {"summary", "what_to_do"}


def test_every_metric_of_the_dashboard_exists() -> None:
    board = json.loads((ROOT / "docs/ops/dashboard.json").read_text())
    drawn: set[str] = set()
    for panel in board["panels"]:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert names_in(target["expr"]) <= known(), panel["title"]
            labels_are_known(target["expr"])
            drawn |= names_in(target["expr"])
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    shown = {name.removesuffix("_bucket") for name in drawn}
    assert {family.name for family in FAMILIES} - shown == {"dibs_build_info"}


def test_every_metric_is_documented() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    for family in FAMILIES:
        assert f"`{family.name}`" in page, family.name


def test_every_event_of_the_log_is_documented() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    events: set[str] = set()
    for file in (ROOT / "service/dibs").rglob("*.py"):
        events |= set(
            re.findall(
                r"log(?:ger)?\.(?:debug|info|warning|error|exception)\(\s*\"(\w+_\w+)[ \"]",
                file.read_text(),
            )
        )
    assert "store_back" in events
    for event in events:
        assert f"`{event}`" in page, event


def record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("dibs", logging.WARNING, __file__, 1, message, args, None)


def test_a_line_of_json_has_its_fields() -> None:
    line = json.loads(Json().format(record("store_started_again pid=%d said=%r", 2, "a b")))
    assert (line["event"], line["pid"], line["said"]) == ("store_started_again", 2, "a b")
    assert line["level"] == "warning"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["at"])
    other = json.loads(Json().format(record("a library says %s", "this = %")))
    assert other["event"] == "a library says this = %"


def test_a_line_of_text_is_for_people() -> None:
    line = Text().format(record("store_unreachable reason=%r", "It does not answer."))
    assert line.endswith(" warning store_unreachable reason='It does not answer.'")


@pytest.mark.long
def test_the_store_shows_its_memory(service: Running, tmp_path: Path) -> None:
    used = 'dibs_store_memory_bytes{what="used"}'
    until(lambda: service.metrics()[used] > 1_000_000, "the memory is shown")
    with redis.Redis.from_url(f"unix://{tmp_path}/d/valkey.sock") as client:
        client.config_set("maxmemory", "100mb")  # the service reads it every ten seconds
        limit = 'dibs_store_memory_bytes{what="limit"}'
        until(lambda: service.metrics()[limit] == 100 << 20, "the limit is shown", 20)
