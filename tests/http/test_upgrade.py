"""A request that offers another protocol is answered in HTTP/1.1, and its body counts."""

import json
import shutil
from pathlib import Path

import pytest
from tests.harness import processes
from tests.harness.services import ServiceProcess
from tests.http.conftest import Caller
from tests.http.raw import RawAnswer, RawConnection, ask, chunked, request

OFFERS = {
    "h2c": {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMA"},
    "websocket": {"Connection": "keep-alive, upgrade", "Upgrade": "websocket"},
    "TLS": {"Connection": "Upgrade", "Upgrade": "TLS/1.0"},
    "several": {"Connection": "upgrade", "Upgrade": "h2c, websocket"},
}
JAVA = Path(__file__).with_name("Walk.java")


@pytest.fixture(params=list(OFFERS.values()), ids=list(OFFERS))
def offer(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return the headers of an offer."""
    return request.param


def post(
    caller: Caller, act: str, offer: dict[str, str], how: str = "whole", **fields: object
) -> RawAnswer:
    """POST as a client does that prefers another protocol."""
    body = json.dumps(fields).encode()
    headers = {"Dibs-Session": caller.session, "Content-Type": "application/json"} | offer
    path = f"/v1/{caller.project}/{act}"
    if how == "chunked":
        headers["Transfer-Encoding"] = "chunked"
        body = chunked(body)
    whole = request("POST", path, body, **headers)
    if how == "in two":
        at = whole.index(b"\r\n\r\n") + 4
        return ask(str(caller.http.base_url), whole[:at], whole[at:])
    return ask(str(caller.http.base_url), whole)


@pytest.mark.parametrize("how", ["whole", "in two", "chunked"])
def test_a_body_behind_an_offer_to_upgrade_is_not_lost(
    ann: Caller, offer: dict[str, str], how: str
) -> None:
    for task in ("j-1", "j-2", "j-3"):
        assert post(ann, "claim", offer, how, task=task).status == 201
    ann.post("heartbeat", task="j-2", state="parked")
    fence = ann.get("claims/j-1").json()["fence"]

    stale = post(ann, "heartbeat", offer, how, task="j-1", fence=fence - 1)
    assert (stale.status, stale.problem["code"]) == (409, "not-holder")
    parked = post(ann, "heartbeat", offer, how, task="j-1", state="parked", note="q?")
    assert parked.status == 200
    assert (parked.json["task"], parked.json["state"]) == ("j-1", "parked")
    # A heartbeat whose body was lost would have set all of them to held.
    states = {claim["task"]: claim["state"] for claim in ann.get("claims").json()["claims"]}
    assert states == {"j-1": "parked", "j-2": "parked", "j-3": "held"}

    released = post(ann, "release", offer, how, task="j-1")
    assert (released.status, released.json["state"]) == (200, "free")
    assert ann.get("claims/j-2").json()["state"] == "parked"


def test_a_connection_goes_on_after_an_offer(ann: Caller, offer: dict[str, str]) -> None:
    url = str(ann.http.base_url)
    with RawConnection(url) as wire:
        wire.send(request("GET", "/livez", **offer) + request("GET", "/livez"))
        assert [wire.answer().status for _ in range(2)] == [200, 200]
        wire.send(request("GET", "/livez", **{**offer, "Connection": "upgrade, close"}))
        assert wire.answer().headers["connection"] == "close"
        assert wire.rest() == b""


def test_curl_that_offers_http_2_claims(ann: Caller) -> None:
    ran = processes.run(
        [
            *("curl", "-sS", "--http2", "-m", "10", "-H", f"Dibs-Session: {ann.session}"),
            *("-d", "task=j", f"{ann.http.base_url}/v1/{ann.project}/claim"),
        ],
        timeout=30,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["task"] == "j"


@pytest.mark.skipif(
    not shutil.which("java"),
    reason="java is not on the PATH (Debian: default-jdk-headless); curl makes the same offer",
)
def test_the_http_client_of_java_claims_parks_and_releases(ann: Caller) -> None:
    java_walks(str(ann.http.base_url), ann.project, ann.session)


def java_walks(url: str, project: str, session: str) -> None:
    """Run the calls of Walk.java, which prints the answers."""
    ran = processes.run(
        ["java", str(JAVA), url.rstrip("/"), project, session],
        timeout=110,
    )
    assert ran.returncode == 0, ran.stderr
    answers = [line.split(" ", 2) for line in ran.stdout.splitlines()]
    assert [(act, status) for act, status, _ in answers] == [
        ("claim", "201"),
        ("claim", "201"),
        ("heartbeat", "409"),
        ("heartbeat", "200"),
        ("release", "200"),
    ]
    assert json.loads(answers[3][2])["state"] == "parked"
    assert json.loads(answers[4][2])["task"] == "j-1"


def test_no_offer_leaves_a_word_in_the_log(
    service: ServiceProcess, ann: Caller, offer: dict[str, str]
) -> None:
    post(ann, "claim", offer, task="quiet")
    log = service.log.read_text()
    assert "WebSocket" not in log
    assert "pgrade" not in log
