"""init and its removal: from a bare repository to a claimed task, and back without a trace."""

import json
import shutil
import stat
import sys
import urllib.request
from pathlib import Path

import pytest
from tests.client.conftest import CommandAnswer, Make, Sandbox
from tests.harness import processes
from tests.harness.services import ServiceProcess

SETTINGS = ".claude/settings.json"
SKILL = Path(__file__).parents[2] / "skill"


@pytest.fixture
def fresh(service: ServiceProcess, sandbox: Make) -> Sandbox:
    """Return a repository with one commit and the client as the service serves it."""
    ann = sandbox("", DIBS_PROJECT="", DIBS_LABEL="ann")
    ann.git("remote", "remove", "origin")
    ann.script = ann.folder / "dibs.py"
    urllib.request.urlretrieve(f"{service.url}/client/dibs.py", ann.script)
    ann.git("commit", "-q", "--allow-empty", "-m", "begin")
    return ann


def contents(ann: Sandbox) -> dict[str, bytes]:
    """Return the contents of every file of the repository."""
    paths = [path for path in ann.repo.rglob("*") if ".git" not in path.parts]
    return {str(p.relative_to(ann.repo)): p.read_bytes() if p.is_file() else b"" for p in paths}


def init(ann: Sandbox, *flags: str) -> CommandAnswer:
    """Run init, which prints one line."""
    answer = ann.dibs("init", *flags).said(0)
    assert answer.stdout.count("\n") == 1
    return answer


def installed(ann: Sandbox) -> None:
    """Use the installed client from here on, as a session does."""
    ann.script = ann.repo / ".claude/skills/dibs/dibs"


def test_three_commands_lead_from_nothing_to_a_claimed_task(
    service: ServiceProcess, fresh: Sandbox
) -> None:
    init(fresh, "--url", service.url)
    installed(fresh)
    claim = fresh.dibs("claim", "T-1", "--json").said(0).json
    assert claim["project"] == f"{fresh.folder.name}.repo"
    fresh.dibs("release", "T-1").said(0)


def test_the_served_client_knows_where_it_came_from(
    service: ServiceProcess, fresh: Sandbox
) -> None:
    init(fresh)
    conf = (fresh.repo / ".claude/skills/dibs/dibs.conf").read_text()
    assert f"url = {service.url}" in conf


def test_init_again_changes_nothing(service: ServiceProcess, fresh: Sandbox) -> None:
    init(fresh)
    once = contents(fresh)
    assert "nothing to change" in init(fresh).stdout
    installed(fresh)
    assert "nothing to change" in init(fresh).stdout
    assert contents(fresh) == once


def test_remove_leaves_no_trace(fresh: Sandbox) -> None:
    init(fresh)
    assert contents(fresh)
    installed(fresh)
    init(fresh, "--remove")
    assert contents(fresh) == {}


def test_remove_works_when_the_service_is_gone(fresh: Sandbox) -> None:
    init(fresh)
    installed(fresh)
    fresh.dibs("init", "--remove", DIBS_URL="http://127.0.0.1:1").said(0)
    assert contents(fresh) == {}


OTHER = '{"type": "command", "command": "x"}'
SETTINGS_BEFORE = {
    "empty object": "{}",
    "spread": "{\n}\n",
    "one line": '{"model":"opus"}',
    "order": '{\n  "z": 1,\n  "a": [true, null, -1.5e3],\n  "hooks": {\n  },\n  "b": "x"\n}\n',
    "comments": '{\n  // mine: "hooks": {\n  "a": 1, /* } */\n  "permissions": {"deny": []} //z\n}',
    "hooks": '{"hooks": {"Stop": [{"hooks": [' + OTHER + ']}], "PostToolUse": []}}',
    "allow": '{"permissions": {"allow": [ ], "ask": []}, "hooks": {"SessionStart": [ \n ]}}',
    "braces in text": '{"env": {"A": "{[\\"}]", "B": "//no /*comment"}}',
    "tabs and CRLF": '{\r\n\t"model": "opus",\r\n\t"hooks": {\r\n\t}\r\n}\r\n',
    "byte order mark": '\ufeff{"a": "ü"}\n',
    "same key elsewhere": '{"x": {"hooks": {"Stop": []}, "allow": []}, "y": [{"permissions": 1}]}',
}


