"""Access by keys, tokens and allowed projects, and browser requests from other origins."""

import base64
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from tests.harness import processes
from tests.harness.processes import clean_environ, until
from tests.harness.services import Running, new_session

from dibs.addresses import network_of
from dibs.api import tokens
from dibs.api.access import WRONG_MOST, WRONG_WAIT_S

TEAM = "a-team-key-for-these-tests"
ADMIN = "an-admin-key-for-these-tests"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data directory of this file's service."""
    return tmp_path_factory.mktemp("access") / "d"


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Running]:
    """Start a service with both keys and a list of allowed projects."""
    env = {
        "DIBS_TEAM_KEY": TEAM,
        "DIBS_ADMIN_KEY": f"{ADMIN},{ADMIN}-2",
        "DIBS_PROJECTS": "acme.web, zoo.*",
    }
    with Running("--data-dir", str(folder), env=env) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def basic(key: str, user: str = "lea") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()}


def claim(service: Running, project: str, task: str = "T-1", **headers: str) -> tuple[int, Any]:
    answer = service.ask("POST", f"/v1/{project}/claim", {"task": task}, new_session(), **headers)
    return answer[0], answer[1]


def test_only_the_projects_of_the_list_exist_and_nothing_is_written_for_another(
    service: Running, folder: Path
) -> None:
    assert claim(service, "acme.web", **bearer(TEAM))[0] in (201, 409)
    assert claim(service, "zoo.lion", **bearer(TEAM))[0] in (201, 409)
    with redis.Redis(unix_socket_path=str(folder / "valkey.sock"), decode_responses=True) as store:
        for project in ("acme.web2", "acme", "zoo", "zoox.y", "evil.acme.web", "-bad"):
            status, body = claim(service, project, **bearer(TEAM))
            assert (status, body["code"], body["outcome"]) == (404, "not-found", "not-applied")
            assert "DIBS_PROJECTS" in body["detail"]
            for path in (f"/v1/{project}/claims", f"/v1/{project}/events", f"/p/{project}"):
                assert service.ask("GET", path, **bearer(TEAM))[0] == 404
            assert not list(store.scan_iter(match=f"*{{{project}}}*"))
            assert store.zscore("dibs:projects", project) is None


def test_without_a_key_a_stranger_does_not_learn_which_projects_there_are(
    service: Running,
) -> None:
    assert claim(service, "acme.web")[0] == claim(service, "no.such")[0] == 401


def test_a_token_opens_its_project_and_no_other(service: Running) -> None:
    token = tokens.make(ADMIN, "acme.web", 60)
    assert claim(service, "acme.web", **bearer(token))[0] in (201, 409)
    for headers in (bearer(token), basic(token)):
        assert service.ask("GET", "/v1/acme.web/claims", **headers)[0] == 200
        assert service.ask("GET", "/p/acme.web", **headers)[0] == 200
    status, body = claim(service, "zoo.lion", **bearer(token))
    assert status == 401
    assert "for project acme.web only" in body["detail"]
    assert service.ask("GET", "/", **bearer(token))[0] == 401, "only the team may list projects"
    body = {"task": "T-1", "fence": 1, "reason": "x"}
    assert service.ask("POST", "/v1/acme.web/break", body, **bearer(token))[0] == 403


def test_a_token_of_any_admin_key_opens_until_its_day(service: Running) -> None:
    assert claim(service, "acme.web", **bearer(tokens.make(f"{ADMIN}-2", "acme.web", 60)))[0] != 401
    status, body = claim(service, "acme.web", **bearer(tokens.make(ADMIN, "acme.web", -1)))
    assert status == 401
    assert "has expired" in body["detail"]


@pytest.mark.parametrize("made", [0, 1, 2])
def test_a_token_that_was_changed_or_made_elsewhere_opens_nothing(
    service: Running, made: int
) -> None:
    true = tokens.make(ADMIN, "zoo.lion", 60)
    mark, rest = true.split(".", 1)
    forged = [
        tokens.make("another-key-of-another-team", "acme.web", 60),
        f"{mark}.{rest.replace('zoo.lion', 'acme.web')}",
        true.replace(".lion.", ".lion.9"),
    ][made]
    project = "zoo.lion" if made == 2 else "acme.web"
    status, body = claim(service, project, **bearer(forged))
    assert (status, body["code"]) == (401, "unauthorized")


@pytest.mark.parametrize("token", ["dibs1", "dibs1.", "dibs1...", "dibs1.a.1.", "dibs1.a.x.y"])
def test_what_only_looks_like_a_token_is_a_wrong_key(service: Running, token: str) -> None:
    assert claim(service, "acme.web", **bearer(token))[0] == 401


