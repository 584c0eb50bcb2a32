"""Texts of another party reach an agent as data: framed, quoted, cut, and through no hook."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from tests.client.conftest import Make
from tests.client.parts import client
from tests.client.test_bad_input import answering, http
from tests.client.test_hooks import LOCAL, edit
from tests.tools.injected import NOTE_FRAME, ORDER, TEXTS, faults

from dibs import messages
from dibs.model import Fence, Holder, Loss, Task

REF = "9c1e5f03ab"


def holder(text: str) -> dict[str, Any]:
    """Return a holder with `text` in every field."""
    return {"ref": REF, "label": text, "branch": text, "url": text}


def claim(text: str, **fields: Any) -> dict[str, Any]:
    """Return a claim with `text` in every field."""
    before = {"outcome": "lapsed", "holder": holder(text), "note": text, "at": "2026-01-01"}
    return {
        "task": text, "state": "held", "fence": 7, "ttl": 600, "expires_in": 600,
        "holder": holder(text), "note": text, "pr": text, "mine": False, "previous": before,
    } | fields  # fmt: skip


def loss(text: str, reason: str = "lapsed", **fields: Any) -> dict[str, Any]:
    """Return a loss with `text` in every field that a service can set."""
    by = holder(text) if reason == "lapsed" else {"ref": "", "label": text}
    at = "2026-01-01T12:31:00Z"
    return {
        "task": text, "fence": 7, "reason": reason, "at": at, "by": by, "note": text
    } | fields  # fmt: skip


def test_client_and_service_frame_alike() -> None:
    for text in [*TEXTS.values(), "T-1", "feature/parser#2", "über", "x" * 41]:
        assert client.quoted(text) == messages.quoted(text)
        assert client.word(text) == messages.word(text)
    by = Holder("9c1e5f03ab", "ann", "main")
    assert client.holder_name(msgspec.to_builtins(by)) == messages.who(by)
    framed = client.about_note("done", msgspec.to_builtins(by))
    gone = Loss(
        task=Task("T-1"), fence=Fence(7), reason="lapsed", at=datetime.now(UTC), by=by, note="done"
    )
    assert f" A {framed}." in messages.lost(gone)


def told(said: str, texts: Iterable[str] = TEXTS) -> None:
    """Assert that an output has all of the texts, as data."""
    assert faults(said) == []
    assert said.count(ORDER) >= len(list(texts))


def test_the_line_of_a_claim_frames_every_word(sandbox: Make) -> None:
    claims = [claim(text) for text in TEXTS.values()]
    with answering(http(json.dumps({"claims": claims}))) as url:
        answer = sandbox(url).dibs("beat").said(0)
    told(answer.stdout)
    assert len(NOTE_FRAME.findall(answer.stdout)) == len(TEXTS)
    assert answer.stdout.count("\n") == 1


def test_the_history_of_a_claim_is_framed(sandbox: Make) -> None:
    claims = [claim(text, mine=True) for text in TEXTS.values()]
    with answering(http(json.dumps({"claims": claims}))) as url:
        answer = sandbox(url).dibs("claim", "T-1", "--all", "T-2").said(0)
    told(answer.stdout)
    told(answer.stderr)
    assert len(NOTE_FRAME.findall(answer.stderr)) == len(TEXTS)
    assert answer.stderr.count("\n") == len(TEXTS)


@pytest.mark.parametrize("words", ["show T-1", "verify T-1 --fence 7"])
def test_what_is_shown_of_one_task_is_framed(sandbox: Make, words: str) -> None:
    for name in ("a new line", "tag characters", "the end of the frame", "a wall of text"):
        with answering(http(json.dumps(claim(TEXTS[name], current=True)))) as url:
            told(sandbox(url).dibs(*words.split()).said(0).stdout, [name])


def test_what_was_released_is_quoted(sandbox: Make) -> None:
    released = [{"task": text, "state": text} for text in TEXTS.values()]
    with answering(http(json.dumps({"released": released}))) as url:
        told(sandbox(url).dibs("release", "--all").said(0).stdout)


def test_a_table_carries_no_control_characters(sandbox: Make) -> None:
    table = "TASK\n" + "".join(json.dumps(t, ensure_ascii=False) + "\n" for t in TEXTS.values())
    with answering(http(table, kind="text/plain")) as url:
        said = sandbox(url).dibs("list").said(0).stdout
    assert [c for c in said if not (c.isprintable() or c == "\n")] == []


@pytest.mark.parametrize("reason", ["lapsed", "broken"])
def test_a_loss_is_framed_for_who_asks(sandbox: Make, reason: str) -> None:
    texts = list(TEXTS.items())
    for some in (texts[i : i + 5] for i in range(0, len(texts), 5)):
        lost = [loss(text, reason) for _, text in some]
        with answering(http(json.dumps({"claims": [], "lost": lost}))) as url:
            answer = sandbox(url).dibs("beat").said(4)
        told(answer.stderr, [name for name, _ in some])
        assert len(NOTE_FRAME.findall(answer.stderr)) == len(some)


@pytest.mark.parametrize("reason", ["lapsed", "broken"])
@pytest.mark.parametrize("name", TEXTS)
def test_no_word_of_another_comes_with_a_hook(sandbox: Make, name: str, reason: str) -> None:
    text = TEXTS[name]
    held = http(json.dumps(claim(text, task="T-1", mine=True)))
    lost = http(json.dumps({"claims": [], "lost": [loss(text, reason, task="T-1")]}))
    with answering(held, lost, held, lost, http(json.dumps(claim(text, task="T-1")))) as url:
        ann = sandbox(url, **LOCAL)
        ann.dibs("claim", "T-1").said(0)
        ann.stamp_is_old()
        heard = ann.hook("UserPromptSubmit").stdout
        assert "was lost" not in json.dumps(edit(ann))
        ann.dibs("claim", "T-1").said(0)
        start = ann.hook("SessionStart", source="resume").stdout
        shown = ann.dibs("show", "T-1").said(0)
    for said in (start, heard):
        assert f"T-1 was lost: {reason} at 2026-01-01 12:31Z" in said
        assert "a note exists: `dibs show T-1`" in said
        assert ("now with ref " + REF in said) == (reason == "lapsed")
        assert ORDER not in said
        assert faults(start) == []
    told(shown.stderr, [name])
    told(shown.stdout, [name])
    assert NOTE_FRAME.search(shown.stderr)


@pytest.mark.long
def test_a_task_of_any_name_is_quoted_by_a_hook(sandbox: Make) -> None:
    ann = sandbox(DIBS_SESSION="3f2b8c1e-6d4a-4f0b-9a7e-2c5d8e1f0a3b", **LOCAL)
    for text in TEXTS.values():
        reply = {"claims": [claim(text, mine=True)], "lost": [loss(text, fence=1)]}
        with answering(http(json.dumps(reply))) as url:
            said = ann.hook("SessionStart", {"DIBS_URL": url}, source="resume").stdout
        assert faults(said) == []
        assert said.count(ORDER) >= 2


@pytest.mark.long
def test_a_refusal_of_any_length_is_a_line(sandbox: Make) -> None:
    for text in TEXTS.values():
        detail = json.dumps({"code": "held", "detail": text * 50, "claim": claim(text)})
        with answering(http(detail, "409 Conflict", "application/problem+json")) as url:
            said = sandbox(url).dibs("claim", "T-1").said(1).stderr
        assert said.count("\n") == 1
        assert [c for c in said if not (c.isprintable() or c == "\n")] == []
        assert len(said) < 4100


@pytest.mark.parametrize("name", ["a new line", "colours", "an order", "a wall of text"])
def test_what_a_strange_host_or_a_checkout_says_is_quoted(sandbox: Make, name: str) -> None:
    line = " ".join(TEXTS[name].split())
    with answering(http("", "302 Found", more=f"Location: {line}\r\n")) as url:
        ann = sandbox(url)
        conf = ann.repo / ".claude/skills/dibs/dibs.conf"
        conf.parent.mkdir(parents=True)
        conf.write_text(f"project = {line}\nurl = https://{line}\n")
        said = ann.dibs("claim", "T-1").said(3).stderr
        init = ann.dibs("init", DIBS_URL=None).said(2).stderr
        doctor = ann.dibs("doctor", DIBS_PROJECT=None).said(2)
    for some in (said, init, doctor.stdout + doctor.stderr):
        assert faults(some) == []
        assert (ORDER in some) == (some is not init or "dibs.conf has" in some)
    assert "the project's name is not like owner.repo" in doctor.stdout


def test_doctor_takes_no_answer_for_a_clock_that_is_none(sandbox: Make) -> None:
    with answering(http(json.dumps({"claims": [], "server_time": TEXTS["an order"]}))) as url:
        told(sandbox(url).dibs("doctor").said(0).stdout, ["an order"])
    with answering(http('{"claims": []}')) as url:
        sandbox(url).dibs("doctor").said(0)


@pytest.mark.parametrize(
    ("shift", "shown"),
    [(0, 11), (-11 * 3600, 11), (11 * 3600, 11), (-13 * 3600, 0), (13 * 3600, 0), (864_000, 0)],
)
def test_an_instant_that_is_not_near_is_told_with_its_day(shift: int, shown: int) -> None:
    instant = (datetime.now(UTC) + timedelta(seconds=shift)).strftime("%Y-%m-%dT%H:%M:%SZ")
    whole = f"{instant[:10]} {instant[11:16]}Z"
    assert client.moment_of(instant) == whole[shown:]


@pytest.mark.parametrize("text", [*TEXTS.values(), "", "2026", "x" * 16, "²026-11-30T07:55"])
def test_what_is_no_instant_is_told_as_data(text: str) -> None:
    assert client.moment_of(text) == messages.quoted(text)
