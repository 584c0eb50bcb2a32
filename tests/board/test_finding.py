"""Filter, search, sort and keyboard: the URL has the selection, and keys reach every action."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page
from tests.board.conftest import Team, row, settles, tasks

Open = Callable[..., Page]


@pytest.mark.long
def test_searching_changes_the_url_and_a_url_searches(team: Team, board: Open) -> None:
    team.busy()
    page = board()
    page.fill("#q", "BACKOFF")
    assert tasks(page) == ["T-15"]
    assert page.url.endswith("?q=BACKOFF")
    assert page.locator("#shown").inner_text() == "1 of 4 shown"
    page.reload()
    assert tasks(page) == ["T-15"]
    page.fill("#q", "nothing like it")
    assert page.locator("#nothing").is_visible()


@pytest.mark.long
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?state=held", ["T-12", "T-15"]),
        ("?state=attention", ["T-18"]),
        ("?state=done", ["T-3"]),
        ("?state=queue", ["T-12"]),
        ("?state=stale", []),
        ("?holder=bob", ["T-15"]),
        ("?q=t-1&sort=holder&state=held", ["T-12", "T-15"]),
        ("?q=ann%2Ft-12", ["T-12"]),
        ("?state=bogus&sort=bogus&other=1", ["T-18", "T-12", "T-15", "T-3"]),
    ],
)
def test_the_service_and_the_script_filter_alike(
    team: Team, board: Open, query: str, found: list[str]
) -> None:
    team.busy()
    assert tasks(board(query, java_script_enabled=False)) == found
    page = board(query)
    page.evaluate("arrange()")
    assert tasks(page) == found


@pytest.mark.parametrize("sort", ["", "left", "task", "holder"])
def test_the_service_and_the_script_sort_alike(team: Team, board: Open, sort: str) -> None:
    for who, task, ttl in (("cat", "b", "3h"), ("Bob", "A", "1h"), ("ann", "c", "2h")):
        team.claim(who, task, ttl=ttl)
    for task in ("e", "d"):
        team.claim("dan", task)
        team.release("dan", task)
    still = tasks(board(f"?sort={sort}", java_script_enabled=False))
    page = board(f"?sort={sort}")
    page.evaluate("arrange()")
    assert tasks(page) == still
    wanted = {"left": ["A", "c", "b"], "task": ["A", "b", "c"], "holder": ["c", "A", "b"]}
    assert still[:3] == wanted.get(sort, still[:3])


def test_a_filter_holds_while_claims_come_and_go(team: Team, board: Open) -> None:
    team.claim("ann", "T-1")
    page = board("?holder=ann")
    team.claim("bob", "T-2")
    team.claim("ann", "T-3")
    row(page, "T-3").wait_for(timeout=5_000)
    assert tasks(page) == ["T-1", "T-3"]
    assert page.locator("#shown").inner_text() == "2 of 3 shown"
    page.select_option("[name=holder]", "bob")
    assert tasks(page) == ["T-2"]
    assert page.url.endswith("?holder=bob")


def test_a_number_in_the_summary_filters_and_again_shows_all(team: Team, board: Open) -> None:
    team.busy()
    page = board()
    tile = page.locator("a.tile.parked")
    tile.click()
    assert tasks(page) == ["T-18"]
    assert tile.get_attribute("aria-current") == "true"
    assert page.url.endswith("?state=parked")
    tile.click()
    assert len(tasks(page)) == 4
    assert page.url.endswith(team.project)


def test_the_keyboard_alone_finds_a_claim_and_reaches_its_break(team: Team, board: Open) -> None:
    team.busy()
    page = board()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.type("T-1")
    settles(lambda: tasks(page) == ["T-18", "T-12", "T-15"], "the search has its effect")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.dataset.task") == "T-12"
    page.keyboard.press("Enter")
    assert row(page, "T-12").locator("details").get_attribute("open") is not None
    for _ in range(4):  # to the task's page, the session's link, the details, the break
        page.keyboard.press("Tab")
    assert "Break" in page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    page.wait_for_selector("#asking[open]")
    assert page.evaluate("document.activeElement.name") == "reason"
    page.keyboard.press("Escape")
    assert not page.locator("#asking").is_visible()
    assert "Break" in page.evaluate("document.activeElement.textContent")


def test_a_question_mark_shows_the_keys(team: Team, board: Open) -> None:
    page = board()
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()


def test_a_letter_typed_into_a_field_is_no_command(team: Team, board: Open) -> None:
    team.claim("ann", "jk/?")
    page = board()
    page.focus("#q")
    page.keyboard.type("jk/?")
    assert page.input_value("#q") == "jk/?"
    assert tasks(page) == ["jk/?"]
