"""People's actions on tasks: each form asks for a reason and a key, and confirms the result."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page
from tests.board.conftest import ADMIN_KEY, Team, row, settles, tasks
from tests.board.test_access import SIZES, violations
from tests.board.test_break import post

Open = Callable[..., Page]
STILL = {"java_script_enabled": False}
HERE = {"Sec_Fetch_Site": "same-origin"}
FORMS = ("break", "hold", "unhold", "retry")


def stage(team: Team, act: str) -> dict[str, str]:
    """Bring T-1 into the state that the act applies to; return the fields of its form."""
    form = {"task": "T-1", "reason": "because", "by": "lea", "key": ADMIN_KEY}
    if act == "break":
        form["fence"] = str(team.claim("ann", "T-1")["fence"])
    elif act == "retry":
        team.write("T-1")
        team.fails("T-1")
    else:
        team.write("T-1")
        if act == "unhold":
            team.person("hold", task="T-1", reason="wait")
    return form


def state(team: Team) -> str:
    """Return the state of T-1."""
    answer: str = team.service.ask("GET", f"/v1/{team.project}/tasks/T-1")[1]["state"]
    return answer


BEFORE = {"break": "held", "hold": "ready", "unhold": "on-hold", "retry": "failed"}
AFTER = {"break": "free", "hold": "on-hold", "unhold": "ready", "retry": "ready"}
BUTTON = {"break": "Break this claim…", "hold": "Put on hold…", "unhold": "End the hold…"}
BUTTON["retry"] = "Let it be tried again…"
TOLD = {
    "break": "The claim of ann on T-1 is broken.",
    "hold": "T-1 is on hold.",
    "unhold": "T-1 is no longer on hold.",
    "retry": "T-1 may be tried again.",
}
TOLD_THERE = {
    "break": "The claim of ann is broken.",
    "hold": "It is on hold.",
    "unhold": "It is no longer on hold.",
    "retry": "It may be tried again.",
}
"""The confirmations on the page of the task, where its name is clear."""
SECTION = {"break": "again", "hold": "hold", "unhold": "ready", "retry": "ready"}


def fill(page: Page) -> None:
    """Fill in the fields that every form has, and send it."""
    page.fill("#act [name=reason]", "because")
    page.fill("#act [name=by]", "lea")
    page.fill("#act [name=key]", ADMIN_KEY)
    page.locator("#act form button").click()


@pytest.mark.long
@pytest.mark.parametrize("act", FORMS)
def test_a_dialog_does_it_and_the_board_shows_it_and_says_so(
    team: Team, board: Open, act: str
) -> None:
    stage(team, act)
    page = board()
    assert state(team) == BEFORE[act]
    row(page, "T-1").locator("summary").click()
    row(page, "T-1").get_by_role("link", name=BUTTON[act], exact=True).click()
    page.wait_for_selector("#asking[open] form")
    fill(page)
    settles(lambda: tasks(page, SECTION[act]) == ["T-1"], "the board has it where it is now")
    assert page.locator("#did").inner_text() == TOLD[act]
    assert page.evaluate("document.querySelector('#asking').open") is False
    assert state(team) == AFTER[act]
    told = page.locator("#recent li").first.inner_text()
    assert "lea" in told
    assert "because" in told


@pytest.mark.parametrize("act", FORMS)
def test_without_scripts_it_leads_to_the_task_which_says_that_it_is_done(
    team: Team, open_page: Open, act: str
) -> None:
    stage(team, act)
    page = open_page(f"{team.service.url}/p/{team.project}/t/T-1", **STILL)
    page.get_by_role("link", name=BUTTON[act], exact=True).click()
    fill(page)
    assert f"/p/{team.project}/t/T-1?" in page.url
    assert page.locator(".did").inner_text() == TOLD_THERE[act]
    assert state(team) == AFTER[act]


@pytest.mark.long
def test_a_page_confirms_nothing_that_is_not_so(team: Team, open_page: Open) -> None:
    fence = team.claim("ann", "T-1")["fence"]
    team.person("hold", task="T-2", reason="wait")
    team.fails("T-3")
    for query in (
        f"T-1?did=break&fence={fence}",
        "T-2?did=unhold",
        "T-3?did=retry",
        "T-1?did=hold",
    ):
        page = open_page(f"{team.service.url}/p/{team.project}/t/{query}", **STILL)
        assert page.locator(".did").count() == 0
    page.goto(f"{team.service.url}/p/{team.project}?did=hold")
    assert not page.locator("#did").is_visible()


def test_a_break_may_keep_the_task_back(team: Team, board: Open) -> None:
    team.claim("ann", "T-1")
    page = board()
    row(page, "T-1").locator("summary").click()
    row(page, "T-1").get_by_role("link", name=BUTTON["break"]).click()
    page.check("#asking [name=hold]")
    fill(page)
    settles(lambda: tasks(page, "hold") == ["T-1"], "the task is on hold")
    assert "put on hold by lea: because" in row(page, "T-1").inner_text()
    status, problem = team.call("claim", "bob", "T-1")
    assert (status, problem["code"]) == (409, "on-hold")


def test_a_hold_lasts_as_long_as_was_chosen(team: Team, board: Open) -> None:
    team.write("T-1")
    page = board()
    row(page, "T-1").locator("summary").click()
    row(page, "T-1").get_by_role("link", name=BUTTON["hold"]).click()
    page.select_option("#asking [name=until]", label="4 hours")
    fill(page)
    settles(lambda: tasks(page, "hold") == ["T-1"], "the task is on hold")
    assert "3 h 59 min" in row(page, "T-1").inner_text()


def test_what_is_done_may_be_done_again(team: Team, board: Open) -> None:
    team.write("T-1", {"task": "T-2", "needs": ["T-1"]})
    team.claim("ann", "T-1")
    team.release("ann", "T-1", pr="https://x.example/pull/7")
    page = board()
    row(page, "T-1").locator("summary").click()
    row(page, "T-1").get_by_role("link", name="Do it again…").click()
    page.wait_for_selector("#asking[open] form")
    assert "ann finished it" in page.locator("#asking").inner_text()
    fill(page)
    settles(lambda: tasks(page, "ready") == ["T-1"], "it may be had again")
    assert tasks(page, "blocked") == ["T-2"]


@pytest.mark.parametrize("how", [{}, STILL], ids=["dialog", "no scripts"])
def test_a_whole_project_is_kept_back_and_let_go(
    team: Team, board: Open, how: dict[str, Any]
) -> None:
    team.write("T-1")
    page = board(**how)
    page.get_by_role("link", name="Put project on hold…").click()
    assert f"Put all of {team.project} on hold?" in page.locator("#act").inner_text()
    fill(page)
    page.wait_for_selector(".held-back")
    assert page.locator("#did").inner_text() == "The project is on hold."
    status, problem = team.call("claim", "bob", "T-1")
    assert (status, problem["code"], problem["of"]) == (409, "on-hold", "project")
    page.locator(".held-back a.act").click()
    page.get_by_text(f"End the hold on all of {team.project}?").wait_for()
    assert "because" in page.locator("#act").inner_text()
    fill(page)
    page.wait_for_selector(".held-back", state="detached")
    assert page.locator("#did").inner_text() == "The project is no longer on hold."
    assert team.call("claim", "bob", "T-1")[0] == 201


@pytest.mark.parametrize("act", FORMS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {},
    ],
    ids=str,
)
def test_a_page_of_another_site_does_nothing(team: Team, act: str, headers: dict[str, str]) -> None:
    form = stage(team, act)
    status, text, _ = post(team, form, act, **headers)
    assert status == 404, text
    assert state(team) == BEFORE[act]


@pytest.mark.parametrize("act", FORMS)
@pytest.mark.parametrize(
    ("bad", "status"),
    [
        ({"key": "not-the-key-of-this-service"}, 403),
        ({"key": ""}, 403),
        ({"reason": " \n"}, 422),
        ({"reason": "x" * 1001}, 422),
        ({"reason": "a\x1bb"}, 422),
        ({"by": "x" * 101}, 422),
        ({"by": "a\x00b"}, 422),
        ({"task": " T-1"}, 422),
        ({"task": "x" * 201}, 422),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_done(
    team: Team, act: str, bad: dict[str, str], status: int
) -> None:
    answered, text, _ = post(team, stage(team, act) | bad, act, **HERE)
    # An invalid name has no task to show next to the error.
    assert answered == (409 if "task" in bad else status), text
    assert 'role="alert"' in text
    assert state(team) == BEFORE[act]


@pytest.mark.parametrize("task", ["日本 №1", "é/é", "T-1"])
def test_what_was_done_leads_to_the_page_of_its_task_whatever_that_is_called(
    team: Team, task: str
) -> None:
    form = {"task": task, "reason": "because", "key": ADMIN_KEY}
    status, _, headers = post(team, form, "hold", **HERE)
    assert status == 303
    place = headers["location"]
    assert place.isascii()
    status, page, _ = team.service.ask("GET", place)
    assert (status, "It is on hold." in page) == (200, True)
    assert f"<h1>{task}</h1>" in page


@pytest.mark.parametrize("act", FORMS)
def test_the_form_and_its_answers_keep_the_key_to_themselves(team: Team, act: str) -> None:
    _, text, _ = post(team, stage(team, act) | {"reason": ""}, act, **HERE)
    assert ADMIN_KEY not in text
    _, _, headers = post(team, stage(team, "hold") | {"task": ""}, "hold", **HERE)
    assert ADMIN_KEY not in headers["location"]


@pytest.mark.parametrize("act", [act for act in FORMS if act != "hold"])
def test_where_there_is_nothing_to_do_the_page_says_so(
    team: Team, open_page: Open, act: str
) -> None:
    url = f"{team.service.url}/p/{team.project}/{act}?task=T-1"
    page = open_page(url, expect_errors=True)
    assert "othing" in page.locator("h1").inner_text()
    assert page.locator("form").count() == 0


def test_a_task_that_somebody_took_meanwhile_is_not_tried_again(team: Team) -> None:
    team.write("T-1")
    first = team.claim("ann", "T-1")
    team.release("ann", "T-1")
    team.claim("bob", "T-1", reopen=True)
    form = {"task": "T-1", "reason": "because", "by": "", "key": ADMIN_KEY}
    status, text, _ = post(team, form | {"fence": str(first["fence"])}, "retry", **HERE)
    assert status == 409
    assert "nothing was done" in text
    status, text, _ = post(team, form, "retry", **HERE)
    assert status == 409
    assert "bob" in text
    assert team.call("heartbeat", "bob", "T-1")[0] == 200


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing_wrong_with_what_asks(
    team: Team, open_page: Open, size: str, scheme: str
) -> None:
    fence = stage(team, "break")["fence"]
    team.person("hold", task="H-1", reason="wait")
    team.fails("F-1")
    how: dict[str, Any] = {"viewport": SIZES[size], "color_scheme": scheme}
    for query in (
        *(f"break?task=T-1&fence={fence}", "hold?task=T-1", "hold", "unhold?task=H-1"),
        "retry?task=F-1",
    ):
        page = open_page(f"{team.service.url}/p/{team.project}/{query}", **how)
        assert page.locator("form").count() == 1
        assert violations(page) == []
