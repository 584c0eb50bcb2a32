"""dibs, for Claude Code's hooks: handles their events. gate.py makes the decision before a tool.

dibs.py imports this file when the stamp alone does not settle an event. Nothing here passes text
of another party to the agent, and failures are silent, so the session's work goes on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from client import dibs as client
    from client.dibs import Json, Session

    Act = tuple[str, Json, float, int]  # path, body, seconds to wait for the lock, attempts
else:
    import dibs_client as client

DOWN_S = 120  # after a failed call, the end of a turn does not wait for the service for so long
LIST_S = 2.0  # the longest wait at a session's start for whether there is a list
TO_DO = "ready,blocked,held,parked,review,lapsed"  # states of unfinished tasks of the list
TOOL_MOST_S = 7200  # after this a tool call without an end event, as an interrupted one, is over
KEEPER_LOOKS_S = 1.0  # the keeper's interval between two checks
# Programs that only start others: the agent is the nearest ancestor that is none of these.
SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish", "busybox", "env", "timeout", "nice")


ENDED, AT_WORK = client.HOOK_NOTES
SESSION_ENDED = "its session ended"


def run(session: Session, payload: Json, before: Sequence[str] = ()) -> None:
    """Handle an event that the stamp does not settle. `before`: the words to put before this
    agent's dibs commands."""
    session.event = payload["hook_event_name"]
    session.load()
    if not client.agent_id():
        note_process(session)
    if session.event == "PreToolUse" and session.needs_keeper():
        start_keeper(session)
    if session.event in ("Stop", "StopFailure") and is_known_down(session):
        see_to_it_later(payload)
    elif session.event == "SessionStart":
        on_start(session, payload)
    elif session.event == "PreToolUse":
        before_tool(session, payload, before)
    elif session.event == "SubagentStart":
        say(session, about_parent(session, payload))
    elif session.event == "SessionEnd" and payload.get("reason") == "clear":
        note_cleared(session)
        session.save()
    else:
        lost_before = see_to_all(session, payload)
        if session.event in ("PostToolUse", "UserPromptSubmit"):
            say(session, about_losses(session, payload, lost_before))


def before_tool(session: Session, payload: Json, before: Sequence[str]) -> None:
    """Print the gate's decision before a tool is used, if there is one."""
    if TYPE_CHECKING:
        from client import gate
    else:
        gate = client.part("gate")
    sub = client.one_line(str(payload.get("agent_id") or ""))
    after = ("--as", sub) if sub else ()  # identifies a sub-agent that does not name itself
    decision = gate.decision(session, payload, before, after)
    if decision:
        decision["hookEventName"] = "PreToolUse"
        print(json.dumps({"hookSpecificOutput": decision}))


def say(session: Session, text: str) -> None:
    """Print a text for the agent, which reads it at some events."""
    if text:
        told = {"hookEventName": session.event, "additionalContext": client.one_line(text)}
        print(json.dumps({"hookSpecificOutput": told}))


def is_known_down(session: Session) -> bool:
    """Return whether a call failed within DOWN_S. Then the end of a turn does not wait for the
    service."""
    since_s = session.begun - session.data.get("unreachable_at", 0)
    return 0 <= since_s < DOWN_S and not os.environ.get("DIBS_HOOK_LATER")


def see_to_it_later(payload: Json) -> None:
    """Start a detached process that handles the event, so that the turn can end now."""
    import subprocess

    nowhere = subprocess.DEVNULL
    child = subprocess.Popen(
        [sys.executable, "-IS", os.path.realpath(client.__file__), "hook"],
        stdin=subprocess.PIPE,
        stdout=nowhere,
        stderr=nowhere,
        start_new_session=True,
        env=dict(os.environ, DIBS_HOOK_LATER="1"),
    )
    if child.stdin:
        child.stdin.write(json.dumps(payload).encode())
        child.stdin.close()
    child.returncode = 0  # marks it as reaped: its exit status is not needed


def is_remote() -> bool:
    return os.environ.get("CLAUDE_CODE_REMOTE") == "true"


def see_to_all(session: Session, payload: Json) -> dict[str, list[Json]]:
    """Beat, park or release for the whole family of this session. Return {base of its state files:
    the losses that a member had before}."""
    members = [(one, act_of(one, payload)) for one in session.family()]
    before = {one.base: [*one.data["lost"]] for one, _ in members}
    if payload.get("background_tasks") and any(act for _, act in members):
        session.mark_tool("background")  # until the next turn
    post_all([(one, act) for one, act in members if act])
    session.change(lambda _: None)
    return before


