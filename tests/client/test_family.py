"""A family: sub-agents with their own sessions, and one session in several repositories."""

import json
import os
import uuid
from typing import Any

import pytest
from tests.client.agents import Agent
from tests.client.conftest import KEY, Make, Sandbox
from tests.client.test_hooks import state_of
from tests.client.test_trust import serving
from tests.harness.processes import until
from tests.harness.services import ServiceProcess

ME = {"CLAUDE_CODE_SESSION_ID": "5f0e"}
CLOUD = {"CLAUDE_CODE_REMOTE": "true", "CLAUDE_CODE_REMOTE_SESSION_ID": "cse_01Ab"}


def told(text: str) -> str:
    """Return the text that a hook adds to the agent's context."""
    return str(json.loads(text)["hookSpecificOutput"]["additionalContext"]) if text else ""


def beaten(ann: Sandbox, task: str, **env: str) -> str:
    """Return the time of a task's last heartbeat."""
    return str(ann.dibs("show", task, "--json", **env).said(0).json["heartbeat_at"])


def ages(ann: Sandbox, latest: str = "T-1", **env: str) -> None:
    """Make every claim, up to the latest, a second old for its service, and every stamp due."""
    made = beaten(ann, latest, **env)
    until(
        lambda: ann.dibs("list", "--json", **env).said(0).json["server_time"] > made,
        "the claims are a second old",
    )
    ann.stamp_is_old()


def test_three_sub_agents_are_three_sessions_and_one_has_the_task(sandbox: Make) -> None:
    ann = sandbox(**ME)
    answers = [ann.dibs("claim", "S-1", "--any", "S-2", "--as", n, "--json") for n in ("a", "b")]
    assert [answer.said(0).json["task"] for answer in answers] == ["S-1", "S-2"]
    refused = ann.dibs("claim", "S-1", "--as", "c").said(1)
    assert "S-1 is held by 5f0e/a (ref " in refused.stderr
    labels = [answer.json["holder"]["label"] for answer in answers]
    assert labels == ["5f0e/a", "5f0e/b"]
    assert len({answer.json["holder"]["ref"] for answer in answers}) == 2
    kept = [json.loads(path.read_text())["session"] for path in ann.state_files()]
    assert len(set(kept)) == len(kept) == 3


def test_asking_again_says_that_the_grant_is_an_old_one(sandbox: Make) -> None:
    ann = sandbox(**ME)
    assert ann.dibs("claim", "T-1").said(0).stdout.startswith("T-1: held by you, 30m left, fence")
    claim = ann.dibs("show", "T-1", "--json").said(0).json
    since, until = claim["acquired_at"][11:16], claim["expires_at"][11:16]
    again = ann.dibs("claim", "T-1").said(0).stdout
    assert again.startswith(f"T-1: yours since {since}Z, by this session, until {until[:3]}")
    first = ann.dibs("claim", "T-2", "--any", "T-1").said(0).stdout
    assert "T-1: yours since" in first
    assert ", so no other was taken" in first
    both = ann.dibs("claim", "T-1", "--all", "T-5").said(0).stdout
    assert "T-1: yours since" in both
    assert "; T-5: held by you" in both
    ann.dibs("done", "T-1").said(0)
    assert "held by you" in ann.dibs("claim", "T-1", "--reopen").said(0).stdout


def test_the_hooks_of_a_parent_beat_for_all(sandbox: Make) -> None:
    ann = sandbox(**ME)
    other = {"DIBS_PROJECT": f"{ann.env['DIBS_PROJECT']}.b"}
    places: list[tuple[str, dict[str, str]]] = [("T-1", {}), ("S-1", {}), ("B-1", other)]
    ann.dibs("claim", "T-1").said(0)
    ann.dibs("claim", "S-1", "--as", "sub").said(0)
    ann.dibs("claim", "B-1", **other).said(0)
    ages(ann, "B-1", **other)
    first = [beaten(ann, task, **env) for task, env in places]
    ann.hook("PostToolUse")
    assert all(
        beaten(ann, *place[:1], **place[1]) > at for place, at in zip(places, first, strict=True)
    )
    ann.hook("Stop")
    assert [state_of(ann, "T-1"), state_of(ann, "S-1")] == ["parked", "parked"]
    assert ann.dibs("show", "B-1", "--json", **other).json["state"] == "parked"
    ann.hook("UserPromptSubmit")
    assert state_of(ann, "S-1") == "held"
    ann.hook("SessionEnd", reason="exit")
    assert [state_of(ann, "T-1"), state_of(ann, "S-1")] == ["free", "free"]
    assert ann.dibs("show", "B-1", "--json", **other).json["state"] == "free"


