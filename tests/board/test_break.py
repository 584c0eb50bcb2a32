"""A person breaks a claim: with a reason and a key, after reading the consequences."""

import base64
import contextlib
import json
import os
import signal
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from tests.board.conftest import ADMIN_KEY, Team, row, settles, tasks

Open = Callable[..., Page]
FORM = "application/x-www-form-urlencoded"


def asked(page: Page, task: str) -> None:
    """Open the dialog for a task."""
    row(page, task).locator("summary").click()
    row(page, task).locator("a.act").first.click()
    page.wait_for_selector("#asking[open] form")


def fill(page: Page, key: str = ADMIN_KEY) -> None:
    """Fill in the form and send it."""
    page.fill("#asking [name=reason]", "unreachable since lunch")
    page.fill("#asking [name=by]", "lea")
    page.fill("#asking [name=key]", key)
    page.click("#asking .danger")


@pytest.mark.long
def test_the_dialog_says_what_happens_then_breaks_and_the_holder_is_told(
    team: Team, board: Open
) -> None:
    claim = team.claim("ann", "T-12", branch="ann/t-12", note="halfway")
    team.waits("bob", "T-12")
    page = board()
    asked(page, "T-12")
    text = page.locator("#asking").inner_text()
    for fact in ("ann", "ann/t-12", "halfway", "not stopped", "bob, first of 1 waiting, is next"):
        assert fact in text
    assert str(claim["fence"]) in text
    fill(page)
    settles(lambda: tasks(page, "again") == ["T-12"], "the task is free again, and still there")
    assert not page.locator("#asking").is_visible()
    assert page.locator("#did").inner_text() == "The claim of ann on T-12 is broken."
    for fact in ("broken", "unreachable since lunch", "1 waiting: bob"):
        assert fact in row(page, "T-12").inner_text()
    status, problem = team.call("heartbeat", "ann", "T-12")
    assert (status, problem["code"], problem["reason"]) == (409, "lost", "broken")
    assert problem["note"] == "unreachable since lunch"
    assert problem["by"]["label"] == "lea"


def test_a_wrong_key_breaks_nothing_and_says_so(team: Team, board: Open) -> None:
    team.claim("ann", "T-12")
    page = board(expect_errors=True)
    asked(page, "T-12")
    fill(page, "not-the-key-of-this-service")
    alert = page.locator("#asking [role=alert]")
    alert.wait_for()
    assert "not an admin key" in alert.inner_text()
    assert page.input_value("#asking [name=reason]") == "unreachable since lunch"
    assert page.input_value("#asking [name=key]") == ""
    assert tasks(page) == ["T-12"]
    fill(page)
    settles(lambda: tasks(page, "again") == ["T-12"], "the right key breaks it")


def test_a_claim_that_changed_hands_meanwhile_is_not_broken(team: Team, board: Open) -> None:
    team.claim("ann", "T-12")
    page = board(expect_errors=True)
    asked(page, "T-12")
    team.release("ann", "T-12", "released")
    team.claim("bob", "T-12")
    fill(page)
    alert = page.locator("#asking [role=alert]")
    alert.wait_for()
    assert "nothing was done" in alert.inner_text()
    assert "bob" in page.locator("#asking").inner_text()
    assert team.call("heartbeat", "bob", "T-12")[0] == 200


def test_keep_it_and_escape_leave_everything_as_it_was(team: Team, board: Open) -> None:
    team.claim("ann", "T-12")
    page = board()
    asked(page, "T-12")
    page.click("#asking .cancel")
    assert not page.locator("#asking").is_visible()
    assert tasks(page) == ["T-12"]


def post(
    team: Team, form: dict[str, str], act: str = "break", **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Send the form as a browser does."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", team.service.port, timeout=10)
    body = urllib.parse.urlencode(form)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", f"/p/{team.project}/{act}", body, {"Content-Type": FORM, **sent})
    reply = connection.getresponse()
    text = reply.read().decode()
    connection.close()
    return reply.status, text, {k.lower(): v for k, v in reply.getheaders()}


