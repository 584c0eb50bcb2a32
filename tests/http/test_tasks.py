"""The list of tasks over HTTP (rules 23, 24 and 25), and every error in an entry."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tests.harness.services import ServiceProcess
from tests.http.conftest import Caller
from tests.http.test_bad_input import problem_of

MEBIBYTE = 1 << 20


def names(caller: Caller, **query: Any) -> list[str]:
    """Return the listed names, in order."""
    return [task["task"] for task in caller.get("tasks", **query).json()["tasks"]]


def errors_of(answer: httpx.Response) -> dict[str, str]:
    """Return the errors by field."""
    errors = problem_of(answer, 422, "invalid")["errors"]
    return {error["field"]: error["message"] for error in errors}


def raw(caller: Caller, body: bytes, kind: str = "application/json") -> httpx.Response:
    """POST these bytes as the list."""
    headers = {"Content-Type": kind}
    return caller.http.post(f"/v1/{caller.project}/tasks", content=body, headers=headers)


def test_a_list_is_written_shown_and_drained_in_order(ann: Caller, bob: Caller) -> None:
    entries = [
        {"task": "T-3", "title": "last", "needs": ["T-1", "T-2"], "priority": 0},
        {"task": "T-1", "title": "first", "body": "All\nof it", "priority": 1, "tags": ["api"]},
        {"task": "T-2", "url": "https://e.org/2", "source": "tasks.md"},
    ]
    answer = ann.post("tasks", tasks=entries)
    assert answer.status_code == 200
    assert answer.json() == {
        "created": ["T-3", "T-1", "T-2"],
        "updated": [],
        "unchanged": [],
        "dropped": [],
    }
    page = ann.get("tasks").json()
    assert page.keys() == {"tasks", "seq", "cursor", "server_time"}
    shown = [(task["task"], task["state"]) for task in page["tasks"]]
    assert shown == [("T-3", "blocked"), ("T-1", "ready"), ("T-2", "ready")]
    assert page["tasks"][1]["listed"] == {
        "title": "first",
        "body": None,
        "priority": 1,
        "needs": [],
        "tags": ["api"],
        "url": None,
        "source": None,
        "max_attempts": None,
        "dropped": False,
    }
    for who, task in ((ann, "T-1"), (bob, "T-2"), (ann, "T-3")):
        claim = who.post("claim", next=True)
        assert (claim.status_code, claim.json()["task"]) == (201, task)
        assert who.post("claim", next=True).status_code == 200
        assert who.post("release", task=task, outcome="done").json()["state"] == "done"
    claimed = bob.post("claim", next=True)
    assert problem_of(claimed, 409, "nothing-ready")["counts"]["blocked"] == 0


def test_the_claim_of_a_listed_task_carries_its_text(ann: Caller) -> None:
    ann.post("tasks", tasks=[{"task": "T-1", "title": "one", "body": "the <b>text</b>"}])
    assert ann.post("claim", task="T-1").json()["listed"]["body"] == "the <b>text</b>"
    assert ann.post("claim", next=True).json()["listed"]["body"] == "the <b>text</b>"
    assert "listed" not in ann.get("claims").json()["claims"][0]
    whole = ann.get("tasks/T-1").json()
    assert (whole["state"], whole["listed"]["body"]) == ("held", "the <b>text</b>")


def test_one_task_shows_its_needs_and_its_dependents(ann: Caller) -> None:
    needs = {"task": "a/b #2", "needs": ["T-1", "elsewhere"]}
    ann.post("tasks", tasks=[{"task": "T-1"}, needs, {"task": "T-3", "needs": ["a/b #2"]}])
    whole = ann.get("tasks/a%2Fb%20%232").json()
    assert [(need["task"], need["state"]) for need in whole["needs"]] == [
        ("T-1", "ready"),
        ("elsewhere", "free"),
    ]
    assert [each["task"] for each in whole["dependents"]] == ["T-3"]
    unknown = ann.get("tasks/nothing").json()
    assert (unknown["state"], unknown["needs"], unknown["dependents"]) == ("free", [], [])


def test_the_list_can_be_narrowed_and_comes_in_pages(ann: Caller) -> None:
    ann.post("tasks", tasks=[{"task": f"T-{n}", "tags": ["odd"] * (n % 2)} for n in range(7)])
    ann.post("tasks", tasks=[{"task": "T-1", "title": "Über alles"}, {"task": "T-6", "drop": True}])
    ann.post("claim", task="T-0")
    assert names(ann, tag="odd") == ["T-1", "T-3", "T-5"]
    assert names(ann, q="ÜBER") == ["T-1"]
    assert names(ann, state="held,dropped") == ["T-0", "T-6"]
    seen, cursor = list[str](), ""
    while True:
        page = ann.get("tasks", limit=2, cursor=cursor).json()
        seen += [task["task"] for task in page["tasks"]]
        if not (cursor := page["cursor"]):
            break
    assert seen == [f"T-{n}" for n in range(6)]
    for query in ({"state": "free"}, {"limit": 0}, {"cursor": "x"}, {"cursor": "!"}, {"other": 1}):
        assert errors_of(ann.get("tasks", **query)).keys() == query.keys()


def test_a_claim_of_the_next_waits_until_something_is_ready(ann: Caller, bob: Caller) -> None:
    ann.post("tasks", tasks=[{"task": "T-1"}, {"task": "T-2", "needs": ["T-1"]}])
    ann.post("claim", next=True)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(bob.post, "claim", next=True, wait=20)
        ann.post("release", task="T-1", outcome="done")
        got = waiting.result(15)
    assert (got.status_code, got.json()["task"]) == (201, "T-2")


def test_what_is_next_is_asked_for_in_a_form_too(ann: Caller) -> None:
    ann.post("tasks", tasks=[{"task": "T-1"}, {"task": "T-2", "tags": ["api"]}])
    assert ann.form("claim", next="true", tag="api").json()["task"] == "T-2"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"next": True, "task": "T-1"}, "next"),
        ({"next": True, "any_of": ["T-1"]}, "next"),
        ({"task": "T-1", "tag": "api"}, "tag"),
        ({"next": False}, "task"),
        ({"next": True, "queue": True}, "queue"),
        ({"next": True, "tag": ""}, "tag"),
        ({"next": True, "tag": " x"}, "tag"),
        ({"next": "maybe"}, "next"),
    ],
)
def test_asking_for_the_next_in_two_ways_is_refused(
    ann: Caller, given: dict[str, Any], field: str
) -> None:
    assert field in errors_of(ann.post("claim", **given))


WRONG: dict[str, tuple[Any, str]] = {
    "no task": ({}, "tasks.1.task"),
    "no object": ("T-1", "tasks.1"),
    "null": (None, "tasks.1"),
    "a list": (["T-1"], "tasks.1"),
    "an empty name": ({"task": ""}, "tasks.1.task"),
    "a name with a blank at its end": ({"task": "T-1 "}, "tasks.1.task"),
    "a name of 201 characters": ({"task": "x" * 201}, "tasks.1.task"),
    "a name that nobody sees": ({"task": "T\u200b-1"}, "tasks.1.task"),
    "a name that is a number": ({"task": 12}, "tasks.1.task"),
    "a title of two lines": ({"task": "T-1", "title": "a\nb"}, "tasks.1.title"),
    "a long title": ({"task": "T-1", "title": "x" * 201}, "tasks.1.title"),
    "a control character in the body": ({"task": "T-1", "body": "a\x00b"}, "tasks.1.body"),
    "an escape in the body": ({"task": "T-1", "body": "\x1b[31mred"}, "tasks.1.body"),
    "a long body": ({"task": "T-1", "body": "x" * 8_193}, "tasks.1.body"),
    "a body that is an object": ({"task": "T-1", "body": {"a": 1}}, "tasks.1.body"),
    "a priority past the last": ({"task": "T-1", "priority": 5}, "tasks.1.priority"),
    "a priority below the first": ({"task": "T-1", "priority": -1}, "tasks.1.priority"),
    "half a priority": ({"task": "T-1", "priority": 1.5}, "tasks.1.priority"),
    "a priority in words": ({"task": "T-1", "priority": "high"}, "tasks.1.priority"),
    "a priority that is true": ({"task": "T-1", "priority": True}, "tasks.1.priority"),
    "a need of itself": ({"task": "T-1", "needs": ["T-1"]}, "tasks.1.needs"),
    "a need that no task can be called": (
        {"task": "T-1", "needs": ["fine", "no\nname"]},
        "tasks.1.needs.1",
    ),
    "a need that is no text": ({"task": "T-1", "needs": [7]}, "tasks.1.needs.0"),
    "needs that are one text": ({"task": "T-1", "needs": "T-2"}, "tasks.1.needs"),
    "needs that are nested": ({"task": "T-1", "needs": [["T-2"]]}, "tasks.1.needs.0"),
    "33 needs": ({"task": "T-1", "needs": [f"N-{n}" for n in range(33)]}, "tasks.1.needs"),
    "11 tags": ({"task": "T-1", "tags": [f"t{n}" for n in range(11)]}, "tasks.1.tags"),
    "a tag of two lines": ({"task": "T-1", "tags": ["a\nb"]}, "tasks.1.tags.0"),
    "an empty tag": ({"task": "T-1", "tags": [""]}, "tasks.1.tags.0"),
    "a long tag": ({"task": "T-1", "tags": ["x" * 51]}, "tasks.1.tags.0"),
    "a url that is none": ({"task": "T-1", "url": "javascript:alert(1)"}, "tasks.1.url"),
    "no attempts": ({"task": "T-1", "max_attempts": 0}, "tasks.1.max_attempts"),
    "a field that is none": ({"task": "T-1", "colour": "red"}, "tasks.1.colour"),
    "the same task": ({"task": "good"}, "tasks.1.task"),
    "a drop that is a word": ({"task": "T-1", "drop": "perhaps"}, "tasks.1.drop"),
}


@pytest.mark.parametrize("what", WRONG)
def test_whatever_is_wrong_is_named_and_nothing_is_written(ann: Caller, what: str) -> None:
    entry, field = WRONG[what]
    errors = errors_of(ann.post("tasks", tasks=[{"task": "good"}, entry]))
    assert field in errors
    assert "\n" not in errors[field]
    assert "\x1b" not in errors[field]
    assert names(ann) == []
    assert ann.get("events").json()["events"] == []


def test_every_bad_entry_is_named_at_once(ann: Caller) -> None:
    entries = [{"task": f"T-{n}", "priority": 9} if n % 2 else {"task": f"T-{n}"} for n in range(9)]
    errors = errors_of(ann.post("tasks", tasks=entries))
    assert errors.keys() == {f"tasks.{n}.priority" for n in (1, 3, 5, 7)}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"tasks": None},
        {"tasks": []},
        {"tasks": "T-1"},
        {"tasks": {"task": "T-1"}},
        {"tasks": 7},
    ],
    ids=str,
)
def test_a_list_that_is_none_is_refused(ann: Caller, given: dict[str, Any]) -> None:
    assert "tasks" in errors_of(ann.post("tasks", **given))


def test_500_entries_are_taken_and_501_are_not(ann: Caller) -> None:
    entries = [{"task": f"T-{n:03}"} for n in range(501)]
    refused = errors_of(ann.post("tasks", tasks=entries))
    assert "500" in refused["tasks"]
    assert names(ann) == []
    assert len(ann.post("tasks", tasks=entries[:500]).json()["created"]) == 500


def test_a_circle_is_refused_with_its_path(ann: Caller) -> None:
    ann.post("tasks", tasks=[{"task": "T-1", "needs": ["T-2"]}])
    entries = [{"task": "T-0", "needs": ["T-1"]}, {"task": "T-2", "needs": ["a b", "T-1"]}]
    errors = errors_of(ann.post("tasks", tasks=entries))
    assert errors == {"tasks.1.needs": "These need each other: T-2 needs T-1 needs T-2."}
    assert names(ann) == ["T-1"]


def test_a_circle_of_hundreds_is_refused_in_a_sentence(ann: Caller) -> None:
    many = 1_200
    entries = [{"task": f"T-{n}", "needs": [f"T-{n + 1}"]} for n in range(many)]
    for start in range(0, many, 500):
        assert ann.post("tasks", tasks=entries[start : start + 500]).status_code == 200
    closing = {"task": f"T-{many}", "needs": ["T-0"]}
    answer = ann.post("tasks", tasks=[closing])
    errors = errors_of(answer)
    assert errors["tasks.0.needs"].startswith(f"These need each other: T-{many} needs T-0 needs")
    assert "more)" in errors["tasks.0.needs"]
    assert len(answer.content) < 4_000


BODIES = {
    "markup": "<script>alert('x')</script> & \"quotes\" `ticks` {{ braces }}",
    "lines and tabs": "- [ ] one\n\t- two\n",
    "all planes": "任務 👩‍💻 é ẹ",
    "json in it": '{"task": "T-9", "drop": true}',
    "backslashes": "\\n \\u0000 \\",
}


@pytest.mark.parametrize("what", BODIES)
def test_a_text_comes_back_as_it_was_written(ann: Caller, what: str) -> None:
    ann.post("tasks", tasks=[{"task": "T-1", "body": BODIES[what]}])
    assert ann.post("claim", next=True).json()["listed"]["body"] == BODIES[what]
    assert ann.post("tasks", tasks=[{"task": "T-1", "body": BODIES[what]}]).json()["unchanged"]


def test_lines_that_end_as_on_windows_are_lines(ann: Caller) -> None:
    entry = {"task": "T-1", "body": "one\r\ntwo\r\n"}
    ann.post("tasks", tasks=[entry])
    assert ann.get("tasks/T-1").json()["listed"]["body"] == "one\ntwo\n"
    assert ann.post("tasks", tasks=[entry]).json()["unchanged"] == ["T-1"]


def test_a_text_loses_what_nobody_sees(ann: Caller) -> None:
    ann.post("tasks", tasks=[{"task": "T-1", "body": "do\u200b it\U000e0041"}])
    assert ann.get("tasks/T-1").json()["listed"]["body"] == "do it"


def test_a_body_of_a_mebibyte_is_taken_and_one_byte_more_is_not(ann: Caller) -> None:
    entries = [{"task": f"T-{n}", "body": "x" * 8_000} for n in range(125)]
    text = json.dumps({"tasks": entries}).encode()
    most = text + b" " * (MEBIBYTE - len(text))
    assert problem_of(raw(ann, most + b" "), 413, "too-large")
    assert names(ann) == []
    assert raw(ann, most).status_code == 200
    assert problem_of(ann.http.post(f"/v1/{ann.project}/claim", content=most), 413, "too-large")


def test_a_large_body_that_says_no_length_is_taken_and_bounded(ann: Caller) -> None:
    def chunks(many: int) -> Iterator[bytes]:
        yield b'{"tasks": [{"task": "T-1"}]'
        yield from (b" " * 50_000 for _ in range(many))
        yield b"}"

    head = {"Content-Type": "application/json"}
    path = f"/v1/{ann.project}/tasks"
    assert ann.http.post(path, content=chunks(12), headers=head).status_code == 200
    try:
        answer = ann.http.post(path, content=chunks(30), headers=head)
    except httpx.TransportError:
        return  # the service closed the connection before the client had sent all
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("body", "kind", "field"),
    [
        (b"tasks=T-1", "application/x-www-form-urlencoded", "tasks"),
        (b'tasks=[{"task":"T-1"}]', "application/x-www-form-urlencoded", "tasks"),
        (b'{"tasks": [{"task": "T-1"}]}', "text/plain", "Content-Type"),
        (b'[{"task": "T-1"}]', "application/json", "body"),
        (b'{"tasks": [{"task": "T-1"}', "application/json", "body"),
        (b'{"tasks": [{"task": "T-1"}]}\n{"tasks": []}', "application/json", "body"),
        (b'{"tasks": [{"task": "T-1"}], "tasks": [{"task": "T-2"}]}', "application/json", "body"),
        (b'{"tasks": [{"task": "T-1", "task": "T-2"}]}', "application/json", "body"),
        (b"\xef\xbb\xbf" + b'{"tasks": [{"task": "T-1"}]}', "application/json", "body"),
        (b'{"tasks": [{"task": "\xff"}]}', "application/json", "body"),
        (b'{"tasks": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "application/json", "body"),
        (b'{"tasks": ' + b'{"a":' * 900 + b"1" + b"}" * 901, "application/json", "body"),
        (
            b'{"tasks": [{"task": "T-1", "priority": 1e999}]}',
            "application/json",
            "tasks.0.priority",
        ),
        (b'{"tasks": [{"task": "\\ud800"}]}', "application/json", "body"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_list_in_json_is_refused_in_a_sentence(
    ann: Caller, body: bytes, kind: str, field: str
) -> None:
    answer = raw(ann, body, kind)
    assert field in errors_of(answer)
    assert len(answer.content) < 2_000
    assert names(ann) == []


def test_the_list_is_read_with_get_and_written_with_post_and_nothing_else(ann: Caller) -> None:
    for path, allow in (("tasks", "GET, HEAD, POST"), ("tasks/T-1", "GET, HEAD")):
        answer = ann.http.put(f"/v1/{ann.project}/{path}")
        assert problem_of(answer, 405, "wrong-method")
        assert answer.headers["allow"] == allow
    assert ann.http.head(f"/v1/{ann.project}/tasks").status_code == 200


def test_the_list_needs_a_session_to_be_written_and_none_to_be_read(
    service: ServiceProcess, project: str
) -> None:
    with httpx.Client(base_url=service.url) as nobody:
        body = {"tasks": [{"task": "T-1"}]}
        assert problem_of(nobody.post(f"/v1/{project}/tasks", json=body), 401, "bad-session")
        assert nobody.get(f"/v1/{project}/tasks").json()["tasks"] == []


def test_who_has_a_session_in_the_header_sees_what_is_mine(ann: Caller, bob: Caller) -> None:
    ann.post("tasks", tasks=[{"task": "T-1"}])
    ann.post("claim", next=True)
    assert ann.get("tasks").json()["tasks"][0]["mine"] is True
    assert bob.get("tasks").json()["tasks"][0]["mine"] is False


def test_the_events_tell_the_list(ann: Caller) -> None:
    ann.post("tasks", tasks=[{"task": "T-1"}, {"task": "T-2", "needs": ["T-1"]}])
    ann.post("tasks", tasks=[{"task": "T-2", "title": "two"}, {"task": "T-3"}])
    ann.post("claim", next=True)
    ann.post("release", task="T-1", outcome="done")
    ann.post("tasks", tasks=[{"task": "T-3", "drop": True}])
    ann.post("claim", task="T-1", reopen=True)
    told = [f"{e['type']} {e['task']}" for e in ann.get("events").json()["events"]]
    assert told == [
        *("listed T-1", "listed T-2", "changed T-2", "listed T-3", "claimed T-1"),
        *("ready T-2", "done T-1", "dropped T-3", "blocked T-2", "claimed T-1"),
    ]
