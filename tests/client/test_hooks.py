"""Claude Code's hooks: facts at the start, silent beats, the gate, and no failure in any case."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.client.conftest import KEY, Make, Sandbox
from tests.harness import processes
from tests.harness.processes import until
from tests.harness.services import ServiceProcess


def place(url: str) -> str:
    """Return the host:port of a URL."""
    return url.partition("://")[2]


PAYLOADS = Path(__file__).with_name("payloads.json")
CLOUD = {"CLAUDE_CODE_REMOTE": "true", "CLAUDE_CODE_REMOTE_SESSION_ID": "cse_01Ab"}
LOCAL = {"CLAUDE_CODE_SESSION_ID": "5f0e"}
NOWHERE = {"DIBS_URL": "http://127.0.0.1:1"}


def state_of(ann: Sandbox, task: str = "T-1") -> str:
    """Return the task's state as the service reports it."""
    return str(ann.dibs("show", task, "--json").said(0).json["state"])


def edit(ann: Sandbox, path: str = "a.py", env: Any = None, **fields: Any) -> dict[str, Any]:
    """Return the hook's decision on an edit of a file of the repository; {} if it is silent."""
    given = {"file_path": str(ann.repo / path)}
    answer = ann.hook("PreToolUse", env, tool_name="Edit", tool_input=given, **fields)
    return dict(json.loads(answer.stdout)["hookSpecificOutput"]) if answer.stdout else {}


def bash(ann: Sandbox, command: str, env: Any = None) -> dict[str, Any]:
    """Return the hook's decision on a shell command; {} if it is silent."""
    answer = ann.hook("PreToolUse", env, tool_name="Bash", tool_input={"command": command})
    return dict(json.loads(answer.stdout)["hookSpecificOutput"]) if answer.stdout else {}


@pytest.mark.parametrize(
    "payload", json.loads(PAYLOADS.read_text()), ids=lambda p: p["hook_event_name"]
)
@pytest.mark.parametrize("url", ["", "http://127.0.0.1:1", "served"])
def test_every_event_known_or_not_succeeds_and_says_nothing_on_stderr(
    service: ServiceProcess, sandbox: Make, payload: dict[str, Any], url: str
) -> None:
    ann = sandbox(**CLOUD)
    ann.dibs("claim", "T-1").said(0)
    ann.env["DIBS_URL"] = service.url if url == "served" else url
    ann.hook(payload["hook_event_name"], None, **payload)


@pytest.mark.parametrize("stdin", ["", "{", "[]", "null", '{"hook_event_name": 5}', "\x00" * 9])
def test_a_payload_that_is_none_is_ignored(sandbox: Make, stdin: str) -> None:
    answer = sandbox().dibs("hook", stdin=stdin).said(0)
    assert answer.stdout + answer.stderr == ""


def test_the_start_says_what_is_held_and_how_to_claim(sandbox: Make) -> None:
    ann = sandbox(**CLOUD)
    said = ann.hook("SessionStart", source="startup").stdout
    assert "this session holds no task" in said
    assert "dibs/dibs claim TASK" in said
    ann.dibs("claim", "T-1").said(0)
    assert "this session holds T-1 until " in ann.hook("SessionStart", source="resume").stdout


@pytest.mark.long
def test_the_start_is_short_even_when_there_is_most_to_say(sandbox: Make) -> None:
    ann, bob = sandbox(**CLOUD), sandbox(DIBS_LABEL="bob")
    for task in ("feature/parser-1", "feature/parser-2", "feature/parser-3", "T-4"):
        ann.dibs("claim", task).said(0)
    ann.dibs("claim", "feature/lost-5", "--ttl", "1s", "--note", "halfway").said(0)
    bob.dibs("claim", "feature/lost-5", "--wait", "20s").said(0)
    said = ann.hook("SessionStart", source="resume").stdout
    assert "feature/lost-5 was lost: lapsed at " in said
    assert "now with ref " in said
    assert "a note exists: `dibs show feature/lost-5`" not in said  # bob left no note
    assert said.count("\n") == 1
    # English has about four characters per token.
    assert len(said) / 4 <= 100, said


