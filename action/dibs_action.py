"""dibs in a GitHub workflow: `verify`, a required check; `resolve`, for closed pull requests.

Standard library, Python 3.8 and newer. All inputs come from the environment: DIBS_DO, DIBS_URL,
DIBS_KEY, DIBS_PROJECT, DIBS_MODE (warn|require), DIBS_UNREACHABLE (warn|fail), and GitHub's
GITHUB_EVENT_NAME, GITHUB_EVENT_PATH, GITHUB_REPOSITORY, GITHUB_SERVER_URL. The action checks
nothing out and runs nothing of the pull request.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Json = dict[str, Any]

CALL_S, TRIES, BETWEEN_S = 10, 3, 2
MOST = 8 << 20  # the most bytes read of an answer
TRAILER = re.compile(r"^[ \t]*Dibs:[ \t]+(\S[^\r\n]*?)[ \t\r]*$", re.IGNORECASE | re.MULTILINE)
QUEUED = re.compile(r"/pr-(\d+)-[0-9a-f]+$")
INSIDERS = ("OWNER", "MEMBER", "COLLABORATOR")
LIVE = ("held", "parked", "review")
SAFE = "abcdefghijklmnopqrstuvwxyz0123456789._-"


class Stop(Exception):
    """Ends the job: as failed, or as passed with a warning."""

    def __init__(self, text: str, fails: bool = True) -> None:
        super().__init__(text)
        self.text, self.fails = text, fails


class Unreachable(Exception):
    """The service did not answer."""


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, so that a key is sent only to the host of `url`."""

    def redirect_request(self, *_: object) -> None:
        return None


def say(kind: str, text: str) -> None:
    """Print a workflow command, which GitHub shows; the text cannot begin another command."""
    flat = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    print(f"::{kind} title=dibs::{flat}")


def setting(name: str, default: str, choices: tuple[str, ...] = ()) -> str:
    value = os.environ.get(name, "").strip() or default
    if choices and value not in choices:
        given = name[5:].lower()
        raise Stop(f"the input `{given}` is {' or '.join(choices)}, not {value[:50]!r}")
    return value


