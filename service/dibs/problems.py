"""The table of all problems that the service returns (RFC 9457).

`type` is a path of this service that serves the explanation. A detail says who, until when and
what to do next; it never names a way to take over another session's claim. It may name an action
that needs an admin key, such as freeing a damaged record.
"""

from dataclasses import dataclass
from typing import Any, Literal

NAMED = 20
"""Bad fields that an `invalid` problem names at most."""
Applied = Literal["not-applied", "unknown"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of the table."""

    code: str
    status: int
    title: str
    about: str
    """The causes and the remedy: the text of the page that `type` names."""
    when: str
    """The causes in one line, with the problem's own fields: a cell in docs/protocol.md."""
    next: str = ""
    """The remedy in a few words: a cell in docs/protocol.md."""


TABLE = (
    Problem(
        "invalid",
        422,
        "Invalid request",
        "A field, header or query parameter is missing, unknown or out of bounds. `errors` names "
        "every bad field (20 at most) with its rule. Nothing was changed. Correct the request; "
        "repeating it unchanged gives the same answer.",
        when="a field, header or query breaks a rule; `errors: [{field, message}]` names all of "
        "them, 20 at most",
        next="correct it",
    ),
    Problem(
        "bad-session",
        401,
        "Dibs-Session is missing or guessable",
        "Every POST carries `Dibs-Session: <uuid>`, version 4 (random) or 8 (HMAC). It is the "
        "secret by which you hold claims: make one, keep it for the whole session, show it to no "
        "one.",
        when="`Dibs-Session` is missing or guessable: another UUID version, an example, a pattern",
        next="make a version 4 UUID and keep it",
    ),
    Problem(
        "unauthorized",
        401,
        "The team key is missing or wrong",
        "Send `Authorization: Bearer <team key>`, or HTTP Basic with the key as the password.",
        when="the team key is missing or wrong",
        next="send it",
    ),
    Problem(
        "bad-signature",
        401,
        "The webhook signature is missing or wrong",
        "The forge signs each delivery with the webhook's secret, which must be the "
        "DIBS_GITHUB_SECRET of this service: X-Hub-Signature-256, an HMAC-SHA-256 of the body. "
        "The older X-Hub-Signature (SHA-1) is not accepted. The delivery was not processed.",
        when="a delivery is not signed with this service's secret, or only with SHA-1",
        next="set the same secret on both sides",
    ),
    Problem(
        "forbidden",
        403,
        "An admin key is required",
        "Only a person with an admin key may break a claim, hold or unhold a task or a project, or "
        "retry a task. The team key is not enough. If the service was started without an admin "
        "key, nobody can. A key for CI (DIBS_CI_KEY) can only read and resolve.",
        when="`break`, `hold`, `unhold` or `retry` without an admin key; `resolve` without an "
        "admin key or a key for CI; a key for CI on any call but a read or `resolve`",
        next="ask a person with an admin key",
    ),
    Problem(
        "not-found",
        404,
        "Path not found",
        "The service has no such path. `/openapi.json` lists all of them.",
        when="no such path",
    ),
    Problem(
        "wrong-method",
        405,
        "Method not allowed",
        "The header `Allow` lists the methods that this path accepts.",
        when="the path does not accept this method; the header `Allow` lists those that it does",
    ),
    Problem(
        "held",
        409,
        "Another session has this task, or is next for it",
        "Another session is working on it; `claim` says who and for how long. Work on another "
        "task, or claim with `queue: true` to be next. The task may be free after `retry_after` "
        "seconds. You also get this answer while a free task is reserved for the head of its "
        "queue.",
        when="another session has the task, or it is reserved for the head of its queue",
        next="pick another task, or claim with `queue`",
    ),
    Problem(
        "cooling",
        409,
        "The task is reserved for its last holder",
        "The claim lapsed a moment ago, and for now only its last holder may take the task back. "
        "Others may claim it after `retry_after` seconds, unless the last holder returns.",
        when="the claim lapsed a moment ago; only its last holder may take the task back",
        next="retry after `retry_after` seconds",
    ),
    Problem(
        "done",
        409,
        "The task is done",
        "A session finished it; `claim` says who, when, and with which pull request and note. Work "
        "on another task. If it has to be done again, claim with `reopen: true`.",
        when="the task is done; `claim` says who, when, with which PR and note",
        next="pick another task",
    ),
    Problem(
        "blocked",
        409,
        "The task needs others to be done first",
        "`needs` names the tasks that are not done, and who has them. Work on another task, or "
        "claim a ready one with `next: true`.",
        when="the task is listed, and needs tasks that are not done; `needs`",
        next="pick another task, or claim with `next`",
    ),
    Problem(
        "on-hold",
        409,
        "A person put this on hold",
        "A person put the task, or the whole project (`of` says which), on hold; `hold` says who, "
        "why, and until when. A session that already holds a task keeps it. Work on another task, "
        "or stop here; a person ends the hold with `unhold`.",
        when="a person put the task, or the project, on hold; `of`, `hold`",
        next="pick another task, or stop",
    ),
    Problem(
        "failed",
        409,
        "The task failed too often",
        "Its attempts are used up: each lapsed, was abandoned, broken or rejected; `tenures` says "
        "how the last ones ended. Work on another task. A person can let it be tried again with "
        "`retry`; claim it with `reopen: true` only if a person tells you to.",
        when="the attempts at the task are used up; `attempts`, `tenures`",
        next="pick another task; a person can `retry` it",
    ),
    Problem(
        "nothing-ready",
        409,
        "No listed task is ready",
        "`counts` says how many are held, parked, in review, blocked, on hold, failed or reserved "
        "for a moment. If the list is empty, add tasks to it. A task may be ready after "
        "`retry_after` seconds.",
        when="`next` found no ready task; `counts`, and `retry_after` if one may be ready then",
        next="stop, or retry after `retry_after` seconds",
    ),
    Problem(
        "not-holder",
        409,
        "This session does not hold the task",
        "The session never held the task, ended its claim itself, or sent a fence that is not the "
        "current one. Claim the task first, and use the fence in the reply to that claim.",
        when="this session never held the task, ended its claim itself, or sent another fence than "
        "the current one",
        next="claim it first",
    ),
    Problem(
        "lost",
        409,
        "This session no longer holds the task",
        "`reason` says how the claim ended: `lapsed` (its deadline passed; `by` names who has the "
        "task now, if anybody), `broken` (a person ended it; `note` has their reason), `rejected` "
        "(its pull request was rejected; `note` may say why), `forgotten` (the store lost it, in a "
        "failover, a restore or a flush; `by` names who has the task now, if anybody). Stop "
        "working on the task, keep your work on its branch, and claim another. If no session has "
        "the task now, you may claim it again before you continue.",
        when="this session held the task before; `reason`, `by`, `at`, `note`",
        next="stop working on it",
    ),
    Problem(
        "unmatched",
        404,
        "No task has that name, pull request or branch",
        "No session has or had a task with that name, pull request or branch, or its record is no "
        "longer kept. Nothing was changed: `resolve` never creates a claim.",
        when="`resolve` names a task, pull request or branch that no session has or had",
        next="name the task",
    ),
    Problem(
        "ambiguous",
        409,
        "Two tasks share that pull request or branch",
        "`tasks` names them. Send the `task` that you mean, and its `fence`.",
        when="`resolve` names a pull request or branch of two tasks; `tasks`",
        next="name one, with its fence",
    ),
    Problem(
        "fence-required",
        428,
        "A fence is required",
        "Send `fence` as the board or the list shows it, so that you end only the claim you saw.",
        when="`break` without `fence`",
        next="read the task, then send its fence",
    ),
    Problem(
        "fence-moved",
        412,
        "The claim has changed since you read it",
        "The fence is not the current one, or nobody holds the task. Nothing was changed. Read the "
        "task again, and send the fence that it has now.",
        when="`break`, `retry` or `resolve` is about an older tenure",
        next="read the task again",
    ),
    Problem(
        "too-large",
        413,
        "The request body is too large",
        "A body has at most 16 KiB (DIBS_MAX_BODY), or 1 MiB if it writes the list or is a webhook "
        "delivery; the request line and headers have at most 32 KiB. Nothing was changed. Send "
        "less, and a long list in parts.",
        when="a body over 16 KiB (1 MiB if it writes the list or is a webhook delivery)",
        next="send the list in parts",
    ),
    Problem(
        "quota",
        429,
        "Limit reached",
        "A limit on claims, records, waiters or event streams is reached. `whose` says whose "
        "limit: the session's, the project's, your address's, the bytes of the project's records, "
        "the task's queue, streams, or `waiting`: too many tasks wait for people, so `next` gives "
        "no more. `limit` is its value. Release or finish a claim first, or pick another task.",
        when="a limit is reached: claims (session 50, project 2,000, an address without a key "
        "500 of a project), waiters (100), tasks that wait for people (`next` only, if "
        "DIBS_MAX_WAITING is set; with `counts`), or the size of a project's records, listed "
        "tasks included (18 MiB); `whose` (`session`, `project`, `address`, `queue`, `waiting`, "
        "`bytes`), `limit`",
        next="release a claim; for `bytes`, wait until the retention of ended claims runs out",
    ),
    Problem(
        "rate-limited",
        429,
        "Too many requests",
        "A rate limit was exceeded. `whose` says which: the session's, the project's or, without a "
        "key, your address's. Claims and reads have separate limits. A session can always renew "
        "and release the claims it holds. Ask again after `retry_after` seconds.",
        when="too many claims, or heartbeats and releases, of this session; too many claims or "
        "reads in this project; too many new claims or reads from an address without a key; "
        "`whose`, `retry_after`. A holder's heartbeat, release or renewal is never refused because "
        "of other callers",
        next="retry after `retry_after` seconds",
    ),
    Problem(
        "internal",
        500,
        "Internal error",
        "The service has a bug. `outcome` is `unknown`: repeat the call; every call is safe to "
        "repeat.",
        when="a bug in the service; `outcome: unknown`",
        next="repeat the call",
    ),
    Problem(
        "unavailable",
        503,
        "The store cannot answer",
        "Claims are safe: no deadline passes during an outage. Ask again after `retry_after` "
        "seconds. If `outcome` is `unknown`, repeat the same call; it takes effect once. If "
        "`detail` says that the store may evict claims, new claims are refused until the operator "
        "of the service has changed that; heartbeats and releases work. If it says that the record "
        "of a task is damaged, only that task is refused: work on another. A person with an admin "
        "key frees it by breaking it with fence 1.",
        when="the store cannot answer (no deadline passes meanwhile), may evict claims (new "
        "claims are refused; heartbeats and releases work), or has a damaged record of this "
        "task; `detail` says which",
        next="retry after `retry_after` seconds; for a damaged record, pick another task",
    ),
    Problem(
        "full",
        507,
        "The store is full",
        "New claims are refused; heartbeats and releases work. The operator of the service has to "
        "give the store more memory or disk space, or claims have to end.",
        when="the store is full; heartbeats and releases work",
        next="tell the operator",
    ),
)
BY_CODE = {problem.code: problem for problem in TABLE}


class ProblemError(Exception):
    """A problem to return: its code, its detail and its own fields."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        outcome: Applied = "not-applied",
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(detail)
        self.problem = BY_CODE[code]
        self.retry_after = retry_after
        self.headers = headers or {}
        self.body: dict[str, Any] = {
            "type": f"/problems/{code}",
            "title": self.problem.title,
            "status": self.problem.status,
            "detail": detail,
            "code": code,
            "outcome": outcome,
        }
        if retry_after is not None:
            self.body["retry_after"] = retry_after
            self.headers["Retry-After"] = str(retry_after)
        self.body.update(facts)


def invalid(errors: list[dict[str, str]], **facts: Any) -> ProblemError:
    """Return an `invalid` problem that names all bad fields, NAMED of them at most."""
    fields = list(dict.fromkeys(error["field"] for error in errors))
    names = ", ".join(fields[:NAMED])
    if len(fields) > NAMED:
        names += f" and {len(fields) - NAMED} more"
    sentence = " ".join(error["message"] for error in errors[:3])
    return ProblemError("invalid", f"Refused: {names}. {sentence}", errors=errors[:NAMED], **facts)