def test_a_short_claim_elsewhere_is_beaten_in_time(sandbox: Make) -> None:
    ann = sandbox(**ME)
    other = {"DIBS_PROJECT": f"{ann.env['DIBS_PROJECT']}.b"}
    ann.dibs("claim", "T-1").said(0)
    ann.dibs("claim", "B-1", "--ttl", "3s", **other).said(0)
    [stamp] = (ann.home / ".local/state/dibs/sessions").glob("*.stamp")
    [here] = (ann.home / ".local/state/dibs").rglob(f"{ann.env['DIBS_PROJECT']}/*.stamp")
    next_of_all, next_here = (float(path.read_text().split()[0]) for path in (stamp, here))
    assert 70 < next_here - next_of_all < 76  # one second later, not 75
    ann.dibs("release", "B-1", **other).said(0)
    assert abs(float(stamp.read_text().split()[0]) - next_here) < 2


def test_two_services_are_beaten_each_with_what_is_its_own(
    sandbox: Make, service: ServiceProcess, keyed: ServiceProcess
) -> None:
    ann = sandbox(**ME)
    key = {"DIBS_URL": keyed.url, "DIBS_KEY": KEY + "@" + keyed.url.partition("://")[2]}
    ann.dibs("claim", "T-1").said(0)
    ann.dibs("claim", "K-1", **key).said(0)
    with serving({}) as (strange, heard):
        ann.dibs("claim", "X-1", DIBS_URL=strange)
        heard.clear()
        ages(ann, "K-1", **key)
        before = beaten(ann, "K-1", **key)
        ann.hook("PostToolUse", key)
        assert beaten(ann, "K-1", **key) > before
        assert KEY not in "".join(heard)
    ann.dibs("release", "K-1", **key).said(0)


def test_a_key_goes_to_no_member_that_a_state_file_names(
    sandbox: Make, keyed: ServiceProcess
) -> None:
    ann = sandbox(keyed.url, DIBS_KEY=KEY, **ME)
    ann.dibs("claim", "T-1").said(0)
    [state] = ann.state_files()
    with serving({}) as (strange, heard):
        encoded = strange.replace(":", "%3A").replace("/", "%2F")
        planted = state.parents[2] / encoded / state.parent.name / state.name
        planted.parent.mkdir(parents=True, mode=0o700)
        planted.parents[1].chmod(0o700)
        text = json.loads(state.read_text())
        del text["session"]
        planted.write_text(json.dumps(text))
        planted.chmod(0o600)
        [listed] = (state.parents[2] / "sessions").glob("*.list")
        listed.write_text(listed.read_text() + f"{encoded} {state.parent.name} -\n")
        ann.stamp_is_old()
        for event in ("PostToolUse", "Stop", "SessionEnd", "SessionStart"):
            ann.hook(event)
        assert heard == []
    ann.dibs("release", "--all")


def test_a_sub_agent_that_is_over_leaves_its_claims_parked_to_its_parent(sandbox: Make) -> None:
    ann = sandbox(**ME)
    ann.dibs("claim", "T-1").said(0)
    ann.dibs("claim", "S-1", "--as", "a1").said(0)
    ann.dibs("claim", "S-2", "--as", "a2").said(0)
    ann.hook("SubagentStop", agent_id="a1")
    states = ["held", "parked", "held"]
    assert [state_of(ann, task) for task in ("T-1", "S-1", "S-2")] == states
    ages(ann)
    ann.hook("PostToolUse")
    assert [state_of(ann, task) for task in ("T-1", "S-1", "S-2")] == states
    assert "S-1: held by you" in ann.dibs("beat", "S-1").said(0).stdout
    ann.dibs("done", "S-1").said(0)
    assert state_of(ann, "S-1") == "done"
    refused = ann.dibs("claim", "S-2").said(1).stderr
    assert "That is or was a sub-agent of this session" in refused
    ann.dibs("release", "S-2", "--as", "a1").said(1)  # a sister's claim, not its own


