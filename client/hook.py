"""dibs, for Claude Code's hooks: what it does at an event, and the gate before edits and pushes.

dibs.py imports this file when a look at its stamp was not enough. Here no word goes to the agent
that another party wrote, and nothing that fails is told: the session's work goes on.
"""

import json
import os
import re
import shlex
import sys
import time

import dibs_client as client

KEEPER_LOOKS_S = 1.0  # how long it sleeps between two looks
# What starts programs and is none of them: the agent is what has started these.
SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish", "busybox", "env", "timeout", "nice")
VERBS = ("claim", "beat", "park", "release", "done", "list", "show", "verify", "doctor")


def run(session, payload):
    """See to an event that dibs.py could not decide by a look at its stamp."""
    payload = json.loads(payload)
    session.event = payload["hook_event_name"]
    session.load()
    if session.event == "PreToolUse" and session.needs_keeper():
        start_keeper(session)
    if session.event == "SessionStart":
        on_start(session, payload)
    elif session.event == "PreToolUse":
        decision = on_tool(session, payload)
        if decision:
            decision["hookEventName"] = "PreToolUse"
            print(json.dumps({"hookSpecificOutput": decision}))
    elif not session.data["claims"]:
        session.save()
    elif session.event == "SessionEnd" and os.environ.get("CLAUDE_CODE_REMOTE") != "true":
        session.post(
            "release", {"all": True, "note": "its session ended"}, 2, 1, client.HOOK_TIMEOUT_S
        )
    elif session.event in ("Stop", "StopFailure", "SessionEnd"):
        state = "working" if payload.get("background_tasks") else "parked"
        if state == "working":
            session.mark_tool("background")  # until the next turn
        session.post("heartbeat", {"state": state}, 3, 1, client.HOOK_TIMEOUT_S)
    elif session.event in client.BEATS:
        session.post("heartbeat", {"state": "working"}, 1, 1, client.HOOK_TIMEOUT_S)


def on_start(session, payload):
    """Facts for the agent, in at most 100 tokens."""
    was_new, source, facts = session.is_new, payload.get("source"), []
    try:
        if session.secret():
            session.post("heartbeat", {"state": "working"}, 2, 1, client.HOOK_TIMEOUT_S)
    except client.Failure as failure:
        is_down = failure.code == client.UNKNOWN
        facts.append(
            "dibs was not reached just now." if is_down else f"`{client.COMMAND} doctor` helps."
        )
    ends = [(task, time.gmtime(c["until"][0])) for task, c in session.data["claims"].items()]
    held = [f"{client.word(task)} until {time.strftime('%H:%MZ', end)}" for task, end in ends]
    facts.insert(0, f"dibs: this session holds {', '.join(held[:3]) or 'no task'}.")
    facts += [loss + "." for loss in session.take_losses()[:2]]
    if was_new and (held or source in ("resume", "compact")):
        facts.append("This VM is new: files that were not pushed are gone.")
    facts.append(
        f"Tasks are claimed before work: {client.COMMAND} claim TASK; after it: done TASK."
    )
    session.save()
    print(client.one_line(" ".join(facts)))


# What a dibs command never needs, and what an agent that was talked into it would write down where
# others read: keys by their beginnings, a session's UUID, `password=…`, a login in a URL, and long
# words that look random.
SECRETS = (
    r"AKIA[0-9A-Z]{16}|\bgh[opsur]_\w{20}|github_pat_\w|\bxox[a-z]-|\bsk-[\w-]{16}|glpat-"
    r"|AIza[\w-]{30}|eyJ[\w-]{10,}\.|-----BEGIN|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|(?i:secret|token|passw(or)?d|passphrase|api[_-]?key|credential)s?\w*[\"']?\s*"
    r"(=\s*\S{4}|:\s*(?=\S*\d)\S{6})|(?i:authorization|bearer)\W+\S{8}|://[^/\s:@]+:[^/\s@]+@"
    r"|(?=\w*[a-z])(?=\w*[A-Z])(?=\w*[0-9])\b\w{32,}|\b[0-9a-f]{64,}\b"
)
PRIVATE_NAMES = r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|DIBS_SESSION"  # of variables


def reason_to_ask(command):
    """Why a person should see a dibs command first, or '': what it writes, many may read."""
    words, is_ours = [], False
    parts = shlex.shlex(command, posix=True, punctuation_chars=True)
    parts.whitespace_split = True
    try:
        for part in parts:
            is_ours = not set(part) <= set("();<>|&") and (is_ours or part.endswith("dibs"))
            words += [part] if is_ours else []
    except ValueError:  # a quote without its end
        words = [command]
    text, values = " ".join(words), os.environ.items()
    private = (value for name, value in values if re.search(PRIVATE_NAMES, name))
    if re.search(SECRETS, text) or any(len(v) >= 8 and v in text for v in private):
        return "it may write a secret"
    return "it writes a long text" if max(map(len, words), default=0) > client.QUOTED_MOST else ""


