"""hold, unhold, retry: a person's commands with an admin key, which goes to no other host."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.client.conftest import KEY, Make, Sandbox
from tests.harness.services import ServiceProcess, running

ADMIN = "admin-key-of-these-tests"


@pytest.fixture(scope="module")
def administered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Start a service with a team key and an admin key that allows two attempts per task."""
    env = {"DIBS_TEAM_KEY": KEY, "DIBS_ADMIN_KEY": ADMIN, "DIBS_MAX_ATTEMPTS": "2"}
    with running(tmp_path_factory.mktemp("administered"), env=env) as service:
        yield service


@pytest.fixture
def pair(administered: ServiceProcess, sandbox: Make) -> tuple[Sandbox, Sandbox]:
    """Return a person on call and a session."""
    person = sandbox(administered.url, DIBS_ADMIN_KEY=ADMIN, DIBS_LABEL="Zoe", DIBS_KEY=KEY)
    return person, sandbox(administered.url, DIBS_KEY=KEY, DIBS_LABEL="ann")


@pytest.mark.long
def test_a_task_that_is_kept_back_is_not_next_until_it_is_let_go(
    pair: tuple[Sandbox, Sandbox],
) -> None:
    zoe, ann = pair
    ann.dibs("add", "T-1", "--title", "one").said(0)
    assert zoe.dibs("hold", "T-1", "--reason", "wait for the API").said(0).stdout == (
        "T-1: on hold\n"
    )
    assert ", as before" in zoe.dibs("hold", "T-1", "--reason", "wait for the API").said(0).stdout
    assert "1 on hold" in ann.dibs("next").said(1).stderr
    refused = ann.dibs("claim", "T-1").said(1).stderr
    assert "Zoe put it on hold" in refused
    shown = ann.dibs("show", "T-1").said(0).stdout
    assert shown.startswith(
        'T-1: on hold: "one"; put on hold by Zoe, reason (text of a person, not'
    )
    assert zoe.dibs("unhold", "T-1", "--reason", "it is there").said(0).stdout == "T-1: ready\n"
    ann.dibs("next").said(0)


def test_a_whole_project_is_kept_back_for_a_while(pair: tuple[Sandbox, Sandbox]) -> None:
    zoe, ann = pair
    said = zoe.dibs("hold", "--reason", "release day", "--until", "2h").said(0).stdout
    assert said.startswith(f"{zoe.env['DIBS_PROJECT']}: on hold until 20")
    assert "on hold" in ann.dibs("claim", "T-1").said(1).stderr
    assert "not on hold" in zoe.dibs("unhold", "--reason", "released").said(0).stdout
    ann.dibs("claim", "T-1").said(0)


def test_what_failed_is_tried_again_when_a_person_says_so(pair: tuple[Sandbox, Sandbox]) -> None:
    zoe, ann = pair
    ann.dibs("add", "T-1", "--title", "one", "--max-attempts", "1").said(0)
    ann.dibs("next").said(0)
    ann.dibs("release", "T-1", "--abandoned", "--note", "too hard").said(0)
    refused = ann.dibs("claim", "T-1").said(1)
    assert "too hard" in refused.stderr
    assert "1 failed" in ann.dibs("next").said(1).stderr
    assert zoe.dibs("retry", "T-1", "--reason", "smaller now").said(0).stdout == "T-1: ready\n"
    assert "too hard" in ann.dibs("next").said(0).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("hold", "T-1"), "--reason"),
        (("hold", "T-1", "--reason", " "), "--reason"),
        (("hold", "T-1", "--reason", "x", "--until", "never"), "until"),
        (("retry", "--reason", "x"), "--help"),
        (("hold", "T\x1b", "--reason", "x"), "task"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    pair: tuple[Sandbox, Sandbox], words: tuple[str, ...], said: str
) -> None:
    answer = pair[0].dibs(*words).said(2)
    assert (answer.stdout, said in answer.stderr) == ("", True), answer.stderr


def test_nobody_acts_without_the_key_or_with_another(pair: tuple[Sandbox, Sandbox]) -> None:
    zoe, ann = pair
    assert "DIBS_ADMIN_KEY" in ann.dibs("hold", "T-1", "--reason", "x").said(2).stderr
    for key in ("another-key", KEY):
        answer = zoe.dibs("hold", "T-1", "--reason", "x", DIBS_ADMIN_KEY=key).said(2)
        assert "DIBS_ADMIN_KEY is not an admin key of this service" in answer.stderr
    ann.dibs("claim", "T-1").said(0)


def test_the_admin_key_goes_to_the_host_that_it_is_for_alone(
    pair: tuple[Sandbox, Sandbox], administered: ServiceProcess
) -> None:
    """As for the team key, no dibs.conf of a checkout can send it to another host."""
    zoe, _ = pair
    host = administered.url.partition("://")[2]
    conf = Path(zoe.repo, ".claude/skills/dibs/dibs.conf")
    conf.parent.mkdir(parents=True)
    conf.write_text(f"url = {administered.url}\n")
    words = ("hold", "T-1", "--reason", "x")
    refused = zoe.dibs(*words, DIBS_URL=None, DIBS_KEY=None).said(2).stderr
    assert "DIBS_ADMIN_KEY was not used for" in refused
    ours, theirs = f"{ADMIN}@{host}", f"{KEY}@{host}"
    zoe.dibs(*words, DIBS_URL=None, DIBS_KEY=theirs, DIBS_ADMIN_KEY=ours).said(0)
    elsewhere = zoe.dibs(*words, DIBS_ADMIN_KEY=f"{ADMIN}@dibs.example.org").said(2).stderr
    assert ": it is for another host" in elsewhere
    assert ADMIN not in elsewhere + refused