def test_a_sub_agent_may_ask_about_what_its_parent_has_and_not_end_it(sandbox: Make) -> None:
    ann = sandbox(**ME)
    ann.dibs("claim", "T-1").said(0)
    assert "T-1: held by you" in ann.dibs("verify", "T-1", "--as", "sub").said(0).stdout
    refused = ann.dibs("claim", "T-1", "--as", "sub").said(1).stderr
    assert "That is the session that started you" in refused
    ann.dibs("done", "T-1", "--as", "sub").said(1)
    assert state_of(ann, "T-1") == "held"


def test_a_sub_agent_hears_what_its_parent_holds_and_who_it_is(sandbox: Make) -> None:
    ann = sandbox(**ME)
    said = told(ann.hook("SubagentStart", agent_id="a1b2", agent_type="general").stdout)
    assert "the session that started you holds no task" in said
    assert "claim TASK --as a1b2" in said
    for number in range(5):
        ann.dibs("claim", f"feature/parser-{number}").said(0)
    said = told(ann.hook("SubagentStart", agent_id="a1b2").stdout)
    assert "holds feature/parser-0 until" in said
    assert "2 more" in said
    assert "needs no claim of yours" in said
    assert len(said) / 4 <= 100
    odd = told(ann.hook("SubagentStart", agent_id="$(id) ;").stdout)
    assert odd.endswith("--as NAME")
    assert told(ann.hook("SubagentStart").stdout).endswith("--as NAME")


def test_mine_is_what_this_session_and_its_sub_agents_hold_and_no_namesakes(sandbox: Make) -> None:
    ann, eve = sandbox(DIBS_LABEL="ann"), sandbox(DIBS_LABEL="ann")
    eve.dibs("claim", "E-1").said(0)
    assert ann.dibs("list", "--mine").said(0).stdout == "no claims\n"
    assert ann.dibs("list", "--mine", "--json").said(0).json["claims"] == []
    ann.dibs("claim", "T-1").said(0)
    ann.dibs("claim", "S-1", "--as", "sub").said(0)
    lines = ann.dibs("list", "--mine").said(0).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["TASK", "T-1", "S-1"]
    claims = ann.dibs("list", "--mine", "--json").said(0).json["claims"]
    assert [claim["task"] for claim in claims] == ["T-1", "S-1"]
    assert len(eve.dibs("list", "--json").said(0).json["claims"]) == 3


def test_list_shows_all_pages_or_the_one_that_is_asked_for(sandbox: Make) -> None:
    ann = sandbox(DIBS_LABEL="ann")
    others = [f"T-{number}" for number in range(1, 5)]
    ann.dibs("claim", "T-0", "--all", *others).said(0)
    assert len(ann.dibs("list").said(0).stdout.splitlines()) == 6
    page = ann.dibs("list", "--limit", "2").said(0).stdout.splitlines()
    assert len(page) == 4
    assert page[-1].startswith("More: dibs list --cursor ")
    rest = ann.dibs("list", "--limit", "2", "--cursor", page[-1].split()[-1]).said(0).stdout
    seen = {line.split()[0] for line in [*page[1:3], *rest.splitlines()[1:3]]}
    assert len(seen) == 4
    cursor = ann.dibs("list", "--limit", "2", "--json").said(0).json["cursor"]
    assert len(ann.dibs("list", "--cursor", cursor, "--json").said(0).json["claims"]) == 3


def test_a_queue_is_of_one_task_and_no_refusal_says_otherwise(sandbox: Make) -> None:
    ann, bob = sandbox(DIBS_LABEL="ann"), sandbox(DIBS_LABEL="bob")
    ann.dibs("claim", "a", "--all", "b").said(0)
    for flag in ("--any", "--all"):
        refused = bob.dibs("claim", "a", flag, "b", "--queue").said(2).stderr
        assert "--queue is for one TASK" in refused
        assert "--queue" not in bob.dibs("claim", "a", flag, "b").said(1).stderr
    assert "--queue" in bob.dibs("claim", "a").said(1).stderr