@pytest.mark.parametrize("name", SETTINGS_BEFORE)
def test_settings_are_merged_and_come_back_byte_for_byte(fresh: Sandbox, name: str) -> None:
    before = SETTINGS_BEFORE[name].encode()
    path = fresh.repo / SETTINGS
    path.parent.mkdir()
    path.write_bytes(before)
    init(fresh)
    merged = path.read_text("utf-8-sig")
    assert merged.count("dibs/dibs claim *") == 1
    for line in before.decode("utf-8-sig").split():
        assert line.strip("{}[],") in merged
    if name != "comments":
        old, new = json.loads(before.decode("utf-8-sig")), json.loads(merged)
        assert all(new[key] == old[key] for key in old if key not in ("hooks", "permissions"))
        assert len(new["hooks"]["Stop"]) == 1 + len(old.get("hooks", {}).get("Stop", []))
    assert "nothing to change" in init(fresh).stdout
    init(fresh, "--remove")
    assert path.read_bytes() == before


MEMORIES = {
    "no newline": b"# Mine",
    "newline": b"# Mine\n",
    "blank lines": b"# Mine\n\n\n",
    "CRLF": b"# Mine\r\ntext\r\n",
    "empty": b"",
    "not UTF-8": b"# caf\xe9\n",
}


@pytest.mark.parametrize("file", ["CLAUDE.md", "AGENTS.md"])
@pytest.mark.parametrize("name", MEMORIES)
def test_memory_files_are_added_to_and_come_back_byte_for_byte(
    fresh: Sandbox, file: str, name: str
) -> None:
    path = fresh.repo / file
    path.write_bytes(MEMORIES[name])
    init(fresh)
    added = path.read_bytes()
    assert added.startswith(MEMORIES[name])
    assert added.count(b"dibs:begin") == added.count(b"dibs:end") == 1
    path.write_bytes(added + b"later\n")
    assert "nothing to change" in init(fresh).stdout
    init(fresh, "--remove")
    assert path.read_bytes() == MEMORIES[name] + b"later\n"


def test_what_one_memory_file_reads_is_not_said_twice(fresh: Sandbox) -> None:
    (fresh.repo / "AGENTS.md").write_text("# Agents\n")
    (fresh.repo / "CLAUDE.md").write_text("@AGENTS.md\n")
    init(fresh)
    assert "dibs" in (fresh.repo / "AGENTS.md").read_text()
    assert (fresh.repo / "CLAUDE.md").read_text() == "@AGENTS.md\n"


def test_a_link_between_memory_files_is_kept(fresh: Sandbox) -> None:
    (fresh.repo / "AGENTS.md").write_text("# Agents\n")
    (fresh.repo / "CLAUDE.md").symlink_to("AGENTS.md")
    init(fresh)
    assert (fresh.repo / "CLAUDE.md").is_symlink()
    assert (fresh.repo / "AGENTS.md").read_text().count("dibs:begin") == 1
    init(fresh, "--remove")
    assert (fresh.repo / "AGENTS.md").read_text() == "# Agents\n"


DEEP = '{"a": ' * 100_000 + "1" + "}" * 100_000


@pytest.mark.parametrize(
    "text",
    ["{", '{"a": 1,}', "[]", '{"hooks": []}', '{"hooks": null}', "x", DEEP],
    ids=lambda text: text[:20],
)
def test_settings_that_cannot_be_merged_stop_init_before_it_writes(
    fresh: Sandbox, text: str
) -> None:
    path = fresh.repo / SETTINGS
    path.parent.mkdir()
    path.write_text(text)
    before = contents(fresh)
    assert SETTINGS in fresh.dibs("init").said(2).stderr
    assert contents(fresh) == before


def test_lines_of_dibs_that_were_changed_are_not_guessed_at(fresh: Sandbox) -> None:
    init(fresh)
    path = fresh.repo / "CLAUDE.md"
    path.write_text(path.read_text().replace("claimed", "perhaps claimed"))
    before = contents(fresh)
    assert "CLAUDE.md were changed" in fresh.dibs("init", "--remove").said(2).stderr
    assert contents(fresh) == before