def post_all(due: list[tuple[Session, Act]]) -> None:
    """Make several writes concurrently, within the timeout of one."""
    for one, _ in due:
        one.is_led = True
    if len(due) == 1:
        post(*due[0])
    elif due:
        from threading import Thread

        threads = [Thread(target=post, args=each, daemon=True) for each in due]
        until = time.monotonic() + client.HOOK_TIMEOUT_S + 1
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0, until - time.monotonic()))
    for one, _ in due:
        one.is_led = False


def post(one: Session, act: Act) -> None:
    """Make one write of one member. The next event repeats a failed one."""
    with suppress(client.Failure):
        one.post(*act, timeout_s=client.HOOK_TIMEOUT_S)


def act_of(one: Session, payload: Json) -> Act | None:
    """Return the act that an event requires for the claims of a member of the family, or None."""
    event, claims = one.event, one.load().data["claims"]
    is_its_own = one.sub and one.sub == client.one_line(str(payload.get("agent_id") or ""))
    if not claims or (event == "SubagentStop" and not is_its_own):
        return None
    is_end = event == "SessionEnd" and not is_remote() and payload.get("reason") != "resume"
    if is_end:
        is_silent = notes_of(claims) <= {"", ENDED, AT_WORK}
        return "release", {"all": True, **({"note": SESSION_ENDED} if is_silent else {})}, 2, 1
    is_parked = event in ("Stop", "StopFailure", "SessionEnd") and not payload.get(
        "background_tasks"
    )
    if is_parked or event == "SubagentStop":
        one.data["ended"] = event == "SubagentStop"
        return "heartbeat", with_note(claims, "parked", ENDED), 3, 1
    if event == "SessionStart" and state_at_start(one, payload) == "parked":
        return "heartbeat", {"state": "parked"}, 1, 1
    one.data["ended"] = bool(one.data.get("ended") and not is_its_own)
    if one.data["ended"]:  # a sub-agent that has stopped: its claims stay parked
        return None
    return "heartbeat", with_note(claims, "working", AT_WORK), 1, 1


def state_at_start(one: Session, payload: Json) -> str:
    """Return the state for the heartbeat at a session's start: after `/clear` a parked session
    stays parked."""
    is_idle = payload.get("source") == "clear" and one.data.get("parked_at")
    return "parked" if is_idle else "working"


def notes_of(claims: dict[str, Json]) -> set[str]:
    """Return the notes of claims, '' for none."""
    return {claim.get("note") or "" for claim in claims.values()}


def with_note(claims: dict[str, Json], state: str, note: str) -> Json:
    """Build a heartbeat of all claims. It has a note only where the notes so far are our own: a
    park sets ENDED, and work after it AT_WORK."""
    notes = notes_of(claims)
    is_said = notes <= {ENDED, AT_WORK} and ENDED in notes
    is_due = notes <= {"", ENDED, AT_WORK} if state == "parked" else is_said
    return {"state": state, "note": note} if is_due else {"state": state}


def about_losses(session: Session, payload: Json, before: dict[str, list[Json]]) -> str:
    """Return a message about losses for the agent at work. A session gets its own and those of its
    stopped sub-agents, a sub-agent its own and its parent's new ones."""
    sub, texts = client.one_line(str(payload.get("agent_id") or "")), []
    for one in session.family():
        where = "" if one.setup.project == session.setup.project else f" (in {one.setup.project})"
        if one.sub == sub or (not sub and one.load().data.get("ended")):
            if one.load().data["lost"]:
                texts += [loss + where for loss in one.change(client.Session.take_losses)]
        elif sub and not one.sub:
            new = [loss for loss in one.load().data["lost"] if loss not in before.get(one.base, [])]
            texts += [client.about_loss(loss, is_brief=True) + where for loss in new]
    text = ". ".join(texts[:3])
    return f"dibs: {text}. Stop work on it and do not push it." if text else ""


def held_by(session: Session) -> str:
    """Describe what the family holds by our own clocks, this session first."""
    found = []
    for one in session.family():
        for task in one.load().live():
            until = client.stamped(one.data["claims"][task]["until"][0])
            moment = client.moment_of(until)
            text = f"{client.word(task)} until {moment}"
            if one.data["claims"][task].get("pr"):
                text = f"{client.word(task)} (in review)"
            if one.setup.project != session.setup.project:
                text += f" in {one.setup.project}"
            if one.setup.url != session.setup.url:
                text += f" at {client.host_port_of(one.setup.url)}"
            found.append(text + (f" (sub-agent {client.word(one.sub)})" if one.sub else ""))
    more = [f"{len(found) - 3} more"] if len(found) > 3 else []
    return ", ".join([*found[:3], *more])


