"""The board shows every listed, held or past task: in its section, in order, live."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page
from tests.board.conftest import Team, row, settles, tasks
from tests.harness.processes import until

Open = Callable[..., Page]
STILL = {"java_script_enabled": False}
LIST: list[dict[str, Any]] = [
    {"task": "T-1", "title": "Round the prices", "priority": 3},
    {"task": "T-2", "title": "Move the rates", "priority": 0},
    {"task": "T-10", "title": "Before T-3, written down first"},
    {"task": "T-3", "priority": 1, "tags": ["api"]},
    {"task": "T-4", "priority": 4, "needs": ["T-2", "T-3"]},
    {"task": "T-5", "needs": ["T-4"]},
]


def shown(page: Page, task: str) -> str:
    """Return the text of a row."""
    text: str = row(page, task).inner_text()
    return text


def next_ones(team: Team) -> list[str]:
    """Claim the next task as a new session until nothing is ready; return the tasks in order."""
    found: list[str] = []
    while True:
        path = f"/v1/{team.project}/claim"
        who = team.session(f"next-{len(found)}")
        status, answer, _ = team.service.ask("POST", path, {"next": True}, who)
        if status == 409:
            return found
        found.append(answer["task"])


@pytest.mark.long
def test_ready_is_in_the_order_of_next(team: Team, board: Open) -> None:
    team.write(*LIST)
    team.claim("ann", "T-10")
    team.release("ann", "T-10", "released")
    still, live = board(**STILL), board()
    in_order = ["T-2", "T-3", "T-10", "T-1"]
    assert tasks(still, "ready") == tasks(live, "ready") == in_order
    live.evaluate("arrange()")
    assert tasks(live, "ready") == in_order
    team.write({"task": "T-0", "priority": 2}, {"task": "T-1", "priority": 1})
    in_order = ["T-2", "T-1", "T-3", "T-10", "T-0"]
    settles(lambda: tasks(live, "ready") == in_order, "the order follows the list")
    assert next_ones(team) == in_order


def test_a_task_goes_through_the_sections_by_itself(team: Team, board: Open) -> None:
    page = board()
    team.write(*LIST)
    settles(lambda: len(tasks(page, "ready")) == 4, "what was listed is there")
    assert tasks(page, "blocked") == ["T-5", "T-4"]
    assert "Round the prices" in shown(page, "T-1")
    team.claim("ann", "T-2")
    settles(lambda: tasks(page, "working") == ["T-2"], "what is claimed is worked on")
    assert "Move the rates" in shown(page, "T-2")
    assert "T-2 (held), T-3 (ready)" in shown(page, "T-4")
    team.release("ann", "T-2")
    settles(lambda: "needs T-3 (ready)" in shown(page, "T-4"), "one need is done")
    assert tasks(page, "done") == ["T-2"]
    team.claim("ann", "T-3")
    settles(lambda: "needs T-3 (held)" in shown(page, "T-4"), "the other is worked on")
    team.release("ann", "T-3")
    settles(lambda: "T-4" in tasks(page, "ready"), "all that it needs is done")
    assert "needs T-4 (ready)" in shown(page, "T-5")
    team.write({"task": "T-5", "drop": True})
    settles(lambda: row(page, "T-5").count() == 0, "what was dropped is gone")


def test_what_a_task_needs_is_a_link_to_it(team: Team, board: Open) -> None:
    team.write({"task": "T-4", "needs": ["lib/a b#1", "never heard of"]}, "lib/a b#1")
    page = board(**STILL)
    assert "needs lib/a b#1 (ready), never heard of (unknown)" in shown(page, "T-4")
    row(page, "T-4").get_by_role("link", name="lib/a b#1").click()
    assert page.locator("h1").inner_text() == "lib/a b#1"


def test_of_many_needs_the_first_are_named_and_all_are_counted(team: Team, board: Open) -> None:
    team.write({"task": "T", "needs": [f"N-{number}" for number in range(9)]})
    assert "N-0 (unknown), N-1 (unknown), N-2 (unknown) and 6 more" in shown(board(**STILL), "T")


@pytest.mark.long
@pytest.mark.parametrize("ends", ["released", "abandoned", "broken"])
def test_a_task_that_somebody_had_stays_until_somebody_has_it_again(
    team: Team, board: Open, ends: str
) -> None:
    page = board()
    claim = team.claim("ann", "T-1", branch="ann/t-1", note="halfway")
    team.waits("bob", "T-1")
    if ends == "broken":
        team.person("break", task="T-1", fence=claim["fence"], reason="halfway")
    else:
        team.release("ann", "T-1", ends, note="halfway")
    settles(lambda: tasks(page, "again") == ["T-1"], "it is free again")
    still = board(**STILL)
    for at in (page, still):
        for fact in ("ann", "ann/t-1", ends, "halfway", "1 waiting: bob"):
            assert fact in shown(at, "T-1")
        assert at.locator("[data-count=waiting]").inner_text() == "1"
    team.claim("bob", "T-1")
    settles(lambda: tasks(page, "working") == ["T-1"], "bob has it")
    assert tasks(page, "again") == []


def test_what_is_listed_and_was_given_up_is_ready_and_says_so(team: Team, board: Open) -> None:
    team.write("T-1")
    team.claim("ann", "T-1")
    team.release("ann", "T-1", "abandoned", note="needs a decision")
    page = board()
    assert tasks(page, "ready") == ["T-1"]
    for fact in ("ann", "abandoned", "needs a decision", "priority 2"):
        assert fact in shown(page, "T-1")


def test_a_task_whose_attempts_are_used_up_asks_for_a_person(team: Team, board: Open) -> None:
    team.write("T-1", "T-2")
    page = board()
    team.fails("T-1", note="cannot be built")
    settles(lambda: tasks(page, "failed") == ["T-1"], "it failed")
    for fact in ("failed", "run-4", "abandoned, attempt 5", "cannot be built"):
        assert fact in shown(page, "T-1")
    assert page.locator(".headline").inner_text() == "1 failed."
    assert page.title().startswith("(1) ")
    team.person("retry", task="T-1", reason="the build is mended")
    settles(lambda: tasks(page, "ready") == ["T-1", "T-2"], "it may be had again")
    assert "lea lets T-1 be tried again" in page.locator("#recent").inner_text()


def test_what_a_person_keeps_back_is_on_hold_the_first_to_be_let_go_leading(
    team: Team, board: Open
) -> None:
    team.write("T-1", "T-2")
    page = board()
    team.person("hold", task="T-1", reason="wait for legal")
    team.person("hold", task="new", reason="later", until="2h")
    settles(lambda: tasks(page, "hold") == ["new", "T-1"], "both are on hold")
    assert "put on hold by lea: wait for legal" in shown(page, "T-1")
    assert "until a person ends it" in shown(page, "T-1")
    assert "1 h 59 min" in shown(page, "new")
    assert tasks(page, "ready") == ["T-2"]
    team.claim("ann", "T-2")
    team.person("hold", task="T-2", reason="not again")
    settles(
        lambda: "on hold after this claim, by lea: not again" in shown(page, "T-2"), "it runs on"
    )
    assert tasks(page, "working") == ["T-2"]
    team.person("unhold", task="T-1", reason="they agree")
    settles(lambda: tasks(page, "ready") == ["T-1"], "it may be claimed again")


def test_a_project_that_is_kept_back_says_so_on_every_page_of_it(team: Team, board: Open) -> None:
    team.write("T-1")
    page, still = board(), board(**STILL)
    assert not page.locator(".held-back").count()
    team.person("hold", reason="release freeze", until="2h")
    page.wait_for_selector(".held-back")
    assert "lea put this project on hold, for 1 h 59 min" in page.locator(".held-back").inner_text()
    assert "release freeze" in page.locator(".held-back").inner_text()
    still.reload()
    assert "release freeze" in still.locator(".held-back").inner_text()
    still.goto(f"{team.service.url}/")
    line = still.locator("tr", has=still.get_by_role("link", name=team.project, exact=True))
    until(lambda: still.reload() and "on hold" in line.inner_text(), "so does the first page")
    team.person("unhold", reason="the tag is out")
    page.wait_for_selector(".held-back", state="detached")
    assert "lea ended the hold on the project" in page.locator("#recent").inner_text()


@pytest.mark.long
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?state=ready", ["T-2", "T-3", "T-10"]),
        ("?state=blocked", ["T-5", "T-4"]),
        ("?state=failed", ["F-1"]),
        ("?state=on-hold", ["T-1"]),
        ("?state=free", ["A-1"]),
        ("?state=attention", ["F-1"]),
        ("?q=rates", ["T-2"]),
        ("?q=run%2F4", ["F-1"]),
        ("?holder=ann", ["A-1"]),
        ("?state=ready&sort=task", ["T-10", "T-2", "T-3"]),
        ("?state=ready&sort=holder", ["T-10", "T-2", "T-3"]),
    ],
)
def test_the_service_and_the_script_filter_and_sort_them_alike(
    team: Team, board: Open, query: str, found: list[str]
) -> None:
    team.write(*LIST)
    team.fails("F-1")
    team.claim("ann", "A-1")
    team.release("ann", "A-1", "released")
    team.person("hold", task="T-1", reason="wait")
    assert tasks(board(query, **STILL)) == found
    page = board(query)
    page.evaluate("arrange()")
    assert tasks(page) == found


def test_a_number_stands_for_each_section_that_has_something(team: Team, board: Open) -> None:
    team.write(*LIST)
    page = board()
    assert page.locator("[data-count=ready]").inner_text() == "4"
    assert page.locator("[data-count=blocked]").inner_text() == "2"
    assert not page.locator(".tile.failed").is_visible()
    assert page.locator(".headline").inner_text() == "Nobody works: 4 tasks are ready."
    page.click("a.tile.blocked")
    assert tasks(page) == ["T-5", "T-4"]
    page.goto(f"{team.service.url}/")
    line = page.locator("tr", has=page.get_by_role("link", name=team.project, exact=True))
    first = line.locator("td:nth-child(-n+8)")
    until(
        lambda: page.reload() and first.all_inner_texts() == [*"0000042"],
        "the first page has them, too",
    )


def test_many_that_are_listed_at_once_are_one_line_of_what_happened(
    team: Team, board: Open
) -> None:
    page = board()
    team.write(*(f"T-{number:03}" for number in range(60)))
    settles(lambda: tasks(page, "ready")[59:] == ["T-059"], "all are there")
    lines = page.locator("#recent li").all_inner_texts()
    assert len(lines) <= 3, lines
    assert "more were listed" in lines[0]


@pytest.mark.long
def test_of_a_long_list_the_first_are_there_and_the_rest_are_counted(
    team: Team, board: Open
) -> None:
    team.write(*(f"T-{number:03}" for number in range(250)))
    page = board("?state=ready")
    assert tasks(page) == [f"T-{number:03}" for number in range(200)]
    heading = page.locator("#ready h2")
    assert "200 and 50 more; these are the first, in the order of dibs next" in heading.inner_text()
    assert page.locator("[data-count=ready]").inner_text() == "250"
    team.write({"task": "later"}, {"task": "first", "priority": 0})
    settles(lambda: tasks(page)[0] == "first", "what comes first is there")
    assert len(tasks(page)) == 200
    assert "later" not in tasks(page)
    assert next_ones(team)[:3] == ["first", "T-000", "T-001"]