@pytest.mark.parametrize("indent", [0, 3, 8])
def test_a_formatter_may_pass_over_what_init_wrote(fresh: Sandbox, indent: int) -> None:
    """Many repositories format committed files; init still recognizes its own lines with changed
    whitespace, for an upgrade and for the removal."""
    settings, memory = fresh.repo / SETTINGS, fresh.repo / "CLAUDE.md"
    settings.parent.mkdir()
    settings.write_text('{"model": "opus", "hooks": {"Stop": [{"hooks": [' + OTHER + "]}]}}")
    memory.write_text("# Mine\n\nFirst.\n")
    init(fresh)
    merged = json.loads(settings.read_text())
    settings.write_text(json.dumps(merged, indent=indent) + "\n")
    memory.write_text(memory.read_text().replace("begin -->\n", "begin -->\n\n") + "\nLast.\n")
    assert "commit the" in init(fresh).stdout
    assert json.loads(settings.read_text()) == merged
    assert memory.read_text().count("dibs:begin") == 1
    settings.write_text(json.dumps(merged, indent=indent) + "\n")
    init(fresh, "--remove")
    left = {"model": "opus", "hooks": {"Stop": [{"hooks": [json.loads(OTHER)]}]}}
    assert json.loads(settings.read_text()) == left
    assert memory.read_text().split() == ["#", "Mine", "First.", "Last."]


def test_what_a_formatter_leaves_of_a_file_of_ours_alone_goes(fresh: Sandbox) -> None:
    init(fresh)
    path = fresh.repo / SETTINGS
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7))
    init(fresh, "--remove")
    assert contents(fresh) == {}


def test_init_says_that_git_ignores_what_has_to_be_committed(fresh: Sandbox) -> None:
    assert "git ignores" not in init(fresh).stdout
    (fresh.repo / ".gitignore").write_text(".claude/\n")
    said = init(fresh).stdout
    assert "dibs' files, as .claude/skills/dibs/SKILL.md: add them with `git add -f`" in said
    fresh.git("add", "-f", ".claude")
    assert "git ignores" not in init(fresh).stdout


def test_init_shows_what_it_changes(fresh: Sandbox) -> None:
    (fresh.repo / "CLAUDE.md").write_text("# Mine\n")
    shown = init(fresh).stderr
    assert " # Mine" in shown
    assert "+<!-- dibs:begin -->" in shown
    assert "+++ .claude/skills/dibs/dibs.py" in shown


def test_init_outside_a_repository_says_so(fresh: Sandbox) -> None:
    fresh.repo = fresh.home
    assert "git init" in fresh.dibs("init").said(2).stderr


def test_init_at_a_service_that_is_not_there_changes_nothing(fresh: Sandbox) -> None:
    fresh.dibs("init", "--url", "http://127.0.0.1:1").said(3)
    assert contents(fresh) == {}


def test_the_choice_about_the_gate_outlives_an_update(fresh: Sandbox) -> None:
    init(fresh)
    conf = fresh.repo / ".claude/skills/dibs/dibs.conf"
    conf.write_text(conf.read_text().replace("gate = warn", "gate = block"))
    init(fresh)
    assert "gate = block" in conf.read_text()


def test_the_installed_hooks_and_rules_name_the_installed_file(fresh: Sandbox) -> None:
    init(fresh)
    settings = json.loads((fresh.repo / SETTINGS).read_text())
    for entries in settings["hooks"].values():
        command = entries[0]["hooks"][0]["command"]
        done = processes.run(
            ["sh", "-c", command],
            env=fresh.env | {"CLAUDE_PROJECT_DIR": str(fresh.repo)},
            input='{"hook_event_name": "SessionStart", "source": "startup"}',
            check=True,
        )
        assert "holds no task" in done.stdout
    for rule in settings["permissions"]["allow"]:
        script = rule.removeprefix("Bash(sh ").split()[0]
        assert (fresh.repo / script).is_file()
        assert not rule.endswith(("run *)", "init *)", "hook *)", "dibs *)"))


