"""The board shows tasks in review, the verdicts, and earlier holders."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Page
from tests.board.conftest import Team, row, settles, tasks
from tests.board.test_safety import a_claim
from tests.harness.processes import until

from dibs.board import rows, summary
from dibs.store.board_tasks import BoardTask
from dibs.store.counts import Pulse

Open = Callable[..., Page]
STILL = {"java_script_enabled": False}
PR = "https://github.com/acme/shop/pull/41"


def shown(page: Page, task: str) -> str:
    """Return the text of a row in one line."""
    return " ".join(row(page, task).inner_text().split())


@pytest.mark.long
def test_a_review_is_there_with_its_pull_request_its_author_and_how_long_it_has(
    team: Team, board: Open
) -> None:
    team.write({"task": "T-1", "title": "Round the prices"}, {"task": "T-2", "needs": ["T-1"]})
    page = board()
    team.claim("ann", "T-1", branch="ann/t-1", url="https://example.org/ann")
    team.review("ann", "T-1", PR, note="tests pass")
    settles(lambda: tasks(page, "review") == ["T-1"], "it is in review")
    for at in (page, board(**STILL)):
        for fact in ("review", "for <1 min", "ann", "ann/t-1", "6 d", "acme/shop#41", "tests pass"):
            assert fact in shown(at, "T-1"), fact
        assert row(at, "T-1").locator(f"a[href='{PR}']").count() == 1
        assert row(at, "T-1").locator("a[href='https://example.org/ann']").count() == 1
        assert at.locator("[data-count=review]").inner_text() == "1"
        assert "T-1 (review)" in shown(at, "T-2")
    assert "ann waits for a review of T-1" in page.locator("#recent").inner_text()
    page.goto(f"{team.service.url}/")
    line = page.locator("tr", has=page.get_by_role("link", name=team.project, exact=True))
    until(lambda: page.reload() and "1" in line.locator("td.review").all_inner_texts()[0], "lobby")


def test_a_review_that_runs_out_asks_for_a_person() -> None:
    now = datetime.now(UTC)
    facts = {"state": "review", "heartbeat_at": now, "expires_at": now + timedelta(days=7)}
    week = a_claim(**facts, expires_in=7 * 86_400)
    day = a_claim(**facts, expires_in=86_400 - 1)
    assert [rows.kind(week), rows.kind(day)] == ["review", "expiring"]
    found = [row for one in (week, day) if (row := rows.row(BoardTask(one)))]
    counts = summary.count(found, Pulse(0, 0, 0), {})
    assert (counts.review, counts.attention) == (2, 1)
    assert counts.headline == "1 review runs out."
    assert 'class="pill expiring">review<' in "".join(rows.render(found[1]))
    assert not found[0].same_but_clocks(found[1]), "the late row is rendered again"


def test_what_was_merged_is_among_what_is_finished_and_its_dependents_are_ready(
    team: Team, board: Open
) -> None:
    team.write("T-1", {"task": "T-2", "needs": ["T-1"]})
    team.claim("ann", "T-1")
    team.review("ann", "T-1", PR)
    page = board()
    team.person("resolve", pr=PR, outcome="merged", sha="0a1b2c3")
    settles(lambda: tasks(page, "done") == ["T-1"], "it is done")
    for fact in ("merged", "ann", "acme/shop#41"):
        assert fact in shown(page, "T-1")
    assert tasks(page, "ready") == ["T-2"]
    assert "T-1 was merged, which ann had" in page.locator("#recent").inner_text()
    page.goto(f"{team.service.url}/p/{team.project}/t/T-1")
    assert "its pull request was merged" in page.locator(".standing").inner_text()


def test_who_finishes_it_without_a_merge_has_not_merged_it(team: Team, board: Open) -> None:
    team.claim("ann", "T-1")
    team.review("ann", "T-1", PR)
    team.release("ann", "T-1", pr=PR)
    page = board()
    assert "done" in shown(page, "T-1")
    assert "merged" not in shown(page, "T-1")
    assert "ann finished T-1" in page.locator("#recent").inner_text()


@pytest.mark.long
@pytest.mark.parametrize(("listed", "section"), [(True, "ready"), (False, "again")])
def test_what_was_rejected_says_so_and_the_next_row_says_who_had_it_before(
    team: Team, board: Open, section: str, *, listed: bool
) -> None:
    if listed:
        team.write("T-1")
    team.claim("ann", "T-1", branch="ann/t-1")
    team.review("ann", "T-1", PR)
    page = board()
    team.person("resolve", task="T-1", outcome="rejected", note="wrong rounding")
    settles(lambda: tasks(page, section) == ["T-1"], "it may be had again")
    for fact in ("ann", "ann/t-1", "rejected", "wrong rounding", "acme/shop#41"):
        assert fact in shown(page, "T-1")
    assert "lea rejected T-1, which ann had" in page.locator("#recent").inner_text()
    team.claim("bob", "T-1")
    settles(lambda: tasks(page, "working") == ["T-1"], "bob has it")
    assert "before: ann, rejected, acme/shop#41" in shown(page, "T-1")
    assert "before: ann, rejected, acme/shop#41" in shown(board(**STILL), "T-1")


@pytest.mark.long
def test_all_that_was_finished_in_the_last_day_is_there(team: Team, board: Open) -> None:
    for number in range(60):
        team.claim("ann", f"T-{number:02}")
        team.release("ann", f"T-{number:02}")
    assert len(tasks(board(**STILL), "done")) == 60


def test_a_review_can_be_broken(team: Team, board: Open) -> None:
    team.claim("ann", "T-1")
    team.review("ann", "T-1", PR)
    page = board()
    row(page, "T-1").locator("summary").click()
    row(page, "T-1").get_by_role("link", name="Break this claim…").click()
    page.wait_for_selector("#asking[open] form")
    assert "now in review" in page.locator("#asking").inner_text()
