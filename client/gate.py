"""dibs, for the gate: decides whether an agent's next action passes, and warns about work without
a claim.

hook.py calls this file before a tool is used. The gate decides from the session's local state, and
calls the service only if a claim has ended by our own clock. It does not stop actions whose effect
it cannot know (a script, a variable, `python -c`).
"""

from __future__ import annotations

import os
import re
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from client import dibs as client
    from client import passing, shell, work
    from client.dibs import Json, Session
    from client.shell import Line
else:
    import dibs_client as client

    shell, passing, work = (client.part(name) for name in ("shell", "passing", "work"))

CONFIRM_S, DOWN_S, QUIET_S = 2.0, 600, 600
# Secrets, which a dibs command never needs, and which a manipulated agent could publish through
# one: known key prefixes, a session's UUID, `password=…`, a login in a URL, and long words that
# look random.
SECRETS = (
    r"AKIA[0-9A-Z]{16}|\bgh[opsur]_\w{20}|github_pat_\w|\bxox[a-z]-|\bsk-[\w-]{16}|glpat-"
    r"|AIza[\w-]{30}|eyJ[\w-]{10,}\.|-----BEGIN|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|(?i:secret|token|passw(or)?d|passphrase|api[_-]?key|credential)s?\w*[\"']?\s*"
    r"(=\s*\S{4}|:\s*(?=\S*\d)\S{6})|(?i:authorization|bearer)\W+\S{8}|://[^/\s:@]+:[^/\s@]+@"
    r"|(?=\w*[a-z])(?=\w*[A-Z])(?=\w*[0-9])\b\w{32,}|\b[0-9a-f]{64,}\b"
)
PRIVATE_NAMES = r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|DIBS_SESSION"  # in names of variables


def decision(
    session: Session, payload: Json, before: Sequence[str] = (), after: Sequence[str] = ()
) -> Json | None:
    """Return the PreToolUse decision in Claude Code's format, or None to stay silent. A dibs
    command that passes gets the words `before` in front of it and `after` behind its verb."""
    given = payload.get("tool_input")
    given = given if isinstance(given, dict) else {}
    command = str(given.get("command", "")) if payload.get("tool_name") == "Bash" else ""
    cwd = str(payload.get("cwd") or session.setup.root or ".")
    if "dibs" in command:
        why = reason_to_ask(command)
        if why:
            why = f"dibs: {why}, which everybody who reads the board could see"
            return {"permissionDecision": "ask", "permissionDecisionReason": why}
        place = passing.Place(session.setup.root, cwd, before, after)
        line = passing.rewritten(command, place, shell.read)
        if line is not None:
            passes = {"permissionDecision": "allow", "permissionDecisionReason": "a dibs command"}
            return (
                passes if line == command else dict(passes, updatedInput=dict(given, command=line))
            )
    return about_work(session, payload, work.is_work(session.setup.root, payload, command, cwd))


def reason_to_ask(command: str) -> str:
    """Return why a person should confirm a dibs command, or '': its texts are visible to many."""
    try:
        words = words_of_dibs(shell.read(command))
    except shell.Unreadable:  # a quote without its end
        words = [command]
    text, values = " ".join(words), os.environ.items()
    private = (value for name, value in values if re.search(PRIVATE_NAMES, name))
    if re.search(SECRETS, text) or any(len(v) >= 8 and v in text for v in private):
        return "this command may write a secret"
    is_long = max(map(len, words), default=0) > client.QUOTED_MOST
    return "this command writes a long text" if is_long else ""


def words_of_dibs(parts: Line) -> list[str]:
    """Return the words of all dibs commands in a line, also of those inside nested lines."""
    found = []
    for command in (part for part in parts if not isinstance(part, str)):
        texts = [word.text for word in command.words]
        at = [number for number, text in enumerate(texts) if is_dibs(text)]
        found += texts[at[0] :] if at else []
        found += [text for text in texts if " " in text and "dibs " in text]
        for line in command.lines():
            found += words_of_dibs(line)
    return found


def is_dibs(text: str) -> bool:
    return os.path.basename(text) in ("dibs", "dibs.py")


def about_work(session: Session, payload: Json, is_work: bool) -> Json | None:
    """Return what the hook says about losses and about work without a claim, or None."""
    gate, text, now = session.setup.gate, "", time.time()
    is_unclaimed = is_work and payload.get("permission_mode") != "plan" and not holds(session)
    is_unclaimed = is_unclaimed and gate != "off"
    unconfirmed = confirmed_now(session) if is_unclaimed else []
    is_unclaimed = is_unclaimed and not holds(session) and not unconfirmed
    lost = session.take_losses()
    if gate == "off" or not (lost or is_unclaimed or unconfirmed):
        return None
    text = " ".join(loss + "." for loss in lost) + " ".join(unconfirmed)
    if is_unclaimed:
        text += advice(session)
    is_down = now - session.data.get("unreachable_at", 0) < DOWN_S
    is_blocked = gate == "block" and is_unclaimed and not is_down
    if not is_blocked and not lost and now - session.data.get("warned_at", 0) < QUIET_S:
        return None
    session.data["warned_at"] = now
    session.save()
    if is_blocked:
        return {"permissionDecision": "deny", "permissionDecisionReason": text.strip()}
    return {"additionalContext": text.strip()}


def holds(session: Session) -> bool:
    """Return whether this session surely holds the task it works on: the one in DIBS_TASK if that
    is set, by `dibs run` or by anyone else, otherwise any task."""
    task, live = os.environ.get("DIBS_TASK"), session.live_here()
    if task and os.environ.get("DIBS_FENCE"):
        return True  # `dibs run` holds it, and stops us if it is lost
    return task in live if task else bool(live)


def advice(session: Session) -> str:
    task = os.environ.get("DIBS_TASK")
    if task and client.is_word(task):
        what = f"works on {task} (DIBS_TASK) and does not hold it"
        return f" This session {what}; `{command_line()} claim {task}` takes it."
    how = "next" if session.data.get("list") and not task else "claim TASK"
    takes = "it" if task else "one"
    return f" This session holds no task; `{command_line()} {how}` takes {takes}."


def command_line() -> str:
    """Return the command that calls dibs from any folder."""
    path = os.path.join(client.here(), "dibs")
    return "sh " + passing.quoted(path) if os.path.isfile(path) else client.COMMAND


def confirmed_now(session: Session) -> list[str]:
    """Send one heartbeat if claims have ended by our own clock but are not reported as lost: a long
    tool call outlasts the beats. Return a message for each claim that could not be confirmed; those
    do not stop work."""
    over = {task: c for task, c in session.data["claims"].items() if task not in session.live()}
    named = os.environ.get("DIBS_TASK")
    over = {task: c for task, c in over.items() if not named or task == named}
    if not over:
        return []
    if time.time() - session.data.get("unreachable_at", 0) >= DOWN_S:
        try:
            session.post("heartbeat", {"state": "working"}, 1, 1, CONFIRM_S)
            return []
        except client.Failure as failure:
            if failure.code != client.UNKNOWN:
                return []
    since = {task: c["until"][0] - c["ttl"] * 0.95 for task, c in over.items()}
    return [
        f" The claim on {client.word(task)} has not been confirmed since "
        + time.strftime("%H:%MZ.", time.gmtime(when))
        for task, when in sorted(since.items())[:3]
    ]