@pytest.mark.parametrize("missing", ["dibs", "dibs.py", "python"])
def test_a_hook_that_cannot_run_lets_the_work_go_on_in_silence(
    fresh: Sandbox, missing: str
) -> None:
    """A person may check out a branch without dibs while the session keeps its settings. Exit code
    2, which sh returns for a missing file, would forbid every tool."""
    init(fresh)
    settings = json.loads((fresh.repo / SETTINGS).read_text())
    env = fresh.env | {"CLAUDE_PROJECT_DIR": str(fresh.repo)}
    if missing == "python":
        tools = fresh.folder / "tools"
        tools.mkdir()
        (tools / "sh").symlink_to(shutil.which("sh") or "")
        env["PATH"] = str(tools)
    else:
        (fresh.repo / ".claude/skills/dibs" / missing).unlink()
    for event, entries in settings["hooks"].items():
        done = processes.run(
            ["/bin/sh", "-c", entries[0]["hooks"][0]["command"]],
            env=env,
            input=json.dumps({"hook_event_name": event, "tool_name": "Edit", "tool_input": {}}),
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), event


@pytest.mark.parametrize("called", ["relative", "absolute", "beside", "linked", "executed"])
def test_the_installed_command_runs_from_anywhere(fresh: Sandbox, called: str) -> None:
    init(fresh)
    installed(fresh)
    folder = fresh.script.parent
    (fresh.folder / "linked").symlink_to(fresh.script)
    command, cwd = {
        "relative": (["sh", ".claude/skills/dibs/dibs"], fresh.repo),
        "absolute": (["sh", str(fresh.script)], fresh.repo),
        "beside": (["sh", "dibs"], folder),
        "linked": (["sh", str(fresh.folder / "linked")], fresh.repo),
        "executed": ([str(fresh.script)], fresh.repo),
    }[called]

    def said(*words: str) -> tuple[int, str]:
        done = processes.run([*command, *words], cwd=cwd, env=fresh.env)
        return done.returncode, done.stdout + done.stderr

    assert said("claim", "a task")[1].startswith('"a task": held by you')
    assert said("claim", "T-2", "T-3") == (
        2,
        "dibs: claim one TASK, or several with --any or --all\n",
    )
    assert said("run", "T-2", "--", "sh", "-c", "exit 7")[0] == 7
    assert said("release", "a task") == (0, '"a task": free\n')
    assert "__pycache__" not in {path.name for path in fresh.repo.rglob("*")}


def test_the_installed_command_needs_no_cache(fresh: Sandbox) -> None:
    init(fresh)
    installed(fresh)
    fresh.dibs("claim", "T-1", XDG_CACHE_HOME="/proc/none").said(0)


def test_doctor_is_content_after_init_and_a_hook(fresh: Sandbox) -> None:
    init(fresh)
    installed(fresh)
    before = fresh.dibs("doctor").said(1).stdout
    assert "WRONG  no hook has run yet" in before
    fresh.hook("SessionStart", source="startup")
    after = fresh.dibs("doctor").said(0).stdout
    assert "WRONG" not in after
    assert "hooks seen: SessionStart" in after


def test_doctor_names_what_is_wrong_and_a_remedy(fresh: Sandbox) -> None:
    init(fresh)
    installed(fresh)
    down = fresh.dibs("doctor", DIBS_URL="http://127.0.0.1:1").said(3).stdout
    assert "127.0.0.1 was not reached: Connection refused. Try http://127.0.0.1:1/livez" in down
    fresh.dibs("doctor", DIBS_URL="http://example.org").said(2)
    unwritable = fresh.dibs("doctor", XDG_STATE_HOME="/proc/none").said(2).stdout
    assert "set XDG_STATE_HOME" in unwritable


def test_the_client_of_a_checkout_has_no_service(sandbox: Make) -> None:
    ann = sandbox("")
    assert "no service is set" in ann.dibs("claim", "T-1").said(2).stderr
    shutil.copy(Path(__file__).parents[2] / "client/dibs.py", ann.repo / "dibs.py")
    assert "no service is set" in ann.dibs("doctor").said(2).stdout


