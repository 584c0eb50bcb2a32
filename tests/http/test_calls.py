"""The calls of the protocol, made with plain HTTP."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
from tests.http.conftest import ADMIN, Caller


def test_a_claim_answers_with_every_field_of_the_contract(ann: Caller) -> None:
    answer = ann.post("claim", task="T-12", label="ann", branch="fix", note="parser")
    assert answer.status_code == 201
    claim = answer.json()
    assert claim["holder"].keys() == {"ref", "label", "branch", "url"}
    assert (claim["state"], claim["mine"], claim["ttl"], claim["expires_in"]) == (
        "held",
        True,
        1800,
        1800,
    )
    contract = (
        "project task state fence holder mine ttl expires_in expires_at acquired_at heartbeat_at "
        "stale note waiters grants lapses previous"
    )
    assert set(contract.split()) <= claim.keys()
    assert ann.post("claim", task="T-12").status_code == 200


def test_a_form_and_a_json_body_say_the_same(ann: Caller, bob: Caller) -> None:
    first = ann.form("claim", any_of=["T-1", "T-2"], ttl="90s", queue="false", label="ann")
    assert first.status_code == 201, first.text
    assert (first.json()["task"], first.json()["ttl"]) == ("T-1", 90)
    second = bob.post("claim", any_of=["T-1", "T-2"], ttl=90)
    assert second.json()["task"] == "T-2"
    assert ann.form("heartbeat", task="T-1", fence=str(first.json()["fence"])).status_code == 200
    assert ann.form("release", task="T-1").json() == {
        "task": "T-1",
        "state": "free",
        "already": False,
    }


def test_a_refusal_says_who_until_when_and_what_to_do(ann: Caller, bob: Caller) -> None:
    ann.post("claim", task="T-12", label="session_01abc", branch="claude/fix", note="half done")
    answer = bob.post("claim", task="T-12")
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "1830"
    problem = answer.json()
    assert (problem["code"], problem["outcome"], problem["type"]) == (
        "held",
        "not-applied",
        "/problems/held",
    )
    for fact in ("session_01abc", "claude/fix", "half done", "30 min", "another task"):
        assert fact in problem["detail"]
    assert problem["claim"]["holder"]["label"] == "session_01abc"


def test_no_refusal_names_a_way_to_take_a_claim_away(ann: Caller, bob: Caller) -> None:
    ann.post("claim", task="T-12")
    text = bob.post("claim", task="T-12").text + bob.post("heartbeat", task="T-12").text
    assert "break" not in text
    assert "fence=" not in text


def test_all_of_answers_in_the_callers_order_and_names_every_conflict(
    ann: Caller, bob: Caller
) -> None:
    answer = ann.post("claim", all_of=["T-3", "T-1", "T-2"])
    assert [claim["task"] for claim in answer.json()["claims"]] == ["T-3", "T-1", "T-2"]
    problem = bob.post("claim", all_of=["T-1", "T-9", "T-2"]).json()
    assert [conflict["task"] for conflict in problem["conflicts"]] == ["T-1", "T-2"]
    assert ann.post("release", all=True).json()["released"][0]["state"] == "free"


def test_a_place_in_the_queue_is_told(ann: Caller, bob: Caller) -> None:
    ann.post("claim", task="T-1")
    problem = bob.post("claim", task="T-1", queue=True).json()
    assert problem["queue"] == {"position": 1, "length": 1, "expected_wait": 1830}
    assert "number 1 in its queue" in problem["detail"]


def test_a_long_poll_gets_the_task_when_it_is_released(ann: Caller, bob: Caller) -> None:
    ann.post("claim", task="T-1")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(bob.post, "claim", task="T-1", queue=True, wait=20)
        while not ann.get("claims/T-1").json()["waiters"]:
            assert not waiting.done()
        ann.post("release", task="T-1")
        assert waiting.result(5).status_code == 201


def test_a_heartbeat_without_a_body_extends_all_claims_of_the_session(ann: Caller) -> None:
    ann.post("claim", all_of=["T-1", "T-2"])
    answer = ann.http.post(f"/v1/{ann.project}/heartbeat")
    assert [claim["task"] for claim in answer.json()["claims"]] == ["T-1", "T-2"]
    assert answer.json()["lost"] == []


def test_done_is_refused_with_the_evidence_until_reopened(ann: Caller, bob: Caller) -> None:
    fence = ann.post("claim", task="T-1", label="ann").json()["fence"]
    pr = "https://example.org/pull/7"
    done = ann.post("release", task="T-1", fence=fence, outcome="done", pr=pr, note="merged")
    assert done.json() == {"task": "T-1", "state": "done", "already": False}
    problem = bob.post("claim", task="T-1").json()
    assert problem["code"] == "done"
    assert pr in problem["detail"]
    assert "merged" in problem["detail"]
    assert "retry_after" not in problem
    assert bob.post("claim", task="T-1", reopen=True).status_code == 201


def test_show_says_if_a_fence_is_the_current_one(ann: Caller) -> None:
    fence = ann.post("claim", task="T-1").json()["fence"]
    assert ann.get("claims/T-1", fence=fence).json()["current"] is True
    assert ann.get("claims/T-1", fence=fence - 1).json()["current"] is False
    ann.post("release", task="T-1")
    shown = ann.get("claims/T-1", fence=fence).json()
    assert (shown["state"], shown["current"]) == ("free", False)
    assert ann.get("claims/never-seen").json()["state"] == "free"


def test_a_task_in_a_path_may_hold_anything_a_task_may(ann: Caller) -> None:
    for task in ("docs/a b", "#1: ä", "a//b", "x/", "100%", "a?b=c", "owner/repo#12"):
        assert ann.post("claim", task=task).status_code == 201, task
        path = "claims/" + "".join(f"%{byte:02X}" for byte in task.encode())
        assert ann.get(path).json()["mine"] is True, task


def test_the_list_pages_filters_and_says_where_events_go_on(ann: Caller, bob: Caller) -> None:
    for number in range(5):
        ann.post("claim", task=f"T-{number}", label="ann", note="parser" if number % 2 else "")
    bob.post("claim", task="docs/x", label="bob")
    seen, cursor = [], ""
    while True:
        page = ann.get("claims", limit=2, **({"cursor": cursor} if cursor else {})).json()
        seen += [claim["task"] for claim in page["claims"]]
        cursor = page["cursor"]
        if not cursor:
            break
    assert sorted(seen) == ["T-0", "T-1", "T-2", "T-3", "T-4", "docs/x"]
    assert len(ann.get("claims", q="PARSER").json()["claims"]) == 2
    assert [c["task"] for c in ann.get("claims", holder="bob").json()["claims"]] == ["docs/x"]
    bob.post("release", task="docs/x", outcome="done")
    events = ann.get("events", after=page["seq"]).json()
    assert [(event["type"], event["task"]) for event in events["events"]] == [("done", "docs/x")]
    assert [c["task"] for c in ann.get("claims", state="done").json()["claims"]] == ["docs/x"]


def test_a_session_lists_what_it_holds_whatever_it_is_called(ann: Caller, bob: Caller) -> None:
    ann.post("claim", task="T-1", label="namesake")
    bob.post("claim", task="T-2", label="namesake")
    assert [c["task"] for c in ann.get("claims", mine="true").json()["claims"]] == ["T-1"]
    assert [c["task"] for c in bob.get("claims", mine="true", q="T-1").json()["claims"]] == []
    assert len(bob.get("claims", mine="false").json()["claims"]) == 2
    nobody = httpx.get(f"{bob.http.base_url}/v1/{bob.project}/claims?mine=true")
    assert (nobody.status_code, nobody.json()["code"]) == (401, "bad-session")


def test_the_list_is_a_table_for_people_who_ask_for_text(ann: Caller) -> None:
    ann.post("claim", task="T-1", label="ann", note="the parser")
    answer = ann.http.get(f"/v1/{ann.project}/claims", headers={"Accept": "text/plain"})
    assert answer.headers["content-type"].startswith("text/plain")
    heading, row = answer.text.splitlines()
    assert heading.split()[:3] == ["TASK", "STATE", "HOLDER"]
    assert re.match(r"T-1   held   ann \(ref [0-9a-f]{10}\)  30 min  ", row)
    assert row.endswith('"the parser"')


def test_events_stream_from_where_a_reader_left_off(ann: Caller) -> None:
    ann.post("claim", task="T-1")
    start = ann.get("events").json()["next"]
    ann.post("release", task="T-1", note="later")
    url = f"/v1/{ann.project}/events"
    headers = {"Accept": "text/event-stream", "Last-Event-ID": start}
    with ann.http.stream("GET", url, headers=headers) as stream:
        lines = stream.iter_lines()
        data = [json.loads(line[6:]) for line in _first(lines, "data: ", 2)]
        assert [event.get("type") for event in data] == [None, "released"]
        ann.post("claim", task="T-1")
        [line] = _first(lines, "data: ", 1)
        assert json.loads(line[6:])["type"] == "claimed"


def test_events_from_another_store_say_reset(ann: Caller) -> None:
    ann.post("claim", task="T-1")
    page = ann.get("events", after="123-456-0").json()
    assert (page["events"], page["reset"]) == ([], True)
    assert page["next"] == ann.get("claims").json()["seq"]


def test_a_break_takes_an_admin_key_and_the_fence_that_was_seen(ann: Caller, project: str) -> None:
    claim = ann.post("claim", task="T-1").json()
    fields = {"task": "T-1", "reason": "laptop is gone"}
    assert ann.post("break", **fields, fence=claim["fence"]).json()["code"] == "forbidden"
    admin = httpx.Client(base_url=str(ann.http.base_url), auth=("lead", ADMIN))
    url = f"/v1/{project}/break"
    assert admin.post(url, json=fields).status_code == 428
    moved = admin.post(url, json={**fields, "fence": claim["fence"] - 1})
    assert (moved.status_code, moved.json()["claim"]["fence"]) == (412, claim["fence"])
    broken = admin.post(url, json={**fields, "fence": claim["fence"]})
    assert broken.json() == {"task": "T-1", "state": "free", "already": False}
    lost = ann.post("heartbeat").json()["lost"]
    assert (lost[0]["reason"], lost[0]["by"]["label"], lost[0]["note"]) == (
        "broken",
        "lead",
        "laptop is gone",
    )
    admin.close()


def test_head_answers_as_get_would_without_a_body(ann: Caller) -> None:
    ann.post("claim", task="T-1")
    for path, accept in (("claims", "*/*"), ("claims/T-1", "*/*"), ("events", "text/event-stream")):
        answer = ann.http.head(f"/v1/{ann.project}/{path}", headers={"Accept": accept}, timeout=5)
        assert (answer.status_code, answer.content) == (200, b""), path
    answer = ann.http.head(f"/v1/{ann.project}/claim", timeout=5)
    assert (answer.status_code, answer.headers["allow"], answer.content) == (405, "POST", b"")


def test_every_answer_is_uncached_and_echoes_its_key(ann: Caller) -> None:
    answer = ann.http.post(
        f"/v1/{ann.project}/claim", json={"task": "T-1"}, headers={"Idempotency-Key": "k-1"}
    )
    assert answer.headers["idempotency-key"] == "k-1"
    page = ann.http.get("/problems/held", headers={"X-Request-Id": "r-1"})
    assert page.headers["x-request-id"] == "r-1"
    assert page.headers["x-frame-options"] == "DENY"
    for each in (answer, ann.get("claims"), ann.http.get("/nowhere")):
        assert each.headers["cache-control"] == "no-store"
        assert each.headers["x-content-type-options"] == "nosniff"
        assert "server" not in each.headers


def _first(lines: Iterator[str], start: str, count: int) -> list[str]:
    found = []
    for line in lines:
        if line.startswith(start):
            found.append(line)
        if len(found) == count:
            break
    return found