@pytest.mark.long
def test_the_command_makes_a_token_and_names_what_it_lacks(service: Running) -> None:
    made = dibs("token", "acme.web", "--for", "1h", DIBS_ADMIN_KEY=ADMIN)
    assert made.returncode == 0
    assert claim(service, "acme.web", **bearer(made.stdout.strip()))[0] != 401
    for arguments, env, said in (
        (("token", "acme.web"), {}, "DIBS_ADMIN_KEY"),
        (("token", "bad!"), {"DIBS_ADMIN_KEY": ADMIN}, "A project is"),
        (("token", "a.b", "--for", "soon"), {"DIBS_ADMIN_KEY": ADMIN}, "12h or 90d"),
    ):
        refused = dibs(*arguments, **env)
        assert refused.returncode == 2
        assert said in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


def dibs(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return processes.run(
        [sys.executable, "-P", "-m", "dibs", *arguments],
        env=clean_environ(env),
        timeout=30,
    )


def test_the_admin_key_is_no_login_for_pages(service: Running) -> None:
    for path in ("/", "/p/acme.web"):
        status, text, headers = service.ask("GET", path, **basic(ADMIN))
        assert status == 401
        assert "not a login for pages" in text
        assert headers["www-authenticate"].startswith("Basic")
    assert service.ask("GET", "/v1/acme.web/claims", **bearer(ADMIN))[0] == 200


@pytest.mark.parametrize(
    "mark",
    [
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
    ],
)
def test_a_page_of_another_site_breaks_nothing_with_a_login_that_a_browser_remembers(
    service: Running, mark: dict[str, str]
) -> None:
    session, task = new_session(), f"T-{new_session()}"
    asked = {"task": task}
    path = "/v1/acme.web/claim"
    fence = service.ask("POST", path, asked, session, **bearer(TEAM))[1]["fence"]
    body = {"task": task, "fence": fence, "reason": "x"}
    status, answer, _ = service.ask("POST", "/v1/acme.web/break", body, **basic(ADMIN), **mark)
    assert (status, answer["code"]) == (403, "forbidden")
    assert service.ask("POST", path, asked, session, **bearer(TEAM))[0] == 200, "it is still held"
    assert service.ask("POST", "/v1/acme.web/break", body, **bearer(ADMIN))[0] == 200


@pytest.mark.parametrize("given", ["Basic \xe9", "Basic ====", "Basic /////w==", "Basic", "Bearer"])
def test_a_login_that_nobody_can_read_is_none(service: Running, given: str) -> None:
    answer = service.ask("GET", "/v1/acme.web/claims", Authorization=given)
    assert (answer[0], answer[1]["code"]) == (401, "unauthorized")
    body = {"task": "T-1", "fence": 2, "reason": "x"}
    answer = service.ask("POST", "/v1/acme.web/break", body, Authorization=given)
    assert (answer[0], answer[1]["code"]) == (401, "unauthorized")


def test_whoever_shows_a_key_is_no_stranger_where_everybody_may_read(tmp_path: Path) -> None:
    keys = {"DIBS_TEAM_KEY": TEAM, "DIBS_ADMIN_KEY": ADMIN, "DIBS_CI_KEY": f"{TEAM}-of-ci"}
    # Behind a trusted proxy, a caller on loopback has a public address.
    proxy = {
        "DIBS_TRUSTED_PROXIES": "127.0.0.1",
        "DIBS_READS_PER_ADDRESS": "1",
        "DIBS_READ": "open",
    }
    with Running("--data-dir", str(tmp_path / "d"), env=keys | proxy) as service:

        def read(**headers: str) -> int:
            return service.ask("GET", "/v1/a.b/claims", X_Forwarded_For="8.8.8.8", **headers)[0]

        assert 429 in [read() for _ in range(20)], "a stranger has a rate limit"
        for key in keys.values():
            assert {read(**bearer(key)) for _ in range(3)} == {200}


def test_reading_may_be_open_while_writing_needs_a_key(tmp_path: Path) -> None:
    env = {"DIBS_TEAM_KEY": TEAM, "DIBS_ADMIN_KEY": ADMIN, "DIBS_READ": "open"}
    with Running("--data-dir", str(tmp_path / "d"), env=env) as service:
        assert claim(service, "acme.web")[0] == 401
        assert claim(service, "acme.web", **bearer(TEAM))[0] == 201
        for path in ("/", "/p/acme.web", "/v1/acme.web/claims", "/v1/acme.web/events"):
            assert service.ask("GET", path)[0] == 200
        assert service.ask("POST", "/v1/acme.web/heartbeat", {}, new_session())[0] == 401
        for page in ("/", "/p/acme.web", "/p/acme.web/t/T-1", "/p/acme.web/hold?task=T-1"):
            assert "Open service: anyone" not in service.ask("GET", page)[1], "writing needs a key"


@pytest.mark.long
def test_wrong_keys_are_answered_slower_and_right_ones_are_not(tmp_path: Path) -> None:
    with Running("--data-dir", str(tmp_path / "d"), env={"DIBS_TEAM_KEY": TEAM}) as service:
        for _ in range(WRONG_MOST):
            assert claim(service, "a.b", **bearer("wrong"))[0] == 401
        began = time.monotonic()
        assert claim(service, "a.b", **bearer("wrong"))[0] == 401
        slow_s = time.monotonic() - began
        began = time.monotonic()
        assert claim(service, "a.b", **bearer(TEAM))[0] == 201
        assert time.monotonic() - began < slow_s
        assert slow_s >= WRONG_WAIT_S


def test_wrong_admin_keys_on_a_page_of_the_board_are_answered_slower_too(tmp_path: Path) -> None:
    def takes(service: Running, key: str) -> tuple[int, float]:
        form = {"task": "T-1", "reason": "r", "key": key}
        began = time.monotonic()
        answer = httpx.post(
            f"{service.url}/p/a.b/hold", data=form, headers={"Sec-Fetch-Site": "same-origin"}
        )
        return answer.status_code, time.monotonic() - began

    with Running("--data-dir", str(tmp_path / "d"), env={"DIBS_ADMIN_KEY": ADMIN}) as service:
        for _ in range(WRONG_MOST):
            assert takes(service, "wrong")[0] == 403
        status, slow_s = takes(service, "wrong")
        assert (status, slow_s >= WRONG_WAIT_S) == (403, True)
        status, right_s = takes(service, ADMIN)
        assert (status, right_s < slow_s) == (303, True)


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("a socket", "a socket"),
    ],
)
def test_an_address_of_ipv6_counts_by_its_network(host: str, network: str) -> None:
    assert network_of({"client": (host, 1)}) == network