# An agent that runs each line in a separate shell, as agents do.
SHELLS = """
import json, subprocess, sys
for line in json.load(sys.stdin):
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    print(json.dumps([done.returncode, done.stdout, done.stderr]))
"""


@pytest.fixture
def recipe(service: ServiceProcess) -> tuple[str, list[str]]:
    """Return SKILL.md's calls for agents without Python: their first lines, and the calls."""
    with urllib.request.urlopen(f"{service.url}/skill/SKILL.md") as served:
        text = served.read().decode().split("## Without Python")[1]
    text = text.replace("PROJECT", "acme.curl").replace("pr=URL", "pr=https://e.org")
    lines = [line[4:] for line in text.splitlines() if line[:4] == "    "]
    lines = [line.replace("curl -sS", "curl -sS --fail") for line in lines]
    return "\n".join(lines[:3]) + "\n", lines[3:]


def in_shells(box: Sandbox, *calls: str, **env: str | None) -> list[str]:
    """Run each call in a separate shell, assert its success, and return the outputs."""
    command, given = [sys.executable, "-c", SHELLS], json.dumps(calls)
    done = processes.run(command, cwd=box.repo, env=box.environ(env), input=given, check=True)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert all((code, error) == (0, "") for code, _, error in told), told
    return [said for _, said, _ in told]


def test_the_curl_lines_of_the_skill_work_in_shells_that_do_not_last(
    recipe: tuple[str, list[str]], fresh: Sandbox
) -> None:
    begin, calls = recipe
    told = in_shells(fresh, *(begin + call for call in calls))
    claim, beat, release = map(json.loads, told[:3])
    assert (claim["state"], beat["claims"][0]["task"], release["state"]) == ("held", "T-12", "done")
    assert told[3] == "No claims.\n"
    [file] = (fresh.home / ".dibs-curl").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_the_curl_lines_of_the_skill_know_what_is_next(
    recipe: tuple[str, list[str]], fresh: Sandbox, service: ServiceProcess
) -> None:
    begin, (claim, *_) = recipe
    lead = {"DIBS_PROJECT": "acme.curl", "DIBS_URL": service.url}
    fresh.dibs("add", "T-50", "--title", "Parse offsets", **lead).said(0)
    assert "`-d next=true`\ninstead of `-d task=T-12`" in (SKILL / "SKILL.md").read_text()
    call = begin + claim.replace("task=T-12", "next=true")
    told = json.loads(in_shells(fresh, call, CLAUDE_CODE_SESSION_ID="nexter")[0])
    assert (told["task"], told["listed"]["title"]) == ("T-50", "Parse offsets")


def test_the_curl_lines_make_no_two_sessions_one_and_no_session_two(
    recipe: tuple[str, list[str]], fresh: Sandbox
) -> None:
    begin, (claim, *_) = recipe
    claim = claim.replace("T-12", "T-13").replace("--fail ", "")
    me, other = {"CLAUDE_CODE_SESSION_ID": "me"}, {"CLAUDE_CODE_SESSION_ID": "other"}
    first, again = map(json.loads, in_shells(fresh, *[begin + claim] * 2, **me))
    assert (first["mine"], again["fence"]) == (True, first["fence"])
    [refused] = map(json.loads, in_shells(fresh, begin + claim, **other))
    assert refused["code"] == "held"
    [refused] = map(json.loads, in_shells(fresh, begin + claim))  # known only by its process
    assert refused["code"] == "held"


def test_the_curl_lines_put_the_secret_into_no_command_line_and_no_checkout(
    recipe: tuple[str, list[str]], fresh: Sandbox
) -> None:
    begin, (claim, *_) = recipe
    call, me = claim.replace("T-12", "T-14"), {"CLAUDE_CODE_SESSION_ID": "me"}
    in_shells(fresh, begin + call, **me)
    [file] = (fresh.home / ".dibs-curl").iterdir()
    secret = file.read_text().split()[1]
    [seen] = in_shells(fresh, f"exec 2>&1\nset -x\n{begin}{call}", **me)
    assert "+ curl" in seen
    assert secret not in seen
    for path in fresh.repo.rglob("*"):
        assert not path.is_file() or secret not in path.read_text("utf-8", "replace")
