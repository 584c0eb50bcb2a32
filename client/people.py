"""dibs, for people: `dibs hold`, `dibs unhold`, `dibs retry` with an admin key; `dibs history`.

dibs.py imports this file. DIBS_ADMIN_KEY, like the team key, is sent only to the host that the
environment names. No session needs it, and the gate lets no agent use it without a question.
"""

from __future__ import annotations

import binascii
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from client import dibs as client
    from client.dibs import Args, Json, Session, Setup
else:
    import dibs_client as client

EXPORT_S = 60.0


def do_history(args: Args, session: Session) -> int:
    """Print the tenures of the project that ended in a span of days, as lines, JSON or CSV."""
    setup = session.load().setup
    setup.check()
    span = [(name, getattr(args, name)) for name in ("since", "until") if getattr(args, name)]
    query = "&".join(f"{name}={client.percent_encoded(value)}" for name, value in span)
    if args.csv:
        return write_csv(setup, query)
    found, cursor = [], ""
    while cursor is not None:
        more = f"&cursor={client.percent_encoded(cursor)}" if cursor else ""
        page = client.call(session, "GET", f"history?{query}{more}")[0]
        cursor = page["cursor"]
        for one in () if args.json else page["tenures"]:
            print(f"{client.word(one['task'])}: {client.about_tenure(one)}")
        found += page["tenures"]
    if args.json:
        client.report(args, {"tenures": found, "cursor": None}, "history")
    elif not found:
        print("no history")
    return client.YES


def write_csv(setup: Setup, query: str) -> int:
    """Print the service's CSV unchanged, complete or not at all."""
    path = f"/v1/{client.percent_encoded(setup.project)}/history.csv?{query}"
    until = time.monotonic() + EXPORT_S
    try:
        got, raw = client.ask(setup, "GET", path, {"Accept": "text/csv"}, until=until)
    except client.Failure as failure:
        if failure.problem.get("code") != "too-large":
            raise
        text = f"{failure}: ask for fewer days, with --since and --until"
        raise client.Failure(client.USAGE, text) from None
    if "text/csv" not in got.get("content-type", ""):
        raise client.refusal(200, got, raw)
    sys.stdout.flush()
    sys.stdout.buffer.write(raw)
    return client.YES


def do_act(args: Args, session: Session) -> int:
    """Run hold, unhold or retry."""
    setup = session.setup
    setup.check()
    if not (args.reason or "").strip():
        raise client.Failure(client.USAGE, f"{args.command} needs a --reason, which others read")
    body: Json = {"task": args.task, "reason": args.reason}
    if args.command == "hold":
        body["until"] = args.until
    if args.command == "retry":
        body["fence"] = args.fence
    more = {"Authorization": login(setup)}
    try:
        reply = client.call(session, "POST", args.command, body, more=more)[0]
    except client.Failure as failure:
        if failure.problem.get("code") not in ("unauthorized", "forbidden"):
            raise
        text = "DIBS_ADMIN_KEY is not an admin key of this service"
        raise client.Failure(failure.code, text, failure.problem) from None
    client.report(args, reply, about(args.command, args.task or setup.project, reply))
    return client.YES


def about(command: str, what: str, reply: Json) -> str:
    """Describe the result: T-12: on hold until 2026-11-30T18:00:00Z."""
    text = client.word(what) + ": "
    if command == "hold":
        until = (reply.get("hold") or {}).get("until")
        text += "on hold" + (f" until {client.word(until)}" if until else "")
    else:
        text += client.word(reply["state"]) if reply.get("state") else "not on hold"
    return text + (", as before" if reply["already"] else "")


def login(setup: Setup) -> str:
    """Return the Authorization header: the admin key, and the person's name for the event."""
    key, place = client.from_environment("DIBS_ADMIN_KEY")
    if not key:
        text = "this is for people: set DIBS_ADMIN_KEY to the service's admin key"
        raise client.Failure(client.USAGE, text)
    key = setup.bound("DIBS_ADMIN_KEY", key, place)
    names = ("DIBS_LABEL", "LOGNAME", "USER", "USERNAME")
    who = next(filter(None, (client.label_of(os.environ.get(name, "")) for name in names)), "")
    coded = binascii.b2a_base64(f"{who.replace(':', ' ')}:{key}".encode(), newline=False)
    return "Basic " + coded.decode()
