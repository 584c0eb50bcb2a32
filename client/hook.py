"""dibs, for Claude Code's hooks: what it does at an event. gate.py has what it says before a tool.

dibs.py imports this file when a look at its stamp was not enough. Here no word goes to the agent
that another party wrote, and nothing that fails is told: the session's work goes on.
"""

import json
import os
import sys
import time

import dibs_client as client

KEEPER_LOOKS_S = 1.0  # how long it sleeps between two looks
# What starts programs and is none of them: the agent is what has started these.
SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish", "busybox", "env", "timeout", "nice")


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
        decision = client.part("gate").decision(session, payload)
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
