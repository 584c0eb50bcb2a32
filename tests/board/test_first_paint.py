"""The board is complete before any script has run."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page
from tests.board.conftest import ADMIN_KEY, Team, row, tasks
from tests.harness import processes

Open = Callable[..., Page]
STILL = {"java_script_enabled": False}


@pytest.mark.long
def test_without_scripts_the_board_shows_who_is_on_what(team: Team, board: Open) -> None:
    team.busy()
    page = board(**STILL)
    held = row(page, "T-12").inner_text()
    for fact in ("ann", "ann/t-12", "working", "heard <1 min ago", "1 h 59 min", "1 waiting: bob"):
        assert fact in held
    assert row(page, "T-12").locator("a[href='https://example.org/ann']").count() == 1
    assert tasks(page, "parked") == ["T-18"]
    assert "Which currency?" in row(page, "T-18").inner_text()
    assert tasks(page, "working") == ["T-12", "T-15"]
    assert tasks(page, "done") == ["T-3"]
    assert "acme/shop#41" in row(page, "T-3").inner_text()


def test_without_scripts_the_summary_and_what_happened_are_there(team: Team, board: Open) -> None:
    team.busy()
    page = board(**STILL)
    assert page.locator(".headline").inner_text() == "1 waits for a person."
    counts = {
        one.get_attribute("data-count"): one.inner_text()
        for one in page.locator(".tile [data-count]").all()
    }
    told = {name: counts[name] for name in ("held", "parked", "stale", "waiting", "done")}
    assert told == {"held": "2", "parked": "1", "stale": "0", "waiting": "1", "done": "1"}
    assert "dan finished T-3" in page.locator("#recent").inner_text()
    assert "Reload to update" in page.locator("#link").inner_text()


def test_a_row_says_what_other_task_its_name_looks_like(team: Team, board: Open) -> None:
    team.claim("ann", "T-12")
    team.claim("bob", "t-012")
    page = board(**STILL)
    assert "resembles T-12" in row(page, "t-012").inner_text()
    assert "resembles" not in row(page, "T-12").inner_text()


def test_without_scripts_the_details_open_and_show_the_fence(team: Team, board: Open) -> None:
    fence = team.claim("ann", "T-12")["fence"]
    page = board(**STILL)
    assert not page.get_by_text(str(fence)).is_visible()
    row(page, "T-12").locator("summary").click()
    assert page.get_by_text(str(fence)).is_visible()


def test_without_scripts_the_filter_is_a_form_and_its_answer_a_url(team: Team, board: Open) -> None:
    team.busy()
    page = board(**STILL)
    page.fill("#q", "backoff")
    page.click("#filter button")
    assert page.url.endswith(f"/p/{team.project}?q=backoff&state=&holder=&sort=")
    assert tasks(page) == ["T-15"]
    page.click("a.clear")
    assert len(tasks(page)) == 4


def test_without_scripts_a_claim_can_be_broken(team: Team, board: Open) -> None:
    team.claim("ann", "T-12 & more/#1")
    page = board(**STILL)
    row(page, "T-12 & more/#1").locator("summary").click()
    page.click("tr a.act")
    assert "Break the claim on T-12 & more/#1?" in page.locator("h1").inner_text()
    page.fill("textarea", "gone since yesterday")
    page.fill("[name=by]", "lea")
    page.fill("[name=key]", ADMIN_KEY)
    page.click("button.danger")
    assert page.locator(".did").inner_text() == "The claim of ann is broken."
    page.click(f"text={team.project}")
    assert tasks(page, "again") == ["T-12 & more/#1"]
    assert "lea broke T-12 & more/#1, which ann held" in page.locator("#recent").inner_text()


def test_the_first_page_lists_projects_with_counts(team: Team, open_page: Open) -> None:
    team.busy()
    page = open_page(team.service.url + "/")
    line = page.locator("tr", has=page.get_by_role("link", name=team.project, exact=True))
    assert [cell.inner_text() for cell in line.locator("td").all()[:8]] == [*"21000001"]
    page.click(f"text={team.project}")
    assert page.locator("h1").inner_text() == team.project


def test_a_project_that_nobody_used_says_how_to_connect_a_repository(
    team: Team, board: Open, tmp_path: Path
) -> None:
    page = board()
    commands = [block.inner_text() for block in page.locator("pre").all()]
    assert team.service.url in commands[0]
    repository = tmp_path / "repository"
    for command in ("git init -q .", "git remote add origin https://example.org/acme/shop.git"):
        repository.mkdir(exist_ok=True)
        processes.run(command.split(), cwd=repository, check=True)
    who = "git config user.email a@example.org; git config user.name A; set -e\n"
    home = {"HOME": str(tmp_path), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    home |= {"DIBS_PROJECT": team.project, "DIBS_LABEL": "newcomer"}
    done: Any = processes.run(
        ["bash", "-c", who + "\n".join(commands)],
        cwd=repository,
        env=home,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    row(page, "T-1").wait_for(timeout=5_000)
    assert "newcomer" in row(page, "T-1").inner_text()
    assert not page.locator("pre").first.is_visible()


def test_a_name_that_is_no_project_gets_a_page_that_says_so(team: Team, open_page: Open) -> None:
    page = open_page(team.service.url + "/p/-nope", expect_errors=True)
    assert "is not a project" in page.locator("main").inner_text()


def test_no_page_mentions_a_session(team: Team, board: Open) -> None:
    team.busy()
    html = board(**STILL).content()
    assert not [secret for secret in team.sessions.values() if secret in html]
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-4", html)
