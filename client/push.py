"""dibs, for git's pre-push hook: stops a push after a lost claim, or to another session's branch.

`dibs verify --pre-push` imports this file; `dibs init --pre-push` installs the hook that runs it.
If the service does not answer, the push goes on with a warning.
"""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from client import dibs as client
    from client.dibs import Session
else:
    import dibs_client as client

LOST = (
    "nothing was pushed: a claim of this session was lost, and it holds no other. Claim the task "
    "of this work before you push it (dibs claim TASK), or ask the user"
)
LOST_ONE = (
    "nothing was pushed: a claim of this session was lost. Do not push the work on it. If all of "
    "this push belongs to claims that you hold (dibs list --mine), push again"
)
STOPPED_S = 86_400
"""The time for which a loss stops the pushes of a session that claims nothing else."""


def verify(session: Session) -> int:
    """Return YES if the push may go on; raise Failure to stop it."""
    try:
        claims = session.load().data["claims"]
        reply = session.post("heartbeat", {"state": "working"}) if claims else {}
        ours = session.live_here()
        is_stopped = time.time() - session.data.get("stopped_at", 0) < STOPPED_S and not ours
        if reply.get("lost") or is_stopped:
            raise client.Failure(client.LOST, LOST if is_stopped else LOST_ONE)
        for branch in pushed_branches():
            for claim in client.claims_on(session, "branch", branch):
                is_ours = claim.get("mine") or claim["task"] in ours
                if claim["state"] in client.LIVE and not is_ours:
                    text = f"nothing was pushed to {client.word(branch)}: "
                    raise client.Failure(client.REFUSED, text + client.about_claim(claim))
    except client.Failure as failure:
        if failure.code in (client.LOST, client.REFUSED):
            raise
        client.talk(f"the push goes on unverified: {failure}")
    return client.YES


def pushed_branches() -> list[str]:
    """Return the pushed branches, by their local and remote names, from git's lines on stdin."""
    lines = sys.stdin.buffer.read(1 << 20).decode("utf-8", "replace").splitlines()
    refs = (line.split(" ")[at] for line in lines for at in (0, 2) if line.count(" ") >= 3)
    names = (client.without_invisible(ref[11:]) for ref in refs if ref.startswith("refs/heads/"))
    return list(dict.fromkeys(filter(None, names)))