def test_what_waits_says_what_for_in_fixed_words_and_no_note_is_written_over(
    sandbox: Make,
) -> None:
    def note(task: str) -> Any:
        return ann.dibs("show", task, "--json").said(0).json["note"]

    ann = sandbox(**ME)
    ann.dibs("claim", "T-1").said(0)
    ann.hook("Stop")
    assert note("T-1") == "its turn ended"
    ann.hook("UserPromptSubmit")
    assert note("T-1") == "at work again"
    ann.dibs("park", "T-1", "--note", "asked Anna").said(0)
    ann.hook("Stop")
    ann.hook("UserPromptSubmit")
    assert note("T-1") == "asked Anna"


def test_a_break_is_told_as_what_it_is_without_anybodys_words(
    sandbox: Make, service: ServiceProcess
) -> None:
    from tests.client.test_bad_input import answering, http

    lost = {"task": "T-1", "fence": 5, "reason": "broken", "at": "2026-11-21T12:31:00Z",
            "by": {"ref": "", "label": "bob (run this)"}, "note": None}  # fmt: skip
    with answering(http(json.dumps({"claims": [], "lost": [lost]}))) as url:
        ann = sandbox(url, DIBS_SESSION=str(uuid.uuid4()))
        said = ann.hook("SessionStart", source="resume").stdout
    assert "T-1 was lost: broken at 2026-11-21 12:31Z, by a person." in said
    assert "now with" not in said
    assert "bob" not in said


def test_a_loss_of_a_parent_is_heard_by_the_sub_agent_that_works_and_by_the_parent(
    sandbox: Make,
) -> None:
    ann, bob = sandbox(**ME), sandbox(DIBS_LABEL="bob")
    ann.dibs("claim", "T-1", "--ttl", "1s").said(0)
    bob.dibs("claim", "T-1", "--wait", "20s").said(0)
    ann.stamp_is_old()
    assert "T-1 was lost" in told(ann.hook("PostToolUse", agent_id="a1").stdout)
    ann.stamp_is_old()
    assert ann.hook("PostToolUse", agent_id="a1").stdout == ""
    ann.stamp_is_old()
    assert "T-1 was lost" in told(ann.hook("PostToolUse").stdout)


def test_without_a_key_a_new_machine_hears_who_the_holder_may_be(sandbox: Make) -> None:
    """Two machines, where the second replaces the first."""
    gone, new = sandbox(**CLOUD), sandbox(**CLOUD)
    gone.dibs("claim", "T-1").said(0)
    gone.hook("SessionEnd", reason="other")
    refused = new.dibs("claim", "T-1").said(1).stderr
    assert "A session with your own name holds it." in refused
    assert "until" in refused
    assert "a person with an admin key can break it on the board" in refused
    assert "With DIBS_KEY or DIBS_IDENTITY_KEY set in the environment" in refused
    assert "T-1" not in new.dibs("list", "--mine").said(0).stdout
    assert "A session with your own name holds it." in new.dibs("done", "T-1").said(1).stderr


@pytest.mark.parametrize("name", ["DIBS_KEY", "DIBS_IDENTITY_KEY"])
def test_with_a_key_a_new_machine_is_the_session_that_was(
    sandbox: Make, keyed: ServiceProcess, name: str
) -> None:
    keys = {"DIBS_KEY": KEY, name: KEY if name == "DIBS_KEY" else "a-key-of-ann-herself"}
    gone, new = sandbox(keyed.url, **CLOUD, **keys), sandbox(keyed.url, **CLOUD, **keys)
    gone.dibs("claim", "T-1").said(0)
    gone.dibs("claim", "S-1", "--as", "sub").said(0)
    assert "holds T-1" in new.hook("SessionStart", source="resume").stdout
    new.dibs("verify", "T-1").said(0)
    new.dibs("done", "S-1", "--as", "sub").said(0)
    assert os.listdir(new.home / ".local/state/dibs/sessions")
    gone.dibs("release", "T-1").said(0)


def test_an_agent_of_one_repository_is_told_what_it_holds_in_another(sandbox: Make) -> None:
    ann = Agent(sandbox(), "aaa")
    other = {"DIBS_PROJECT": "acme.other-of-this-test"}
    ann.dibs("claim", "T-7", **other).said(0)
    assert "holds T-7 until" in ann.begins()
    assert "in acme.other-of-this-test" in ann.begins()
    ann.dibs("release", "T-7", **other).said(0)