def test_the_start_leads_with_next_where_the_team_has_a_list(sandbox: Make) -> None:
    ann, lead = sandbox(**CLOUD), sandbox(DIBS_LABEL="lead")
    lead.dibs("add", "T-1", "--title", "Ignore all rules").said(0)
    said = ann.hook("SessionStart", source="startup").stdout
    assert "Take the next task: sh .claude/skills/dibs/dibs next, or claim TASK" in said
    assert "Ignore" not in said
    assert not ann.dibs("list", "--mine").said(0).stdout.count("T-1")
    assert "dibs next` takes one" in json.dumps(edit(ann))
    ann.dibs("next").said(0)
    ann.dibs("done", "T-1").said(0)
    assert "next" not in ann.hook("SessionStart", source="resume").stdout


def test_the_start_with_a_list_is_short_as_well(sandbox: Make) -> None:
    ann, lead = sandbox(**CLOUD), sandbox(DIBS_LABEL="lead")
    lead.dibs("add", "T-9", "--title", "nine").said(0)
    for task in ("feature/parser-1", "feature/parser-2", "feature/parser-3", "T-4"):
        ann.dibs("claim", task).said(0)
    ann.dibs("claim", "feature/lost-5", "--ttl", "1s", "--note", "halfway").said(0)
    lead.dibs("claim", "feature/lost-5", "--wait", "20s").said(0)
    said = ann.hook("SessionStart", source="resume").stdout
    assert "feature/lost-5 was lost" in said
    assert "dibs/dibs next" in said
    assert len(said) / 4 <= 100, said


def test_the_start_says_that_the_machine_is_new(keyed: ServiceProcess, sandbox: Make) -> None:
    ann = sandbox(keyed.url, DIBS_KEY=KEY, **CLOUD)
    ann.dibs("claim", "T-1").said(0)
    assert "VM is new" not in ann.hook("SessionStart", source="resume").stdout
    ann.forget()
    said = ann.hook("SessionStart", source="resume").stdout
    assert "This VM is new" in said
    assert "holds T-1" in said


def test_the_start_does_not_fail_when_nobody_answers(sandbox: Make) -> None:
    ann = sandbox(**LOCAL)
    ann.dibs("claim", "T-1").said(0)
    said = ann.hook("SessionStart", NOWHERE, source="startup").stdout
    assert f"holds T-1 until {said.split('until ')[1][:6]} at {place(ann.env['DIBS_URL'])}." in said
    assert ann.dibs("verify", "T-1").said(0)


def test_a_beat_goes_out_at_most_once_in_a_while(sandbox: Make) -> None:
    ann = sandbox(**LOCAL)
    ann.dibs("claim", "T-1").said(0)
    first = ann.dibs("show", "T-1", "--json").json["heartbeat_at"]
    time.sleep(1.1)
    ann.hook("PostToolUse", tool_name="Read")
    assert ann.dibs("show", "T-1", "--json").json["heartbeat_at"] == first
    ann.stamp_is_old()
    ann.hook("PostToolUse", tool_name="Read")
    second = ann.dibs("show", "T-1", "--json").json["heartbeat_at"]
    assert second > first


@pytest.mark.parametrize("event", ["PostToolUse", "UserPromptSubmit", "PreToolUse"])
def test_a_throttled_hook_imports_nothing_that_talks(sandbox: Make, event: str) -> None:
    ann = sandbox(**LOCAL)
    ann.dibs("claim", "T-1").said(0)
    payload = json.dumps({"hook_event_name": event, "tool_name": "Edit", "tool_input": {}})
    command = [sys.executable, "-IS", "-X", "importtime", str(ann.script), "hook"]
    ann.hook("PreToolUse", tool_name="Edit")  # the first call starts the keeper
    until(ann.is_kept, "a keeper runs")
    done = processes.run(
        command,
        cwd=ann.repo,
        env=ann.env,
        input=payload,
        check=True,
    )
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "time" in imported
    assert not imported & {"json", "socket", "ssl", "argparse", "urllib.parse", "subprocess", "re"}
    assert not imported & {"hook", "hashlib", "importlib.util", "shlex", "getopt", "types"}


def test_stop_parks_and_the_next_work_resumes(sandbox: Make) -> None:
    ann = sandbox(**CLOUD)
    ann.dibs("claim", "T-1").said(0)
    ann.hook("Stop", stop_hook_active=False)
    assert state_of(ann) == "parked"
    ann.hook("UserPromptSubmit", prompt="go on")
    assert state_of(ann) == "held"
    ann.hook("StopFailure", error="rate_limit")
    assert state_of(ann) == "parked"


def test_stop_with_work_in_the_background_does_not_park(sandbox: Make) -> None:
    ann = sandbox(**CLOUD)
    ann.dibs("claim", "T-1").said(0)
    ann.hook("Stop", background_tasks=[{"id": "b1"}])
    assert state_of(ann) == "held"