def project_of(page: str) -> str:
    """Return the project of a repository, as the client names it (dibs.py, project_of)."""
    place = urllib.parse.urlsplit(page)
    host, steps = (place.hostname or "").rstrip("."), place.path.strip("/").lower().split("/")
    whole = "/".join([host, *steps])
    if host == "github.com" and len(steps) == 2 and "." not in steps[0]:
        name, is_exact = ".".join(steps), "--" not in steps[0]
    else:
        name = ".".join([host.replace(".", "--") if "." in host else host + "--", *steps])
        is_exact = "--" not in host and "." not in "".join(steps)
    safe = "".join(char if char in SAFE else "-" for char in name)
    if is_exact and safe == name and safe[0] not in "._-" and len(safe) <= 100:
        return safe
    digest = hashlib.sha256(whole.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{safe.lstrip('._-')[:91] or 'x'}-{digest}"


def trailers_in(text: str | None) -> list[tuple[str, int | None]]:
    """Return (task, fence or None) of each line `Dibs: TASK FENCE`."""
    found: dict[str, int | None] = {}
    for line in TRAILER.findall(text or "")[:10]:
        name, _, last = line.rpartition(" ")
        is_fenced = name and last.isascii() and last.isdigit() and len(last) <= 16
        task, fence = (name.rstrip(), int(last)) if is_fenced else (line, None)
        found.setdefault(task, fence)
    return list(found.items())


class Service:
    """One project of the service."""

    def __init__(self, url: str, key: str, project: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Stop("the input `url` is not the http(s) URL of a dibs service")
        self.url, self.key, self.project = url.rstrip("/"), key, project
        self.open = urllib.request.build_opener(NoRedirect).open

    def call(self, path: str, fields: Json | None = None) -> tuple[int, Json]:
        """Return (status, answer). Raises Unreachable."""
        headers = {"Accept": "application/json", "User-Agent": "dibs-action"}
        if self.key:
            headers["Authorization"] = "Bearer " + self.key
        data = None
        if fields is not None:
            data = json.dumps(fields).encode()
            headers["Content-Type"] = "application/json"
        where = f"{self.url}/v1/{urllib.parse.quote(self.project, safe='')}/{path}"
        why = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(BETWEEN_S)
            try:
                status, answer = self.once(urllib.request.Request(where, data, headers))
            except (OSError, ValueError, RecursionError) as error:
                why = str(getattr(error, "reason", error))[:200]
                continue
            if status < 500 and status != 429:
                return status, answer
            why = answer.get("detail") or f"it answered {status}"
        raise Unreachable(f"The dibs service at {self.url} could not be reached: {why}")

    def once(self, request: urllib.request.Request) -> tuple[int, Json]:
        try:
            with self.open(request, timeout=CALL_S) as reply:
                status, text = reply.status, reply.read(MOST)
        except urllib.error.HTTPError as refused:
            with refused:
                status, text = refused.code, refused.read(MOST)
        answer = json.loads(text.decode())
        if not isinstance(answer, dict):
            raise ValueError("the answer is not from dibs")
        return status, answer

    def get(self, path: str) -> Json:
        """Return the answer to a GET. Raises Stop if the service refuses it."""
        status, answer = self.call(path)
        if status == 200:
            return answer
        raise Stop(f"dibs refuses to answer: {why_not(status, answer)}")

    def claim(self, task: str, fence: int | None = None) -> Json:
        query = f"?fence={fence}" if fence else ""
        return self.get("claims/" + urllib.parse.quote(task, safe="") + query)

    def claims_of(self, pull: Pull) -> list[Json]:
        """Return the live claims on a pull request, else those on its branch; the service looks
        both up."""
        fields = {"state": ",".join(LIVE), "pr": pull.url, "branch": pull.branch}
        named = {name: value for name, value in fields.items() if value}
        if len(named) == 1:
            return []
        return self.get("claims?" + urllib.parse.urlencode(named)).get("claims") or []


class Pull:
    """The pull request of an event."""

    def __init__(self, event: Json, name: str, repository: str, page: str) -> None:
        self.url = self.branch = self.sha = ""
        self.is_fork, self.merged, self.trusted = False, False, True
        if name == "merge_group":
            group = event.get("merge_group") or {}
            found = QUEUED.search(group.get("head_ref") or "")
            self.url = f"{page}/pull/{found[1]}" if found else ""
            text: str | None = (group.get("head_commit") or {}).get("message")
        else:
            pull = event.get("pull_request")
            if not isinstance(pull, dict):
                raise Stop(f"the event {name or '?'} has neither a pull request nor a merge group")
            head = pull.get("head") or {}
            of = ((head.get("repo") or {}).get("full_name") or "").lower()
            self.url, text = pull.get("html_url") or "", pull.get("body")
            self.is_fork = of != repository.lower()
            self.branch = "" if self.is_fork else head.get("ref") or ""
            self.merged, self.sha = bool(pull.get("merged")), pull.get("merge_commit_sha") or ""
            self.trusted = not self.is_fork or pull.get("author_association") in INSIDERS
        self.trailers = trailers_in(text)


def why_not(status: int, answer: Json) -> str:
    """Return why the service refuses, in a workflow author's terms."""
    if status == 401:
        return "the input `key` must be a key for CI of this service (DIBS_CI_KEY)"
    return answer.get("detail") or str(status)


def who(claim: Json) -> str:
    holder = claim.get("holder") or {}
    name = holder.get("label") or "session"
    branch = f" on branch {holder['branch']}" if holder.get("branch") else ""
    return f"{name} (ref {holder.get('ref', '?')}){branch}"


def state_of(claim: Json, fence: int) -> str:
    """Return a sentence that says why a fence is not current."""
    task, state = claim.get("task"), claim.get("state")
    if claim.get("fence") and claim["fence"] != fence:
        also = f": {who(claim)} has it with fence {claim['fence']}" if state in LIVE else ""
        return f"{task}: fence {fence} is not the current one{also} ({state})"
    return f"{task}: the claim with fence {fence} is over, the task is {state}"


def verify(service: Service, pull: Pull, mode: str) -> str:
    """Stop unless the claim behind a pull request is current."""
    fenced = [(task, fence) for task, fence in pull.trailers if fence]
    if fenced:
        found = [(service.claim(task, fence), fence) for task, fence in fenced]
        wrong = [state_of(claim, fence) for claim, fence in found if not claim.get("current")]
        if wrong:
            again = "Claim the task again, or leave it to its holder, before this is merged"
            raise Stop(f"{'; '.join(wrong)}. {again}.")
        return ", ".join(f"{task} is held with fence {fence}" for task, fence in fenced)
    claims = service.claims_of(pull)
    on_it = [one for one in claims if one.get("pr") == pull.url.lower()]
    if on_it or len(claims) == 1:
        shown = [(one, one["state"].replace("review", "in review")) for one in claims[:5]]
        return "; ".join(f"{one['task']} is {state}, by {who(one)}" for one, state in shown)
    how = "Write the line `Dibs: TASK FENCE` into its description, or run "
    how += "`dibs review TASK --pr URL`"
    raise Stop(f"No task is claimed for this pull request. {how}.", mode == "require")


def resolve(service: Service, pull: Pull) -> str:
    """Report the verdict on a pull request; return a sentence about the result."""
    if not service.key:
        raise Stop("resolve needs the input `key`: a key for CI (DIBS_CI_KEY)")
    fields = {"outcome": "merged" if pull.merged else "rejected", "pr": pull.url}
    fields.update({"sha": pull.sha[:64]} if pull.merged else {})
    status, first = told(service, fields)
    done: list[Json] = [first] if status == 200 else []
    why: list[Json] = []
    trailers = pull.trailers if pull.trusted else []
    for task, fence in trailers:
        # If the task has moved on, only a fence identifies the tenure.
        if task in [one["task"] for one in done] or (status == 412 and not fence):
            continue
        code, answer = told(service, dict(fields, task=task, **({"fence": fence} if fence else {})))
        (done if code == 200 else why).append(answer)
    if status == 404 and not trailers and pull.branch:
        code, answer = told(service, dict(fields, branch=pull.branch))
        (done if code == 200 else why).append(answer)
    if done:
        return ", ".join(f"{one['task']} is {one['state']}" for one in done)
    details = [answer.get("detail", "") for answer in why] or [first.get("detail", "")]
    raise Stop(" ".join(filter(None, details)) or "Nothing was changed.", fails=False)


def told(service: Service, fields: Json) -> tuple[int, Json]:
    status, answer = service.call("resolve", fields)
    if status in (200, 404, 409, 412, 422):
        return status, answer
    raise Stop(f"dibs refuses: {why_not(status, answer)}")


def run() -> str:
    """Run the action and return the line to print. Raises Stop."""
    act = setting("DIBS_DO", "verify", ("verify", "resolve"))
    mode = setting("DIBS_MODE", "warn", ("warn", "require"))
    unreachable = setting("DIBS_UNREACHABLE", "warn", ("warn", "fail"))
    repository = setting("GITHUB_REPOSITORY", "")
    page = f"{setting('GITHUB_SERVER_URL', 'https://github.com')}/{repository}"
    try:
        with open(os.environ.get("GITHUB_EVENT_PATH", ""), encoding="utf-8") as file:
            event = json.load(file)
        if not isinstance(event, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise Stop(f"the event of this run cannot be read: {error}") from None
    name = setting("GITHUB_EVENT_NAME", "")
    if act == "resolve" and name == "merge_group":
        raise Stop("a merge group has no verdict: run resolve when a pull request is closed")
    try:
        pull = Pull(event, name, repository, page)
    except (AttributeError, TypeError):
        raise Stop(f"the event {name} is not as GitHub sends it") from None
    project, key = setting("DIBS_PROJECT", project_of(page)), setting("DIBS_KEY", "")
    service = Service(setting("DIBS_URL", ""), key, project)
    try:
        if act == "resolve":
            return resolve(service, pull)
        return verify(service, pull, mode)
    except Unreachable as down:
        last = "The check was not made" if act == "verify" else "The verdict was not reported"
        raise Stop(f"{down}. {last}.", unreachable == "fail") from None
    except Stop as stop:
        if pull.is_fork and not key and "refuses to answer" in stop.text:
            text = "GitHub gives pull requests of forks no secrets, so dibs could not be queried"
            raise Stop(f"{text}. {stop.text}", mode == "require") from None
        raise


def main() -> int:
    try:
        say("notice", run())
    except Stop as stop:
        say("error" if stop.fails else "warning", stop.text)
        return 1 if stop.fails else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
