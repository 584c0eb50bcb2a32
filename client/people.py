"""dibs, for people with an admin key: `dibs hold`, `dibs unhold`, `dibs retry`.

dibs.py imports this file. DIBS_ADMIN_KEY goes where the environment says and nowhere else, as the
team key does; no session needs it, and none is let use it without a question.
"""

import binascii
import os

import dibs_client as client


def do_act(args, session):
    """Keep a task or the project back, let it go, or let a task be tried again."""
    setup = session.setup
    setup.check()
    if not (args.reason or "").strip():
        raise client.Failure(client.USAGE, f"{args.command} wants a --reason, which others read")
    body = {"task": args.task, "reason": args.reason}
    if args.command == "hold":
        body["until"] = args.until
    if args.command == "retry":
        body["fence"] = args.fence
    more = {"Authorization": login(setup)}
    try:
        reply = client.call(session, "POST", args.command, body, more=more)[0]
    except client.Failure as failure:
        if failure.problem.get("code") != "unauthorized":
            raise
        text = "DIBS_ADMIN_KEY is no admin key of this service"
        raise client.Failure(failure.code, text, failure.problem) from None
    client.report(args, reply, about(args.command, args.task or setup.project, reply))
    return client.YES


def about(command, what, reply):
    """T-12: on hold until 2026-11-30T18:00:00Z"""
    text = client.word(what) + ": "
    if command == "hold":
        until = (reply.get("hold") or {}).get("until")
        text += "on hold" + (f" until {client.word(until)}" if until else "")
    else:
        text += client.word(reply["state"]) if reply.get("state") else "not on hold"
    return text + (", as before" if reply["already"] else "")


def login(setup):
    """The admin key, and who acts, which the event of it says."""
    key, place = client.from_environment("DIBS_ADMIN_KEY")
    if not key:
        text = "this is for people: set DIBS_ADMIN_KEY to the service's admin key"
        raise client.Failure(client.USAGE, text)
    key = setup.bound("DIBS_ADMIN_KEY", key, place)
    names = ("DIBS_LABEL", "LOGNAME", "USER", "USERNAME")
    who = next(filter(None, (client.label_of(os.environ.get(name, "")) for name in names)), "")
    coded = binascii.b2a_base64(f"{who.replace(':', ' ')}:{key}".encode(), newline=False)
    return "Basic " + coded.decode()
