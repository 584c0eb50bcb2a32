"""The client asks by name for a claim that the service no longer lists, and reports it as lost."""

import json
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.client.conftest import Make, Sandbox
from tests.client.test_bad_input import answering, http
from tests.client.test_hooks import LOCAL, edit
from tests.client.test_words_of_others import claim, holder
from tests.harness.services import running

from dibs.store.local.embedded import EmbeddedStore

AT = "2026-01-01T12:31:00Z"


def mine(task: str, **fields: Any) -> dict[str, Any]:
    """Return a claim that the caller holds."""
    return claim("x", task=task, mine=True, note=None, previous=None) | fields


def said(reply: Any, status: str = "200 OK") -> bytes:
    """Return an answer of the service as bytes."""
    kind = "application/json" if status == "200 OK" else "application/problem+json"
    return http(json.dumps(reply), status, kind)


HELD = (said(mine("T-1")), said(mine("T-2")))
NEITHER = said({"claims": [mine("T-2")], "lost": []})
GONE = {"code": "lost", "title": "Lost", "detail": "The store forgot it.", "task": "T-1"}
FORGOTTEN = GONE | {"reason": "forgotten", "at": AT, "by": holder("bob"), "note": None}
NOT_HOLDER = {"code": "not-holder", "detail": "bob does.", "task": "T-1"}


def two_held(ann: Sandbox) -> Sandbox:
    """Claim T-1 and T-2."""
    ann.dibs("claim", "T-1").said(0)
    ann.dibs("claim", "T-2").said(0)
    return ann


def tasks_of(ann: Sandbox) -> set[str]:
    """Return the tasks in the state file."""
    [path] = ann.state_files()
    return set(json.loads(path.read_text())["claims"])


@pytest.mark.parametrize(
    ("problem", "how"),
    [
        (FORGOTTEN, "forgotten at 2026-01-01 12:31Z, now with bob (ref 9c1e5f03ab)"),
        (FORGOTTEN | {"reason": "lapsed", "by": None}, "lapsed at 2026-01-01 12:31Z"),
        (GONE, "forgotten at "),
        (NOT_HOLDER | {"claim": claim("bob", task="T-1")}, "now with bob (ref 9c1e5f03ab)"),
    ],
)
def test_a_beat_tells_what_became_of_a_claim_that_nobody_named(
    sandbox: Make, problem: dict[str, Any], how: str
) -> None:
    with answering(*HELD, NEITHER, said(problem, "409 Conflict")) as url:
        ann = two_held(sandbox(url))
        answer = ann.dibs("beat", "--json").said(4)
    assert [loss["task"] for loss in answer.json["lost"]] == ["T-1"]
    assert "T-1 was lost: " in answer.stderr
    assert how in answer.stderr
    assert tasks_of(ann) == {"T-2"}


def test_the_hook_that_finds_out_tells_it(sandbox: Make) -> None:
    nothing = said({"claims": [], "lost": []})
    with answering(HELD[0], nothing, said(FORGOTTEN, "409 Conflict")) as url:
        ann = sandbox(url, **LOCAL)
        ann.dibs("claim", "T-1").said(0)
        ann.stamp_is_old()
        said_by = json.loads(ann.hook("PostToolUse").stdout)["hookSpecificOutput"]
        told = said_by["additionalContext"]
        assert "was lost" not in json.dumps(edit(ann))
    assert "T-1 was lost: forgotten at 2026-01-01 12:31Z, now with ref 9c1e5f03ab." in told


def test_the_start_of_a_session_tells_it(sandbox: Make) -> None:
    nothing = said({"claims": [], "lost": []})
    with answering(HELD[0], nothing, said(FORGOTTEN, "409 Conflict")) as url:
        ann = sandbox(url, **LOCAL)
        ann.dibs("claim", "T-1").said(0)
        told = ann.hook("SessionStart", source="resume").stdout
    assert "T-1 was lost: forgotten at 2026-01-01 12:31Z" in told
    assert "holds no task" in told


def test_what_the_session_ended_itself_is_no_loss(sandbox: Make) -> None:
    done = NOT_HOLDER | {"claim": mine("T-1", state="done")}
    with answering(*HELD, NEITHER, said(done, "409 Conflict")) as url:
        ann = two_held(sandbox(url))
        ann.dibs("beat").said(0)
    assert tasks_of(ann) == {"T-2"}


def test_a_claim_that_is_there_by_its_name_goes_on(sandbox: Make) -> None:
    with answering(*HELD, NEITHER, said(mine("T-1", fence=8))) as url:
        ann = two_held(sandbox(url))
        ann.dibs("beat").said(0)
    assert tasks_of(ann) == {"T-1", "T-2"}


def test_where_nobody_answers_it_is_asked_again(sandbox: Make) -> None:
    down = said({"code": "unavailable", "detail": "The store is down."}, "503 Unavailable")
    with answering(*HELD, NEITHER, down, NEITHER, said(FORGOTTEN, "409 Conflict")) as url:
        ann = two_held(sandbox(url))
        ann.dibs("beat").said(0)
        assert tasks_of(ann) == {"T-1", "T-2"}
        ann.dibs("beat").said(4)
    assert tasks_of(ann) == {"T-2"}


@pytest.mark.long
def test_after_a_store_was_flushed_the_client_says_so(sandbox: Make, tmp_path: Path) -> None:
    store = EmbeddedStore.start(tmp_path / "store")
    try:
        with running(tmp_path / "data", env={"DIBS_REDIS_URL": store.url}) as service:
            ann = sandbox(service.url)
            ann.dibs("claim", "T-1").said(0)
            with redis.Redis.from_url(store.url) as raw:
                for key in raw.scan_iter(f"*{ann.env['DIBS_PROJECT']}*"):
                    raw.delete(key)
            answer = ann.dibs("beat").said(4)
            assert "T-1 was lost: forgotten at " in answer.stderr
            assert ann.dibs("claim", "T-1").said(0).stderr == ""
    finally:
        store.stop()