def on_tool(session, payload):
    """Let plain dibs commands pass; gate edits and pushes. Without asking the network."""
    given = payload.get("tool_input") or {}
    command = str(given.get("command", "")) if payload.get("tool_name") == "Bash" else ""
    cwd = payload.get("cwd") or session.setup.root or "."
    why = reason_to_ask(command) if "dibs" in command else ""
    if why:
        why = f"dibs: {why}, and everybody who reads the board would read it"
        return {"permissionDecision": "ask", "permissionDecisionReason": why}
    if is_plain(command, cwd):
        return {"permissionDecision": "allow", "permissionDecisionReason": "a dibs command"}
    return gate_decision(session, payload, is_work(session, command, given, cwd))


def is_plain(command, cwd):
    """Is it one dibs command of ours, and nothing that a shell would make more of?"""
    words = command.split()
    words = words[1:] if words[:1] == ["sh"] else words
    if len(words) < 2 or words[1] not in VERBS:
        return False
    if not set(command.encode("utf-8", "replace")) <= {*client.SAFE, *b" /:#@=,+\"'"}:
        return False
    script = os.path.join(cwd, words[0].strip("\"'"))
    return os.path.realpath(script) + ".py" == os.path.realpath(client.__file__)


def is_work(session, command, given, cwd):
    """Does it change the repository: an edit of a file of its, a commit, a push?"""
    path, root = given.get("file_path") or given.get("notebook_path"), session.setup.root or "."
    if path:
        path = os.path.realpath(os.path.join(cwd, path))
        return path.startswith(os.path.join(os.path.realpath(root), ""))
    words = command.split()
    return "git" in words and ("commit" in words or "push" in words)


def gate_decision(session, payload, is_work):
    """What the hook says about it; None is nothing."""
    gate, lost, now = session.setup.gate, session.take_losses(), time.time()
    text = " ".join(loss + "." for loss in lost)
    is_unclaimed = is_work and not session.live() and payload.get("permission_mode") != "plan"
    if gate == "off" or not (lost or is_unclaimed):
        return None
    if is_unclaimed:
        text += f" This session holds no task; `{client.COMMAND} claim TASK` takes one."
    is_down = now - session.data.get("unreachable_at", 0) < 600
    is_blocked = gate == "block" and is_unclaimed and not is_down
    if not is_blocked and not lost and now - session.data.get("warned_at", 0) < 600:
        return None
    session.data["warned_at"] = now
    session.save()
    if is_blocked:
        return {"permissionDecision": "deny", "permissionDecisionReason": text.strip()}
    return {"additionalContext": text.strip()}


def agent_process():
    """The process whose hook this is, as "number start": what has started us, shells left out. ''
    where that cannot be known. The start tells it from a later process of the same number."""
    number = os.getppid()
    while number > 1:
        parent, name, text = process(number)
        if name not in SHELLS:
            return text
        number = parent
    return ""


def process(number):
    """(number of its parent, name, "number start") of a process; (0, "", "") where there is none
    that runs: a dead one whose parent has not asked yet how it ended is none, and neither is one
    that somebody has stopped."""
    stat = client.read_text(f"/proc/{number}/stat")
    if stat:
        _, _, rest = stat.rpartition(")")
        name, fields = stat[stat.find("(") + 1 : -len(rest) - 1], rest.split()
        state, parent, start = fields[0], fields[1], fields[19]
    elif os.path.isdir("/proc/self"):
        return 0, "", ""
    else:
        state, parent, name, start = process_by_ps(number)
    return (
        (0, "", "") if state[:1] in "ZXTt" else (int(parent), name.lstrip("-"), f"{number} {start}")
    )


def process_by_ps(number):
    """The same from `ps`, where there is no /proc (macOS)."""
    import subprocess

    columns = ["ps", "-o", "state=,ppid=,lstart=,comm=", "-p", str(number)]
    try:
        done = subprocess.run(columns, capture_output=True, text=True, timeout=2, check=True)
        state, parent, *start, name = done.stdout.split(None, 7)
    except (OSError, ValueError, subprocess.SubprocessError):
        return "Z", "0", "", ""
    return state, parent, os.path.basename(name.strip()), "-".join(start)


def start_keeper(session):
    """Start the process that beats while one tool runs for long, and that ends with the agent."""
    import subprocess

    agent = agent_process()
    if not agent:
        return
    command = [sys.executable, "-IS", os.path.realpath(client.__file__), "hook", "keep", agent]
    subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        close_fds=True,
    )


def keep(session, agent):
    """Beat while a tool runs, for no other event comes meanwhile; as long as the agent lives. A
    call that was interrupted ends with the turn, and counts for two hours at most."""
    import fcntl

    session.event = "Keep"
    lock = os.fdopen(client.open_own(session.base + ".keeper", os.O_WRONLY | os.O_CREAT), "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # there is one
    while process(int(agent.split()[0]))[2] == agent:
        is_running = session.has_tool()
        if is_running and not session.is_throttled(must_hold=False):
            beat_quietly(session)
        if not is_running and not session.is_throttled(must_hold=True):
            return  # nothing to keep
        time.sleep(KEEPER_LOOKS_S)


def beat_quietly(session):
    try:
        session.begun = time.time()
        session.load().post("heartbeat", {"state": "working"}, 1, 1, client.HOOK_TIMEOUT_S)
    except client.Failure:  # the next look tries again
        pass
