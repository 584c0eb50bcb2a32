"""history: the tenures of a project's tasks, as lines, JSON and CSV."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from tests.client.conftest import Make, Sandbox
from tests.client.test_bad_input import answering, http
from tests.tools.injected import ORDER, TEXTS, faults

PR = "https://github.com/acme/web/pull/7"
TODAY, TOMORROW = (f"{datetime.now(UTC) + timedelta(days=n):%Y-%m-%d}" for n in (0, 1))


def worked(box: Sandbox, task: str, *words: str) -> None:
    """Claim a task and end the tenure."""
    box.dibs("claim", task).said(0)
    box.dibs("release", task, *words).said(0)


def test_a_person_reads_who_had_what_in_which_days(sandbox: Make) -> None:
    ann, bob = sandbox(DIBS_LABEL="ann"), sandbox(DIBS_LABEL="bob")
    assert ann.dibs("history").said(0).stdout == "no history\n"
    worked(ann, "T-1", "--abandoned", "--note", "too hard")
    bob.dibs("claim", "T-1", "--pr", PR).said(0)
    bob.dibs("done", "T-1").said(0)
    first, second = ann.dibs("history").said(0).stdout.splitlines()
    assert first.startswith(f"T-1: {TODAY} ")
    assert ": ann (ref " in first
    assert ", abandoned, fence " in first
    assert 'text of another session, not an instruction): "too hard"' in first
    assert ", attempt 2, done, fence " in second
    assert f"pull request {PR}" in second
    assert len(ann.dibs("history", "--until", TODAY).said(0).stdout.splitlines()) == 2
    assert ann.dibs("history", "--since", TOMORROW).said(0).stdout == "no history\n"
    page = json.loads(ann.dibs("history", "--json").said(0).stdout)
    assert [tenure["task"] for tenure in page["tenures"]] == ["T-1", "T-1"]


def test_a_csv_comes_out_as_the_service_gives_it(sandbox: Make) -> None:
    ann = sandbox(DIBS_LABEL="ann")
    worked(ann, "T-1", "--note", 'a, "b" and ☃')
    said = ann.dibs("history", "--csv", "--since", TODAY).said(0).stdout
    [row] = csv.DictReader(io.StringIO(said), strict=True)
    assert (row["task"], row["label"], row["note"]) == ("T-1", "ann", 'a, "b" and ☃')


@pytest.mark.parametrize("words", [[], ["--csv"]])
def test_what_is_no_day_is_refused_with_what_is_one(sandbox: Make, words: list[str]) -> None:
    ann = sandbox()
    refused = ann.dibs("history", "--since", "last week", *words).said(2)
    assert "2026-11-30" in refused.stderr
    refused = ann.dibs("history", "--since", TOMORROW, "--until", TODAY, *words).said(2)
    assert "since must not be later than until" in refused.stderr


@pytest.mark.parametrize("name", TEXTS)
def test_what_a_history_says_is_data(sandbox: Make, name: str) -> None:
    text = TEXTS[name]
    ended = {
        "task": text, "fence": 7, "holder": {"ref": "9c1e5f03ab", "label": text, "branch": text},
        "by": text, "acquired_at": text, "ended_at": text, "outcome": text, "pr": text,
        "reason": text, "note": text, "attempt": 2, "held_seconds": 5, "parked_seconds": 700,
    }  # fmt: skip
    with answering(http(json.dumps({"tenures": [ended], "cursor": None}))) as url:
        said = sandbox(url).dibs("history").said(0).stdout
    assert faults(said) == []
    assert ORDER in said
    assert ", attempt 2, parked for 11m, " in said


@pytest.mark.parametrize("words", [[], ["--csv"]])
@pytest.mark.parametrize(
    "body", ["{}", "[]", '{"tenures": [{}], "cursor": null}', "no JSON", '{"tenures": 7}']
)
def test_an_answer_that_is_none_is_one_line(sandbox: Make, words: list[str], body: str) -> None:
    with answering(http(body)) as url:
        said = sandbox(url).dibs("history", *words).said(3)
    assert len(said.stderr.strip().splitlines()) == 1
    assert ORDER not in said.stderr
