"""A bad request gets one answer that names all its errors, and changes nothing."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.http.conftest import Caller

V1, V5, NIL = (
    "c2a3f4d0-c6b1-11f0-8de9-0242ac120002",
    "886313e1-3b8a-5372-9b90-0c9aee199e5d",
    "00000000-0000-0000-0000-000000000000",
)


def problem_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Assert that the answer is this problem, with the fields of every problem; return its body."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == code, problem
    assert problem["outcome"] == "not-applied"
    assert {"type", "title", "status", "detail"} <= problem.keys()
    return problem


def fields_of(answer: httpx.Response) -> set[str]:
    """Return the names of the fields that the answer reports as wrong."""
    return {error["field"] for error in problem_of(answer, 422, "invalid")["errors"]}


@pytest.fixture(autouse=True)
def nothing_changes(ann: Caller) -> Iterator[None]:
    """Start with one claim; assert that the test leaves only that claim, unchanged."""
    before = ann.post("claim", task="kept").json()
    yield
    [after] = ann.get("claims").json()["claims"]
    assert (after["fence"], after["heartbeat_at"]) == (before["fence"], before["heartbeat_at"])


@pytest.mark.parametrize(
    "task",
    ["", "x" * 201, "a\tb", "a\nb", "a\x00b", "\x7f", " lead", "trail ", "\u00a0x", "e\u0301",
     "a\u2028b", "x\u202ey", 5, None, ["T-1"], {"a": 1}],
)  # fmt: skip
def test_a_bad_task_is_refused(ann: Caller, task: Any) -> None:
    assert fields_of(ann.post("claim", task=task)) == {"task"}


@pytest.mark.parametrize(
    "login",
    [
        b"Basic \xe9",
        b"Basic \xc3\xa9",
        b"Basic",
        b"Basic ?",
        b"Basic 4pyT4pyT",
        b"Basic /w==",
        b"Bearer \xff",
    ],
)
def test_an_authorization_that_nobody_can_read_opens_nothing(ann: Caller, login: bytes) -> None:
    form = {"task": "kept", "fence": "1", "reason": "r"}
    path = f"/v1/{ann.project}/break"
    answer = ann.http.post(path, json=form, headers={b"Authorization": login})
    problem_of(answer, 403, "forbidden")
    page = ann.http.get(f"/p/{ann.project}/hold", headers={b"Authorization": login})
    assert page.status_code == 200


@pytest.mark.parametrize("name", ["..", ".hidden", "-x", "a b", "x" * 101, "ä", "a%2Fb", "{x}"])
def test_a_bad_project_is_refused(ann: Caller, name: str) -> None:
    headers = {"Content-Type": "application/json"}
    body = json.dumps({"task": "T-1"})
    # As raw bytes: the library would normalize the path.
    path = "".join(f"%{byte:02X}" for byte in name.encode()) if "%" not in name else name
    answer = ann.http.post(f"/v1/{path}/claim", content=body, headers=headers)
    if "%2F" in name:
        problem_of(answer, 404, "not-found")
    else:
        assert fields_of(answer) == {"project"}


@pytest.mark.parametrize("session", ["", NIL, V1, V5, "garbage", "{" + V5 + "}", "x" * 5000])
def test_a_guessable_or_broken_session_is_refused_with_the_reason(
    ann: Caller, session: str
) -> None:
    answer = ann.http.post(
        f"/v1/{ann.project}/claim", json={"task": "T-1"}, headers={"Dibs-Session": session}
    )
    problem = problem_of(answer, 401, "bad-session")
    assert "uuid" in problem["detail"].lower()
    if session in (NIL, V1, V5):
        assert "guessed" in problem["detail"]
        assert session not in answer.text


def test_a_session_of_version_8_is_taken(ann: Caller) -> None:
    derived = "d0b11f2c-93a7-8e41-a6c5-7f29e80d5b36"
    answer = ann.http.post(f"/v1/{ann.project}.8/heartbeat", headers={"Dibs-Session": derived})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "ttl", [0, -1, "5x", "25h", 90_000, 1.5, 60.5, "", "1e3", True, [60], "９０", 10**30, "9"]
)
def test_a_bad_ttl_is_refused(ann: Caller, ttl: Any) -> None:
    assert fields_of(ann.post("claim", task="T-1", ttl=ttl)) == {"ttl"}


@pytest.mark.parametrize("fence", [0, -1, 2**60, "text", "", 1.5, True, "1e3", [1]])
def test_a_bad_fence_is_refused(ann: Caller, fence: Any) -> None:
    assert fields_of(ann.post("heartbeat", task="kept", fence=fence)) == {"fence"}
    assert fields_of(ann.post("release", task="kept", fence=fence)) == {"fence"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("note", "x" * 1001),
        ("note", "a\x00b"),
        ("note", 5),
        ("label", "x" * 101),
        ("label", "a\nb"),
        ("branch", "x" * 201),
        ("url", "javascript:alert(1)"),
        ("url", "https://a b"),
        ("queue", "perhaps"),
        ("reopen", 7),
        ("wait", 26),
        ("wait", -1),
        ("any_of", []),
        ("any_of", ["T"] * 2),
        ("all_of", [f"T-{n}" for n in range(33)]),
        ("all_of", ["ok", ""]),
    ],
)
def test_a_bad_field_of_a_claim_is_named(ann: Caller, field: str, value: Any) -> None:
    fields = {"task": "T-1", field: value}
    if field in ("any_of", "all_of"):
        del fields["task"]
    assert fields_of(ann.post("claim", **fields)) == {field}


def test_all_bad_fields_are_named_at_once(ann: Caller) -> None:
    answer = ann.http.post(
        "/v1/.../claim?x=1",
        json={"task": " x", "ttl": "5x", "notes": "misspelt", "queue": "x"},
        headers={"Idempotency-Key": "k" * 201},
    )
    assert fields_of(answer) == {
        "query", "Idempotency-Key", "project", "task", "ttl", "notes", "queue",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("call", "fields", "wrong"),
    [
        ("claim", {}, "task"),
        ("claim", {"task": "a", "any_of": ["b"]}, "any_of"),
        ("claim", {"all_of": ["a"], "queue": True}, "queue"),
        ("heartbeat", {"fence": 5}, "fence"),
        ("heartbeat", {"state": "sleeping"}, "state"),
        ("release", {}, "task"),
        ("release", {"task": "kept", "all": True}, "task"),
        ("release", {"all": True, "fence": 5}, "fence"),
        ("release", {"task": "kept", "outcome": "won"}, "outcome"),
        ("release", {"task": "kept", "pr": "javascript:1"}, "pr"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(
    ann: Caller, call: str, fields: dict[str, object], wrong: str
) -> None:
    assert wrong in fields_of(ann.post(call, **fields))


@pytest.mark.parametrize(
    ("content_type", "body", "field"),
    [
        ("application/json", b'{"task": "T-1"', "body"),
        ("application/json", b'{"task": "\xff"}', "body"),
        ("application/json", b'{"task": "\\ud800"}', "body"),
        ("application/json", b"[1]", "body"),
        ("application/json", b"NaN", "body"),
        ("application/json", b"[" * 5000, "body"),
        ("application/json", b'{"a":' * 2000, "body"),
        ("text/plain", b"task=T-1", "Content-Type"),
        ("", b"task=T-1", "Content-Type"),
        ("multipart/form-data; boundary=x", b"--x--", "Content-Type"),
        ("application/x-www-form-urlencoded", b"task=%ff", "body"),
        ("application/x-www-form-urlencoded", b"task=a&task=b", "body"),
        ("application/x-www-form-urlencoded", b"&".join(b"a%d=1" % n for n in range(200)), "body"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(
    ann: Caller, content_type: str, body: bytes, field: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = ann.http.post(f"/v1/{ann.project}/claim", content=body, headers=headers)
    assert field in fields_of(answer)


@pytest.mark.parametrize(
    "body",
    [
        '{"task": "T-1", "task": "T-2"}',
        '{"task": "T-1", "task": "T-1"}',
        '{"task": "T-1", "\\u0074ask": "T-2"}',
        '{"task": "T-1", "ttl": 60, "ttl": 90}',
        '{"task": "T-1", "queue": true, "queue": false}',
        '{"task": "T-1", "note": "a\\"", "note": "b"}',
        '{"any_of": ["T-1"], "any_of": ["T-2", "T-3"]}',
        '{"task": null, "task": "T-1"}',
        '{"task": "T-1", "note": {"a": 1, "a": 2}}',
        '{"task": "T-1", "": 1, "": 2}',
    ],
)
def test_a_field_that_stands_in_a_json_body_twice_is_refused(ann: Caller, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    for act in ("claim", "heartbeat", "release"):
        answer = ann.http.post(f"/v1/{ann.project}/{act}", content=body, headers=headers)
        problem = problem_of(answer, 422, "invalid")
        assert any("twice" in error["message"] for error in problem["errors"]), problem


@pytest.mark.parametrize(
    "note",
    ['say "hi"', "back\\slash", "a: b", '":"', "\\u0022", "é", "\n\t", "x" * 900, '","task":"'],
)
def test_what_only_looks_like_a_field_twice_is_text(ann: Caller, note: str) -> None:
    for fields in ({"task": "T-1", "note": note}, {"all_of": ["T-1", f"T {note[:9].strip()}"]}):
        body = json.dumps(fields, ensure_ascii="é" not in note)
        answer = ann.http.post(
            f"/v1/{ann.project}/claim",
            content=body.encode(),
            headers={"Content-Type": "application/json"},
        )
        if "\n" not in note or "note" in fields:  # a task name has one line
            assert answer.status_code in (200, 201), answer.text
    ann.post("release", task="T-1")
    for claim in ann.get("claims").json()["claims"]:
        if claim["task"] != "kept":
            ann.post("release", task=claim["task"])


@pytest.mark.parametrize("count", [21, 99, 1_200])
def test_at_most_twenty_bad_fields_are_named(ann: Caller, count: int) -> None:
    fields = {f"a{number}": 1 for number in range(count)}
    for answer in (
        ann.post("claim", task="T-1", **fields),
        ann.form("claim", task="T-1", **fields),
        ann.get("claims", **fields),
    ):
        problem = problem_of(answer, 422, "invalid")
        assert 1 <= len(problem["errors"]) <= 20
        assert len(answer.content) < 5_000
        assert f"{count - 20} more" in problem["detail"] or "at most 100" in problem["detail"]


def test_a_body_of_a_mebibyte_is_too_large(ann: Caller) -> None:
    problem_of(ann.post("claim", task="T-1", note="x" * 2**20), 413, "too-large")


def test_a_body_of_a_mebibyte_without_a_length_is_too_large(ann: Caller) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(1024):
            yield b"x" * 1024

    answer = ann.http.post(
        f"/v1/{ann.project}/claim",
        content=chunks(),
        headers={"Content-Type": "application/json"},
    )
    problem_of(answer, 413, "too-large")


@pytest.mark.parametrize("path", ["/v2/x/claim", "/v1", "/v1/x", "/v1/x/steal", "/claims", "/%00"])
def test_an_unknown_path_is_not_found(ann: Caller, path: str) -> None:
    problem_of(ann.http.get(path), 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/x/claim", "POST"),
        ("DELETE", "/v1/x/claim", "POST"),
        ("POST", "/v1/x/claims", "GET, HEAD"),
        ("PATCH", "/v1/x/claims/T-1", "GET, HEAD"),
        ("POST", "/livez", "GET, HEAD"),
        ("DELETE", "/v1/x/claims/claim", "GET, HEAD"),
        ("POST", "/v1/x/tasks/release", "GET, HEAD"),
        ("PUT", "/v1/x/tasks", "GET, HEAD, POST"),
        ("PUT", "/p/x/hold", "GET, HEAD, POST"),
        ("POST", "/p/x", "GET, HEAD"),
        ("POST", "/p/x/t/hold", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_which_are_right(
    ann: Caller, method: str, path: str, allow: str
) -> None:
    answer = ann.http.request(method, path)
    problem_of(answer, 405, "wrong-method")
    assert answer.headers["allow"] == allow


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("claims", {"state": "lost"}, "state"),
        ("claims", {"limit": 0}, "limit"),
        ("claims", {"limit": 1001}, "limit"),
        ("claims", {"limit": "many"}, "limit"),
        ("claims", {"cursor": "?!"}, "cursor"),
        ("claims", {"key": "secret"}, "key"),
        ("claims/T-1", {"fence": "x"}, "fence"),
        ("claims/%20x", {}, "task"),
        ("claims/%ff", {}, "task"),
        ("events", {"after": "yesterday"}, "after"),
        ("events", {"limit": 5000}, "limit"),
    ],
)
def test_a_bad_query_is_refused(ann: Caller, path: str, query: Any, field: str) -> None:
    answer = ann.http.get(f"/v1/{ann.project}/{path}", params=query)
    assert fields_of(answer) == {field}


@pytest.mark.parametrize("cursor", ["AAAA", "MSB4", "OSA1IHg", "MSAxZTk5OSB4", "MSAtaW5mIA"])
def test_a_made_up_cursor_never_breaks_the_list(ann: Caller, cursor: str) -> None:
    answer = ann.get("claims", cursor=cursor)
    assert answer.status_code in (200, 422), answer.text