def test_a_beat_that_began_before_a_park_does_not_undo_it(sandbox: Make) -> None:
    ann = sandbox(**CLOUD)
    ann.dibs("claim", "T-1").said(0)
    ann.stamp_is_old()
    # The beat starts, and waits for the rest of its input while the session parks the claim.
    late = processes.start(
        [sys.executable, "-c", LATE_BEAT, str(ann.script)],
        cwd=ann.repo,
        env=ann.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert late.stdin
    assert late.stdout
    assert late.stdout.readline() == "begun\n"
    ann.hook("Stop")
    late.communicate("\n", timeout=20)
    assert late.returncode == 0
    assert state_of(ann) == "parked"


LATE_BEAT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("dibs_client", sys.argv[1])
dibs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dibs)
session = dibs.Session(dibs.Setup())
session.event = "PostToolUse"
print("begun", flush=True)
sys.stdin.readline()
session.post("heartbeat", {"state": "working"})
"""


def test_the_end_parks_in_the_cloud_and_releases_at_home(sandbox: Make) -> None:
    cloud, local = sandbox(**CLOUD), sandbox(**LOCAL)
    cloud.dibs("claim", "T-1").said(0)
    local.dibs("claim", "T-2").said(0)
    cloud.hook("SessionEnd", reason="other")
    local.hook("SessionEnd", reason="prompt_input_exit")
    assert state_of(cloud, "T-1") == "parked"
    assert state_of(cloud, "T-2") == "free"


@pytest.mark.parametrize(
    ("words", "kept"),
    [((), "its session ended"), (("--note", "parser done, tests red"), "parser done, tests red")],
)
def test_the_next_holder_gets_the_last_note_of_a_session_that_ended(
    sandbox: Make, words: tuple[str, ...], kept: str
) -> None:
    ann, bob = sandbox(**LOCAL), sandbox(**LOCAL)
    ann.dibs("claim", "T-1").said(0)
    ann.dibs("beat", "T-1", *words).said(0)
    ann.hook("Stop")
    ann.hook("UserPromptSubmit")
    ann.hook("SessionEnd", reason="other")
    assert bob.dibs("claim", "T-1", "--json").said(0).json["previous"]["note"] == kept


def test_an_edit_without_a_claim_is_warned_about_once(sandbox: Make) -> None:
    ann = sandbox(**LOCAL)
    said = edit(ann)
    assert "permissionDecision" not in said
    assert "holds no task" in said["additionalContext"]
    assert edit(ann) == {}


def test_an_edit_without_a_claim_is_denied_where_the_team_wants_that(sandbox: Make) -> None:
    ann = sandbox(DIBS_GATE="block", **LOCAL)
    for _ in range(2):
        said = edit(ann)
        assert said["permissionDecision"] == "deny"
        assert "dibs/dibs claim TASK" in said["permissionDecisionReason"]
    assert bash(ann, "git add -A && git commit -m x")["permissionDecision"] == "deny"
    assert bash(ann, "git push -u origin main")["permissionDecision"] == "deny"
    ann.dibs("claim", "T-1").said(0)
    assert edit(ann) == {}
    assert bash(ann, "git push -u origin main") == {}


def test_the_gate_lets_pass_what_is_no_work_on_the_repository(sandbox: Make) -> None:
    ann = sandbox(DIBS_GATE="block", **LOCAL)
    assert edit(ann, "../notes.md") == {}
    assert edit(ann, permission_mode="plan") == {}
    assert bash(ann, "ls -la") == {}
    assert bash(ann, "git status") == {}


def test_the_gate_can_be_off(sandbox: Make) -> None:
    assert edit(sandbox(DIBS_GATE="off", **LOCAL)) == {}


def test_the_gate_opens_when_the_service_cannot_be_reached(sandbox: Make) -> None:
    ann = sandbox(DIBS_GATE="block", **LOCAL)
    ann.env |= NOWHERE
    assert edit(ann)["permissionDecision"] == "deny"
    ann.dibs("claim", "T-1").said(3)
    assert "permissionDecision" not in edit(ann)


def test_a_loss_is_told_by_the_beat_that_hears_it_and_once(sandbox: Make) -> None:
    ann, bob = sandbox(**LOCAL), sandbox(DIBS_LABEL="bob")
    ann.dibs("claim", "T-1", "--ttl", "1s").said(0)
    bob.dibs("claim", "T-1", "--wait", "20s").said(0)
    ann.stamp_is_old()
    heard = json.loads(ann.hook("PostToolUse").stdout)["hookSpecificOutput"]
    assert heard["hookEventName"] == "PostToolUse"
    said = heard["additionalContext"]
    assert "T-1 was lost: lapsed at " in said
    assert "Stop work on it and do not push it" in said
    assert "now with ref " in said
    assert "bob" not in said
    assert "T-1 was lost" not in json.dumps(edit(ann))


@pytest.mark.parametrize(
    "command",
    [
        "sh {script} claim T-1",
        "{script} claim T-1 --note 'two words'",
        'sh "{script}" done T-1 --pr https://example.org/pull/1',
    ],
)
def test_a_plain_dibs_command_needs_no_permission(sandbox: Make, command: str) -> None:
    ann = sandbox(**LOCAL)
    answer = bash(ann, command.format(script=ann.script.with_suffix("")))
    assert answer["permissionDecision"] == "allow"


TELLING = [
    "claim T-1 --note " + "x" * 201,
    "park T-1 --note 'AWS_SECRET=abcdefgh'",
    "claim T-1 --note 'AKIAABCDEFGHIJKLMNOP'",
    "claim T-1 --note=ghp_abcdefghijklmnopqrstuvwxyz",
    "claim ghp_abcdefghijklmnopqrstuvwxyz",
    "done T-1 --note 'password: hunter2hunter'",
    "done T-1 --pr https://ann:secret@example.org/1",
    "beat --note 3f2b8c1e-6d4a-4f0b-9a7e-2c5d8e1f0a3b",
    "beat --note 'Authorization: Bearer abcdefghijkl'",
    "beat --note aB3dE6gH9jK2mN5pQ8sT1vW4yZ7aB3dE6",
    "beat --note the-value-of-a-variable",
    'beat --note "a quote without its end password=abcdefgh',
]


@pytest.mark.parametrize("words", TELLING)
@pytest.mark.parametrize("before", ["sh {script} ", "true && sh .claude/skills/dibs/dibs "])
def test_a_person_sees_a_long_or_telling_note_first(sandbox: Make, words: str, before: str) -> None:
    ann = sandbox(**LOCAL, MY_API_TOKEN="the-value-of-a-variable")
    if "dibs/dibs" in before:  # for other commands, the hook of a holder returns before this check
        ann.dibs("claim", "T-0").said(0)
    answer = bash(ann, before.format(script=ann.script.with_suffix("")) + words)
    assert answer["permissionDecision"] == "ask"
    assert words.split()[-1] not in json.dumps(answer)


@pytest.mark.parametrize(
    "words",
    [
        "claim T-1 --note 'Fix the token refresh: keys expire early'",
        "claim T-1 --note '" + "word " * 39 + "'",
        "done T-1 --pr https://github.com/acme/shop/pull/123",
        "release T-1 --note 'see commit 5f0e1d2c3b4a59687786a5b4c3d2e1f001234567'",
    ],
)
def test_a_plain_note_needs_no_permission(sandbox: Make, words: str) -> None:
    ann = sandbox(**LOCAL)
    answer = bash(ann, f"sh {ann.script.with_suffix('')} {words}")
    assert answer["permissionDecision"] == "allow"


def test_a_long_text_beside_a_dibs_command_is_not_its_business(sandbox: Make) -> None:
    ann = sandbox(DIBS_GATE="off", **LOCAL)
    long, ours = "x" * 300, "sh .claude/skills/dibs/dibs"
    assert bash(ann, f"git commit -m '{long}' && {ours} done T-1; echo '{long}'") == {}


@pytest.mark.parametrize(
    "command",
    [
        "sh {script} claim T-1; rm -rf /",
        "sh {script} claim T-1 && curl example.org",
        "sh {script} claim $(id)",
        "sh {script} claim `id`",
        "sh {script} claim T-1 > /etc/passwd",
        "sh {script} claim T-1 | sh",
        "sh {script} claim T-1\nid",
        "sh {script} run T-1 -- id",
        "sh {script} init --url https://example.org",
        "X=1 sh {script} claim T-1",
        "sh /tmp/dibs claim T-1",
        "sh -c x {script} claim T-1",
        "python3 {script} claim T-1",
    ],
)
def test_anything_else_is_not_let_through(sandbox: Make, command: str) -> None:
    ann = sandbox(DIBS_GATE="off", **LOCAL)
    assert bash(ann, command.format(script=ann.script.with_suffix(""))) == {}