def show_status(payload: bytes) -> None:
    """Print for the person what is held, from local files alone: T-1, 24 min left."""
    folder = client.field_of(payload, "project_dir") or os.environ.get("CLAUDE_PROJECT_DIR")
    heard, found = "" if client.agent_id() else client.field_of(payload, "session_id"), []
    session = client.Session(client.Setup(folder), heard)
    for one in session.family():
        for task in one.load().live():
            claim = one.data["claims"][task]
            left = max(1, round(client.remaining_s(claim["until"]) / 60))
            text = "waits" if claim["parked"] else f"{left} min left"
            text = "in review" if claim.get("pr") else text
            found.append(f"{client.word(task)}, {text}")
    if found:
        print("; ".join(found[:3]))


def about_parent(session: Session, payload: Json) -> str:
    """Return a text for a new sub-agent: what its parent holds, and the sub-agent's own name."""
    name = str(payload.get("agent_id") or "")
    name = name if client.is_word(name) and name[0] != "-" else "NAME"
    held = held_by(session)
    text = f"dibs: the session that started you holds {held or 'no task'}."
    text += " Work on that needs no claim of yours." if held else ""
    return text + f" To claim another task: {client.COMMAND} claim TASK --as {name}"


def on_start(session: Session, payload: Json) -> None:
    """Print facts for the agent at a session's start, in at most 100 tokens."""
    source, facts = payload.get("source"), []
    if source == "clear":
        with suppress(OSError):
            session, text = gone_on(session)
            facts += [text] if text else []
    was_new, may_ask = session.is_new, True
    try:
        if session.secret():
            beat = {"state": state_at_start(session, payload)}
            session.post("heartbeat", beat, 2, 1, client.HOOK_TIMEOUT_S)
    except client.Failure as failure:
        is_down, may_ask = failure.code == client.UNKNOWN, False
        facts.append(
            "dibs was not reached just now."
            if is_down
            else f"dibs does not work as it is set up: `{client.COMMAND} doctor` says why."
        )
    others = [(one, act_of(one, payload)) for one in session.family() if one is not session]
    post_all([(one, act) for one, act in others if act])
    held = held_by(session)
    facts.insert(0, f"dibs: this session holds {held or 'no task'}.")
    is_listed = may_ask and has_list(session)
    session.change(lambda one: one.data.update({"list": is_listed}))
    facts += [loss + "." for loss in session.change(client.Session.take_losses)[:2]]
    if was_new and is_remote() and (held or source in ("resume", "compact")):
        facts.append("This VM is new: files that were not pushed are gone.")
    elif was_new and source == "resume":
        facts.append(
            "This is a new session, as after a fork: it holds no claim that the conversation made."
        )
    if is_listed:
        facts.append(
            f"Take the next task: {client.COMMAND} next, or claim TASK; after it: done TASK."
        )
    else:
        facts.append(f"Claim a task before work: {client.COMMAND} claim TASK; after it: done TASK.")
    print(client.one_line(" ".join(facts)))


def has_list(session: Session) -> bool:
    """Return whether the team's list has unfinished tasks; False if the service did not answer a
    moment ago or does not answer in time."""
    if time.time() - session.data.get("unreachable_at", 0) < DOWN_S:
        return False
    path = f"/v1/{client.percent_encoded(session.setup.project)}/tasks?limit=1&state={TO_DO}"
    try:
        session.secret()  # raises Failure if a key may not go to this host
        until = time.monotonic() + LIST_S
        page = client.json_of(client.ask(session.setup, "GET", path, {}, b"", until)[1])
        return bool(page["tasks"] or page["cursor"])
    except (client.Failure, *client.MALFORMED):
        return False


def note_process(session: Session) -> None:
    """Record this agent's process, so that commands to which it passes no id find their
    session."""
    with suppress(OSError):
        keep_process(session)


def keep_process(session: Session) -> None:
    folder, own = os.path.join(session.place, "agents"), client.percent_encoded(session.heard)
    process = agent_process().replace(" ", "-")
    if not (own and process and os.path.isdir("/proc/self")):
        return
    session.make_folders()
    client.own_folder(folder)
    for name in os.listdir(folder):
        if not os.path.exists(f"/proc/{name.partition('-')[0]}"):
            os.unlink(os.path.join(folder, name))
    path = os.path.join(folder, process)
    known = client.read_own(path).split()
    wanted = [one for one in known if one != own]
    wanted += [own] if session.event != "SessionEnd" else []
    if wanted != known:
        session.replace_file("", "\n".join(wanted), path)


CLEARED_S = 60  # from the end of a conversation by `/clear` to the start of the next


def note_cleared(session: Session) -> None:
    """Record that this conversation ended by `/clear`: the next one continues its session."""
    process = agent_process() or "-"
    words = (session.heard or "-", place_of_work(session), process, str(time.time()))
    session.make_folders()
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with open(client.open_own(os.path.join(session.place, "cleared"), flags), "w") as file:
        file.write(" ".join(map(client.percent_encoded, words)) + "\n")