@pytest.mark.parametrize(
    ("headers", "lets"),
    [
        ({"Sec_Fetch_Site": "same-origin"}, True),
        ({"Sec_Fetch_Site": "cross-site", "Origin": "https://evil.example"}, False),
        ({"Sec_Fetch_Site": "same-site"}, False),
        ({"Sec_Fetch_Site": "none"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://["}, False),
        ({}, False),
    ],
)
def test_only_a_page_of_this_service_may_send_the_form(
    team: Team, headers: dict[str, str], *, lets: bool
) -> None:
    fence = team.claim("ann", "T-12")["fence"]
    form = {"task": "T-12", "fence": str(fence), "reason": "r", "key": ADMIN_KEY}
    status, text, _ = post(team, form, **headers)
    assert status == (303 if lets else 404), text
    assert (team.call("heartbeat", "ann", "T-12")[0] == 200) is not lets


LURE = """<!doctype html><form method="post" action="{action}" enctype="{kind}">
<input name="{name}" value='{value}'></form><script>document.forms[0].submit()</script>
"""


@contextlib.contextmanager
def elsewhere(html: str) -> Iterator[str]:
    """Serve a page of another site and yield its address."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_said: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()


@pytest.mark.parametrize("kind", [FORM, "text/plain"])
def test_a_page_of_another_site_breaks_nothing_with_a_login_that_the_browser_sends(
    team: Team, browser: Browser, kind: str
) -> None:
    fence = team.claim("ann", "T-12")["fence"]
    login = base64.b64encode(f"lea:{ADMIN_KEY}".encode()).decode()
    wish = {"task": "T-12", "fence": fence, "reason": "a lure"}
    path = f"/v1/{team.project}/break"
    # Sent as text/plain, the form is JSON, with its `=` inside a string.
    name, value = json.dumps(wish)[:-1] + ', "by": "', '"}'
    if kind == FORM:
        name, value = "task", "T-12"
    lure = LURE.format(action=team.service.url + path, kind=kind, name=escape(name), value=value)
    context = browser.new_context(extra_http_headers={"Authorization": f"Basic {login}"})
    try:
        page = context.new_page()
        with elsewhere(lure) as address:
            with page.expect_response(lambda reply: reply.url.endswith(path)) as answered:
                page.goto(address)
            assert answered.value.status == 403
            assert "another site" in answered.value.text()
        assert team.call("heartbeat", "ann", "T-12")[0] == 200
        # The login itself is valid, and the service's own page may use it.
        page.goto(f"{team.service.url}/p/{team.project}")
        status = page.evaluate(
            """async ([path, wish]) => (await fetch(path, {method: "POST", body: wish,
                headers: {"Content-Type": "application/json"}})).status""",
            [path, json.dumps(wish)],
        )
        assert status == 200
        assert team.call("heartbeat", "ann", "T-12")[1]["code"] == "lost"
    finally:
        context.close()


def test_a_form_with_the_services_own_origin_passes_where_the_browser_says_no_more(
    team: Team,
) -> None:
    fence = team.claim("ann", "T-12")["fence"]
    form = {"task": "T-12", "fence": str(fence), "reason": "r", "key": ADMIN_KEY}
    assert post(team, form, Origin=team.service.url)[0] == 303


@pytest.mark.parametrize(
    "bad",
    [
        {"reason": " "},
        {"reason": "x" * 1001},
        {"fence": "soon"},
        {"fence": ""},
        {"task": ""},
        {"by": "x" * 101},
        {"by": "a\x00b"},
        {"reason": "a\x1bb"},
    ],
)
def test_a_form_that_breaks_a_rule_breaks_no_claim(team: Team, bad: dict[str, str]) -> None:
    fence = team.claim("ann", "T-12")["fence"]
    form = {"task": "T-12", "fence": str(fence), "reason": "r", "by": "", "key": ADMIN_KEY}
    status, _, _ = post(team, form | bad, Sec_Fetch_Site="same-origin")
    assert status in (409, 422)
    assert team.call("heartbeat", "ann", "T-12")[0] == 200


@pytest.mark.long
def test_a_service_without_an_admin_key_says_that_nobody_can_break(open_page: Open) -> None:
    from tests.harness.services import Running

    with Running("--memory") as service:
        team = Team(service)
        fence = team.claim("ann", "T-12")["fence"]
        page = open_page(f"{service.url}/p/{team.project}/break?task=T-12&fence={fence}")
        assert "DIBS_ADMIN_KEY" in page.locator("main").inner_text()
        assert page.locator("form").count() == 0
        status, _, _ = post(
            team,
            {"task": "T-12", "fence": str(fence), "reason": "r", "key": ""},
            Sec_Fetch_Site="same-origin",
        )
        assert status == 403
        service.stop()


def test_where_there_is_no_form_the_dialog_gives_way_to_the_page_that_says_why(
    team: Team, board: Open
) -> None:
    team.claim("ann", "T-12")
    page = board(expect_errors=True)
    why = "<!doctype html><main><h1>The store cannot answer</h1></main>"
    for method in ("GET", "POST"):
        page.goto(f"{team.service.url}/p/{team.project}")
        if method == "POST":
            asked(page, "T-12")
        page.route("**/break**", lambda route: route.fulfill(status=503, body=why))
        if method == "POST":
            fill(page)
        else:
            row(page, "T-12").locator("summary").click()
            row(page, "T-12").locator("a.act").first.click()
        page.wait_for_url("**/break**")
        assert page.locator("h1").inner_text() == "The store cannot answer"
        page.unroute("**/break**")


def test_a_person_is_told_where_nobody_knows_if_it_was_done(team: Team) -> None:
    fence = team.claim("ann", "T-12")["fence"]
    store = team.service.store()
    os.kill(store, signal.SIGSTOP)
    try:
        form = {"task": "T-12", "fence": str(fence), "reason": "r", "key": ADMIN_KEY}
        status, text, _ = post(team, form, Sec_Fetch_Site="same-origin")
    finally:
        os.kill(store, signal.SIGCONT)
    assert status == 503
    assert "Whether it was done is unknown" in text
    assert "http-equiv" not in text, "a reload would not repeat the break"
