"""A session keeps its identity in the real Claude Code: cleared, resumed, forked, sub-agents."""

import json
import uuid

import pytest
from tests.claude.claude_code import DIBS, agent, bash, claude, conversation
from tests.claude.scriptedmodel import together
from tests.client.conftest import Sandbox
from tests.harness.processes import until

CLOUD = {"CLAUDE_CODE_REMOTE": "true", "CLAUDE_CODE_REMOTE_SESSION_ID": "cse_01Ab"}


def seen(box: Sandbox, task: str) -> dict[str, object]:
    """Return the task as the service reports it."""
    return dict(box.dibs("show", task, "--json").said(0).json)


def said_at_start(asked: list[dict[str, object]], turn: int = 0) -> str:
    """Return the whole request of a turn, as JSON."""
    return json.dumps(asked[turn], ensure_ascii=False)


def test_clear_changes_neither_who_a_session_is_nor_what_it_holds(repo: Sandbox) -> None:
    steps = [bash(f"{DIBS} claim T-1"), {"text": "one"}]
    steps += [bash(f"{DIBS} verify T-1"), bash(f"{DIBS} claim T-1"), {"text": "two"}]
    with conversation(repo, *steps) as talk:
        talk.say("Work on T-1")
        first, before = talk.id, seen(repo, "T-1")
        talk.say("/clear")
        assert seen(repo, "T-1")["state"] == "parked"  # by the end of the turn, not by the clear
        talk.say("Go on")
        assert talk.id != first
        after = seen(repo, "T-1")
        assert after["fence"] == before["fence"]
        verified, claimed = talk.model.results()
        assert "T-1: held by you" in verified
        assert "yours since" in claimed
        assert "holds T-1" in said_at_start(talk.model.asked, -3)
        talk.end()
    assert seen(repo, "T-1")["state"] == "free"


def test_two_sessions_that_are_cleared_in_one_checkout_stay_two(repo: Sandbox) -> None:
    steps = [
        bash(f"{DIBS} claim T-%s"),
        {"text": "one"},
        bash(f"{DIBS} list --mine"),
        {"text": "-"},
    ]

    def for_task(number: str) -> list[dict[str, object]]:
        return json.loads(json.dumps(steps).replace("%s", number))

    with conversation(repo, *for_task("1")) as one, conversation(repo, *for_task("2")) as other:
        one.say("Work on T-1")
        other.say("Work on T-2")
        one.say("/clear")
        other.say("/clear")
        other.say("Go on")
        one.say("Go on")
        assert "T-1" in one.model.results()[-1]
        assert "T-2" not in one.model.results()[-1]
        assert "T-2" in other.model.results()[-1]
        assert "T-1" not in other.model.results()[-1]


@pytest.mark.parametrize("flag", ["--resume", "--continue"])
def test_a_resumed_session_of_the_cloud_goes_on_with_its_claim(repo: Sandbox, flag: str) -> None:
    name = str(uuid.uuid4())
    claude(repo, bash(f"{DIBS} claim T-1"), flags=("--session-id", name), env=CLOUD)
    before = seen(repo, "T-1")
    assert before["state"] == "parked"
    words = (flag, name) if flag == "--resume" else (flag,)
    model = claude(repo, bash(f"{DIBS} claim T-1"), flags=words, env=CLOUD)
    assert "holds T-1" in said_at_start(model.asked)
    assert "yours since" in model.results()[-1]
    assert seen(repo, "T-1")["fence"] == before["fence"]


def test_a_local_session_that_is_resumed_holds_nothing_and_takes_its_task_again(
    repo: Sandbox,
) -> None:
    name = str(uuid.uuid4())
    claude(repo, bash(f"{DIBS} claim T-1"), flags=("--session-id", name))
    model = claude(repo, bash(f"{DIBS} claim T-1"), flags=("--resume", name))
    assert "holds no task" in said_at_start(model.asked)
    assert "VM is new" not in said_at_start(model.asked)
    assert "T-1: held by you" in model.results()[-1]


def test_a_fork_is_another_session_that_inherits_no_claim_and_is_told_so(repo: Sandbox) -> None:
    with conversation(repo, bash(f"{DIBS} claim T-1"), {"text": "one"}) as talk:
        talk.say("Work on T-1")
        before = seen(repo, "T-1")
        flags = ("--resume", talk.id, "--fork-session")
        model = claude(repo, bash(f"{DIBS} claim T-1"), bash(f"{DIBS} list --mine"), flags=flags)
        assert "fork" in said_at_start(model.asked)
        assert "T-1 is" in model.results()[-2]  # parked or held by another session
        assert "T-1" not in model.results()[-1]
        after = seen(repo, "T-1")
        assert (after["fence"], after["holder"]) == (before["fence"], before["holder"])


def test_of_sub_agents_in_parallel_one_gets_a_task_and_each_knows_whose_it_is(
    repo: Sandbox,
) -> None:
    subs = {
        word: [bash(f"{DIBS} claim S-1 --any S-2 S-3"), bash(f"{DIBS} claim S-9"), {"text": "-"}]
        for word in ("ALPHA", "BRAVO", "CHARLIE")
    }
    steps = [bash(f"{DIBS} claim T-1"), together(*map(agent, subs))]
    model = claude(repo, *steps, subs=subs)
    results = {word: model.results(word) for word in subs}
    free = [
        next(t for t in ("S-1", "S-2", "S-3") if f"{t}: held by you" in some[0])
        for some in results.values()
    ]
    assert sorted(free) == ["S-1", "S-2", "S-3"]
    assert sum("S-9: held by you" in some[1] for some in results.values()) == 1
    for word in subs:
        assert "T-1" in said_at_start(model.asked_by[word])  # the parent's claim
    until(lambda: seen(repo, "S-9")["state"] == "free", "the sub-agents' tasks are free")
    assert {seen(repo, task)["state"] for task in ("S-1", "S-2", "S-3", "T-1")} == {"free"}