@pytest.mark.long
def test_a_project_can_be_purged_and_its_fences_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    where = {"DIBS_DATA_DIR": str(folder)}
    with Running("--data-dir", str(folder)) as service:
        first = claim(service, "acme.web")[1]["fence"]
        assert claim(service, "acme.other")[0] == 201
        entries = [{"task": "T-8", "body": "x", "tags": ["a"]}, {"task": "T-9", "needs": ["T-8"]}]
        session = new_session()
        written = service.ask("POST", "/v1/acme.web/tasks", {"tasks": entries}, session)
        assert written[0] == 200, written
        purged = dibs("purge", "acme.web", **where)
        assert purged.returncode == 0, purged.stderr
        assert purged.stdout.startswith("deleted acme.web: ")
        status, again = claim(service, "acme.web")
        assert status == 201, "the claim is gone"
        assert again["fence"] > first
        assert service.ask("GET", "/v1/acme.web/tasks")[1]["tasks"] == [], "the list is empty"
        with redis.Redis(unix_socket_path=str(folder / "valkey.sock")) as store:
            assert store.zscore("dibs:projects", "acme.web"), "later claims are swept"
        assert service.claim("T-9", project="acme.web")[0] == 201, "no need is left of the list"
        assert claim(service, "acme.other")[0] == 409, "the other project is unchanged"
        assert dibs("purge", "acme.web", **where).returncode == 0
        until(lambda: "acme.web" not in service.ask("GET", "/")[1], "it is not listed")
        assert "acme.other" in service.ask("GET", "/")[1]
    purged = dibs("purge", "acme.other", **where)
    assert purged.returncode == 0, "it also works without a service"
    assert dibs("purge", "acme.other", **where).stdout == "acme.other has nothing in the store\n"
    assert dibs("purge", "x!", **where).returncode == 2
    nothing = dibs("purge", "a.b", DIBS_DATA_DIR=str(tmp_path / "none"))
    assert nothing.returncode == 1
    assert "holds no claims" in nothing.stderr


def test_a_project_is_purged_from_a_store_that_is_full(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    with Running("--data-dir", str(folder)) as service:
        assert claim(service, "acme.web")[0] == 201
        with redis.Redis(unix_socket_path=str(folder / "valkey.sock")) as store:
            store.config_set("maxmemory", 1)
            purged = dibs("purge", "acme.web", DIBS_DATA_DIR=str(folder))
            assert (purged.returncode, purged.stderr) == (0, "")
            assert not list(store.scan_iter(match="dibs:{acme.web}*"))
