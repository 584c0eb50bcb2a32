"""dibs, for Claude Code's hooks: what it does at an event, and the gate before edits and pushes.

dibs.py imports this file when a look at its stamp was not enough. Here no word goes to the agent
that another party wrote, and nothing that fails is told: the session's work goes on.
"""

import json
import os
import re
import shlex
import time

import dibs_client as client

VERBS = ("claim", "beat", "park", "release", "done", "list", "show", "verify", "doctor")


def run(session, payload):
    """See to an event that dibs.py could not decide by a look at its stamp."""
    payload = json.loads(payload)
    session.event = payload["hook_event_name"]
    session.load()
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
