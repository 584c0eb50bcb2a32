"""Applies the events of a forge with the acts of dibs. It never creates a claim.

A verdict applies to the task on the pull request, and to the tasks in its trailers
(`Dibs: TASK FENCE`); if there are none of these, to the task on its branch.
"""

from dataclasses import dataclass, field
from typing import Any

from dibs import decision_messages, messages, results
from dibs.acts import show, tasks
from dibs.acts.act import Call
from dibs.acts.resolve import ResolveRequest, end
from dibs.forge import github
from dibs.forge.github import ForgeEvent, Issue, PullRequest, Trailer
from dibs.model import Project, Task
from dibs.problems import ProblemError
from dibs.store import Store

DONE, UNMATCHED, NOTHING = "done", "unmatched", "nothing"
RESULTS = (DONE, UNMATCHED, NOTHING, "ignored", "replayed", "overtaken", "old", "refused")
"""The results of a delivery, as answers and metrics name them."""


@dataclass(slots=True)
class Report:
    """The body of the answer to a delivery."""

    result: str = NOTHING
    did: str = ""
    """opened, merged, rejected; created, updated, unchanged or dropped."""
    matched: list[dict[str, Any]] = field(default_factory=list)
    """The tasks: their names, their states, and how they were found."""
    why: list[str] = field(default_factory=list)
    """Sentences that explain why a part of the event had no effect."""


async def do(store: Store, project: Project, event: ForgeEvent, label: str) -> Report:
    """Apply an event. Raises StoreDown, or ProblemError if the store can keep nothing."""
    match event.thing:
        case PullRequest():
            return await _pull_request(store, project, event, event.thing)
        case Issue():
            return await _issue(store, project, event, event.thing, label)
        case _:
            return Report(why=[f"dibs ignores the event {messages.quoted(event.kind, 60)}."])


async def _pull_request(
    store: Store, project: Project, event: ForgeEvent, pr: PullRequest
) -> Report:
    if event.action in github.OPENING:
        outcome = "opened"
    elif event.action == "closed":
        outcome = "merged" if pr.merged else "rejected"
    else:
        return Report(why=[f"dibs ignores the action {messages.quoted(event.action, 60)}."])
    finder = _Finder(store, project, event, pr, outcome)
    await finder.find()
    report = finder.report
    report.result, report.did = (DONE, outcome) if report.matched else (UNMATCHED, "")
    return report


class _Finder:
    """Finds the tasks of one pull request, and applies its outcome to each."""

    def __init__(
        self, store: Store, project: Project, event: ForgeEvent, pr: PullRequest, outcome: str
    ) -> None:
        self.store, self.project, self.event = store, project, event
        self.pr, self.outcome, self.report = pr, outcome, Report()

    async def find(self) -> None:
        """Find tasks by the URL and by trailers; without either by the branch."""
        first = await self.tell("pr")
        trailers = self.pr.trailers
        if isinstance(first, results.Moved):  # only trailers that name a tenure still count
            trailers = tuple(trailer for trailer in trailers if trailer.fence)
        for trailer in trailers:
            if trailer.task not in [found["task"] for found in self.report.matched]:
                await self.tell("trailer", trailer)
        is_unknown = isinstance(first, results.Unmatched) and not trailers
        if is_unknown and self.pr.branch:
            await self.tell("branch")
        elif is_unknown:
            self.report.why.append(_OF_A_FORK)

    async def tell(self, way: str, trailer: Trailer | None = None) -> Any:
        """Apply the outcome to the task found this way; report the result, and return it."""
        named = {"task": trailer.task, "fence": trailer.fence} if trailer else {}
        request = ResolveRequest.of(
            {
                **{name: value for name, value in named.items() if value},
                "pr": self.pr.url,
                "branch": self.pr.branch if way == "branch" else "",
                "outcome": "merged" if self.outcome == "opened" else self.outcome,
                "sha": self.pr.sha if self.outcome == "merged" else "",
            },
            [],
        )
        call = Call(self.project, request, by=self.event.by)
        outcome = await end(self.store, call, self.outcome)
        why = ""
        match outcome:
            case results.Ended((ended,)):
                task = {"task": ended.task, "state": ended.state, "already": ended.already}
                self.report.matched.append({**task, "by": way})
            case results.Moved(now):
                why = decision_messages.newer(now, request.fence)
            case results.Ambiguous(named_both):
                why = decision_messages.ambiguous(named_both)
            case results.Unmatched() if way != "pr":
                why = decision_messages.unmatched(request.task or request.branch)
        if why:
            self.report.why.append(why)
        return outcome


_OF_A_FORK = (
    "No task is on this pull request, and its branch does not count, because it is in a fork or "
    "its name is not valid. Send this URL as pr in the claim or a heartbeat; a line `Dibs: TASK "
    "FENCE` in the description counts only from an owner, a member or a collaborator."
)


async def _issue(
    store: Store, project: Project, event: ForgeEvent, issue: Issue, label: str
) -> Report:
    if not label:
        return Report(why=["This service ignores issues; to list them, set DIBS_GITHUB_LABEL."])
    if event.action not in (*github.LISTING, *github.ENDING):
        return Report(why=[f"dibs ignores the action {messages.quoted(event.action, 60)}."])
    has_label = label.lower() in (name.lower() for name in issue.labels)
    is_wanted = issue.open and has_label and event.action not in github.ENDING
    task, source = Task(f"#{issue.number}"), f"github:{event.repository}"
    now = await show.look(store, project, task)
    listed = now.listed
    if listed and listed.source and listed.source.lower() != source:
        theirs = messages.quoted(listed.source)
        return Report(
            UNMATCHED,
            why=[f"{task} is on the list from another source: {theirs}. It is unchanged."],
        )
    if not is_wanted and (listed is None or listed.dropped):
        return Report(
            why=[f"{task} is not on the list: it is closed, removed or without the label."]
        )
    entry: dict[str, Any] = {"task": task, "drop": True}
    if is_wanted:
        entry = {"task": task, "title": issue.title, "body": issue.body, "url": issue.url}
        entry |= {"source": source, "priority": issue.priority}
    return await _write(store, project, entry)


async def _write(store: Store, project: Project, entry: dict[str, Any]) -> Report:
    request = tasks.TasksRequest.of({"tasks": [entry]}, [])
    outcome = await tasks.write(store, Call(project, request))
    if not isinstance(outcome, results.Written):
        tasks.answer(outcome, request)  # it raises the problem
        raise ProblemError("internal", "The task list could not be written.")
    now = await show.look(store, project, request.tasks[0].task)
    return Report(DONE, outcome.changes[0], [{"task": now.task, "state": now.state, "by": "issue"}])