def place_of_work(session: Session) -> str:
    return os.path.realpath(session.setup.root or os.environ.get("CLAUDE_PROJECT_DIR") or ".")


def gone_on(session: Session) -> tuple[Session, str]:
    """Return (the session to use after `/clear`, a text for the agent or ''): the session that the
    same agent has just left in this checkout. Of two candidates it continues neither."""
    heard = session.heard
    process = agent_process() or "-"
    path, place = os.path.join(session.place, "cleared"), place_of_work(session)
    session.make_folders()
    with session.lock(2, os.path.join(session.place, "moved")):
        lines = [
            [client.unquoted(word) for word in line.split()]
            for line in client.read_own(path).splitlines()
        ]
        fresh = [line for line in lines if len(line) == 4 and is_recent(line[3])]
        ours = [line for line in fresh if line[1:3] == [place, process]]
        left = [line for line in fresh if line not in ours or len(ours) > 1]
        text = "\n".join(" ".join(map(client.percent_encoded, line)) for line in left)
        session.replace_file("", text + "\n" if text else "", path)
        ids = {line[0] for line in ours}
        if len(ids) == 1 and heard and heard not in ids:
            change_places(session, *ids)
    if len(ids) > 1:
        return session, "Two sessions were cleared here at once: this one continues neither."
    session = client.Session(session.setup, heard)
    session.event = "SessionStart"
    return session.load(), ""


def is_recent(text: str) -> bool:
    try:
        return abs(time.time() - float(text)) < CLEARED_S
    except ValueError:
        return False


def change_places(session: Session, old: str) -> None:
    """Swap the sessions of two ids: from now on the agent's new id names the session of the old
    one, and the old id that of the new one. No two ids ever name the same session."""
    table, new = client.moved(session.place), session.heard
    table[new], table[old] = table.get(old, old), table.get(new, new)
    lines = [f"{client.percent_encoded(k)} {client.percent_encoded(v)} 1" for k, v in table.items()]
    session.replace_file("", "\n".join(lines) + "\n", os.path.join(session.place, "moved"))


def agent_process() -> str:
    """Return the agent's process as "PID start": our nearest ancestor that is no shell; '' if it
    cannot be known. The start distinguishes it from a later process with the same PID."""
    number = os.getppid()
    while number > 1:
        parent, name, text = process(number)
        if name not in SHELLS:
            return text
        number = parent
    return ""


def process(number: int) -> tuple[int, str, str]:
    """Return (parent's PID, name, "PID start") of a process; (0, "", "") if it does not run: a
    zombie or a stopped process counts as not running."""
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


def process_by_ps(number: int) -> tuple[str, str, str, str]:
    """Return (state, parent's PID, name, start) from `ps`, where there is no /proc (macOS)."""
    import subprocess

    columns = ["ps", "-o", "state=,ppid=,lstart=,comm=", "-p", str(number)]
    try:
        done = subprocess.run(columns, capture_output=True, text=True, timeout=2, check=True)
        state, parent, *start, name = done.stdout.split(None, 7)
    except (OSError, ValueError, subprocess.SubprocessError):
        return "Z", "0", "", ""
    return state, parent, os.path.basename(name.strip()), "-".join(start)


def start_keeper(session: Session) -> None:
    """Start the keeper: a process that beats during long tool calls and ends with the agent."""
    import subprocess

    agent = agent_process()
    if not agent:
        return
    command = [sys.executable, "-IS", os.path.realpath(client.__file__), "hook", "keep", agent]
    command += [session.heard] if session.heard else []
    subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        close_fds=True,
    )


def keep(session: Session, agent: str) -> None:
    """Run the keeper: beat while a tool runs, since no hook runs meanwhile, for as long as the
    agent lives. An interrupted tool call counts until the turn ends, or for two hours at most."""
    import fcntl

    session.event = "Keep"
    lock = os.fdopen(
        client.open_own(session.family_base + ".keeper", os.O_WRONLY | os.O_CREAT), "w"
    )
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # another keeper runs
    while process(int(agent.split()[0]))[2] == agent:
        is_running = has_tool(session)
        if is_running and not session.is_throttled(must_hold=False):
            beat_quietly(session)
        if not is_running and not session.has_any():
            return  # nothing to keep
        time.sleep(KEEPER_LOOKS_S)


def has_tool(session: Session) -> bool:
    """Return whether a tool call is in progress; note_tool of dibs.py records each."""
    try:
        calls = [entry.stat().st_mtime for entry in os.scandir(session.family_base + ".tools")]
    except OSError:
        return False
    return any(0 <= time.time() - begun < TOOL_MOST_S for begun in calls)


def beat_quietly(session: Session) -> None:
    """Beat for the whole family; the next check repeats a failed beat."""
    session.begun = time.time()
    with suppress(client.Failure):
        see_to_all(session, {})
