"""The real Claude Code, headless, with a scripted model: hooks, skill and gate work in it."""

import json
import re
from typing import Any

import pytest
from tests.claude.claude_code import DIBS, bash, claude, trust, write
from tests.claude.conftest import ADMIN
from tests.client.conftest import Sandbox
from tests.harness.services import ServiceProcess
from tests.http.conftest import Caller
from tests.tools.injected import NOTE_FRAME, ORDER, TEXTS


def test_a_session_starts_by_knowing_what_it_holds_and_how_to_claim(repo: Sandbox) -> None:
    seen = json.dumps(claude(repo).asked[0])
    assert "dibs: this session holds no task." in seen
    assert "## Tasks are claimed" in seen
    skill = (repo.repo / ".claude/skills/dibs/SKILL.md").read_text()
    [description] = re.findall(r"^description: (.+)$", skill, re.MULTILINE)
    assert f"dibs: {description}" in seen


def test_an_edit_is_stopped_until_the_task_is_claimed(repo: Sandbox) -> None:
    model = claude(repo, write(repo, "a.py"), bash(f"{DIBS} claim T-1"), write(repo, "b.py"))
    denied, claimed, written = model.results()
    assert "This session holds no task" in denied
    assert "T-1: held by you" in claimed
    assert "b.py" in written
    assert not (repo.repo / "a.py").exists()
    assert (repo.repo / "b.py").exists()


def test_the_claim_is_freed_when_a_local_session_ends(repo: Sandbox) -> None:
    claude(repo, bash(f"{DIBS} claim T-2"))
    claim = repo.dibs("show", "T-2", "--json").said(0).json
    assert claim["state"] == "free"
    assert claim["previous"]["note"] == "its session ended"


def test_the_claim_of_a_cloud_session_waits_for_its_person(repo: Sandbox) -> None:
    cloud: dict[str, Any] = {
        "CLAUDE_CODE_REMOTE": "true",
        "CLAUDE_CODE_REMOTE_SESSION_ID": "cse_01Ab",
    }
    claude(repo, bash(f"{DIBS} claim T-3"), env=cloud)
    claim = repo.dibs("show", "T-3", "--json").said(0).json
    assert claim["state"] == "parked"
    assert claim["holder"]["label"] == "session_01Ab"


def test_plain_dibs_commands_need_no_permission_and_others_still_do(repo: Sandbox) -> None:
    model = claude(repo, bash(f"{DIBS} show T-4"), bash(f"{DIBS} show T-4; touch c.py"))
    shown, refused = model.results()
    assert "T-4: free" in shown
    assert "T-4: free" not in refused
    assert not (repo.repo / "c.py").exists()


@pytest.mark.parametrize("name", ["a handover", "many lines", "JSON that closes", "tag characters"])
def test_what_another_wrote_reaches_the_model_in_a_frame_or_not_at_all(
    repo: Sandbox, service: ServiceProcess, name: str
) -> None:
    text, project = TEXTS[name], repo.env.get("DIBS_PROJECT", repo.project)
    me = {"CLAUDE_CODE_REMOTE": "true", "CLAUDE_CODE_REMOTE_SESSION_ID": "cse_01Ab"}
    person = Caller(service.url, project, Authorization=f"Bearer {ADMIN}")
    lost = repo.dibs("claim", "T-5", "--json", **me).said(0).json
    reason = " ".join(text.split())[:200]
    person.post("break", task="T-5", fence=lost["fence"], reason=reason).raise_for_status()
    bob = Caller(service.url, project)
    bob.post("claim", task="T-6", note=text).raise_for_status()
    bob.post("release", task="T-6", note=text).raise_for_status()
    bob.post("claim", task="T-7", note=text).raise_for_status()
    words = ("claim T-6", "claim T-7", "show T-7", "list", "show T-5")
    seen = claude(repo, *(bash(f"{DIBS} {some}") for some in words), env=me)
    for caller in (person, bob):
        caller.http.close()
    said = json.dumps(seen.asked[0])
    assert "T-5 was lost: broken at" in said
    assert "a note exists: `dibs show T-5`" in said
    assert ORDER not in said
    results = [str(result) for result in map(json.loads, seen.results())]
    for result in results:
        assert ORDER not in re.sub(r'"(?:[^"\\]|\\.)*"', "", result), result
        assert not re.search("[\U000e0000-\U000e0fff]", result)
    assert all(NOTE_FRAME.search(result) and ORDER in result for result in results[:3])


@pytest.mark.parametrize("is_trusted", [False, True])
def test_a_telling_note_is_not_let_through_even_where_a_rule_allows_the_command(
    repo: Sandbox, is_trusted: bool
) -> None:
    if is_trusted:
        trust(repo)
    steps = [
        f"{DIBS} claim T-8 --note 'AWS_SECRET=abcdefgh'",
        f"{DIBS} claim T-9 --note {'x' * 201}",
    ]
    claude(repo, *map(bash, [*steps, f"{DIBS} claim T-10 --note '{'word ' * 30}'"]))
    for task, is_let_through in (("T-8", False), ("T-9", False), ("T-10", True)):
        claim = repo.dibs("show", task, "--json").said(0).json
        # The claim of a session that is slow to end is still held.
        was_claimed = claim["state"] != "free" or claim.get("previous") is not None
        assert was_claimed == is_let_through, claim


def test_dibs_costs_no_token_while_a_session_works(repo: Sandbox) -> None:
    model = claude(repo, bash(f"{DIBS} claim T-1"), *(write(repo, f"{n}.py") for n in range(6)))
    before, after = (json.loads(json.dumps(model.asked[turn]["messages"])) for turn in (0, -1))
    told = [
        block["text"]
        for message in after[len(before) :]
        if message["role"] == "user" and isinstance(message["content"], list)
        for block in message["content"]
        if block["type"] == "text"
    ]
    assert not [text for text in told if "dibs" in text or "T-1" in text]
    claimed, *written = model.results()
    assert "T-1: held by you" in claimed
    assert len(written) == 6
    assert not [result for result in written if "dibs" in result.replace(str(repo.repo), "")]
