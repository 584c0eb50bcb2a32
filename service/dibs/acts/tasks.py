"""tasks: write the team's list: its tasks, what each needs, and which come first."""

import json
from typing import Annotated, Any, ClassVar, NamedTuple, assert_never

from pydantic import BeforeValidator, Field

from dibs import messages, model, responses, results
from dibs.acts.act import Act, Call
from dibs.acts.holding import rate_limited
from dibs.acts.refusals import limited
from dibs.characters import lower
from dibs.claims import Claims
from dibs.confusables import skeleton
from dibs.problems import invalid
from dibs.requests import (
    LINE,
    LINES,
    Errors,
    Request,
    Tag,
    Task,
    Url,
    as_schema,
    fault,
    limited_text,
)
from dibs.responses import Reply
from dibs.store import Store, Unwilling
from dibs.store.records import ReplyDecoder
from dibs.store.scripts import Declaration

CHANGES = ("created", "updated", "unchanged", "dropped")
Result = results.Written | results.Circle | results.OverQuota | results.Full | results.RateLimited


def _lines(text: str, what: str) -> str:
    """Return a text with LF as its line ends: forges and editors also write CRLF."""
    return model.prose(text.replace("\r\n", "\n"), what)


Title = Annotated[
    str,
    limited_text("A title", model.TITLE_CHARS),
    as_schema(type="string", maxLength=model.TITLE_CHARS, pattern=LINE),
]


def _whole(least: int, most: int) -> tuple[BeforeValidator, Any]:
    """Return the check and the schema of a whole number; 2.0 is one too, as in JSON."""

    def checked(value: object) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise model.Refused(f"It must be a whole number from {least} to {most}.")
        return value

    return BeforeValidator(checked), as_schema(type="integer", minimum=least, maximum=most)


Body = Annotated[
    str,
    limited_text("A body", model.BODY_CHARS, _lines),
    as_schema(type="string", maxLength=model.BODY_CHARS, pattern=LINES),
]


class Entry(Request):
    """One task of the list. An absent field stays as it is; '' and [] clear it."""

    task: Task = Field(description="Its name, as in a claim.")
    title: Title | None = Field(None, description="One line.")
    body: Body | None = Field(
        None,
        description="The work to do; shown to the session that claims the task.",
    )
    priority: Annotated[int, *_whole(0, model.PRIORITY_LAST)] | None = Field(
        None,
        description="0 comes first, 4 last; 2 by default.",
    )
    needs: Annotated[tuple[Task, ...], Field(max_length=model.NEEDS_MOST)] | None = Field(
        None,
        description="Tasks that must be done first. They may be unlisted names, which block the "
        "task until they are done.",
    )
    tags: Annotated[tuple[Tag, ...], Field(max_length=model.TAGS_MOST)] | None = Field(
        None,
        description="Words by which `next` and the list can be filtered.",
    )
    url: Url | None = Field(None, description="A page about the task, for people.")
    source: Title | None = Field(
        None,
        description="Where the entry came from, such as `tasks.md`.",
    )
    max_attempts: Annotated[int, *_whole(1, model.ATTEMPTS_MOST)] | None = Field(
        None,
        description="The task is `failed` after this many attempts; by default after the number "
        "in the service's settings (5).",
    )
    drop: bool = Field(
        False,
        description="Take the task off the list. It keeps its claim, its past and its place, but "
        "`next` no longer hands it out, and tasks that need it are blocked until it is done. If "
        "it is listed again, it is as before.",
    )

    def kept(self, project: model.Project) -> str:
        """Return the entry for tasks.lua: a JSON object of texts, lists with a line an item."""
        like = skeleton(self.task, project)
        fields: dict[str, str | None] = {
            "task": self.task,
            "skeleton": "" if like == lower(self.task) else like,
            "title": self.title,
            "body": self.body,
            "priority": None if self.priority is None else str(self.priority),
            "needs": None if self.needs is None else "\n".join(dict.fromkeys(self.needs)),
            "tags": None if self.tags is None else "\n".join(dict.fromkeys(self.tags)),
            "url": self.url,
            "source": self.source,
            "attempts": None if self.max_attempts is None else str(self.max_attempts),
            "drop": "1" if self.drop else None,
        }
        return json.dumps({name: value for name, value in fields.items() if value is not None})


class TasksRequest(Request):
    """POST tasks."""

    tasks: Annotated[tuple[Entry, ...], Field(min_length=1, max_length=model.ENTRIES_MOST)] = Field(
        description="The tasks, each once.",
    )
    dry_run: bool = Field(False, description="Report what would change, and change nothing.")
    fits_a_form: ClassVar[bool] = False

    @classmethod
    def also(cls, given: dict[str, Any]) -> Errors:
        """See Request."""
        wrong, seen = [], dict[str, int]()
        entries = given.get("tasks")
        if isinstance(entries, str):
            wrong.append(fault("tasks", "Send the list of tasks as JSON; a form has no lists."))
        for at, entry in enumerate(entries if isinstance(entries, list) else []):
            if not isinstance(entry, dict) or not isinstance(entry.get("task"), str):
                continue
            task, needs = entry["task"], entry.get("needs")
            if task in seen:
                message = f"Send each task once: this one is also tasks.{seen[task]}."
                wrong.append(fault(f"tasks.{at}.task", message))
            seen[task] = at
            if isinstance(needs, list) and task in needs:
                wrong.append(fault(f"tasks.{at}.needs", "A task cannot need itself."))
        return wrong


class Arguments(NamedTuple):
    """The arguments of tasks.lua; the entries follow."""

    dry: str
    closed: str


SCRIPT = Declaration("tasks", Arguments, rates="claiming", several="entries", lasting="listed")


async def run(claims: Claims, call: Call[TasksRequest]) -> Result:
    """Write the list, or report what would change. Raises StoreDown."""
    return await write(claims.store, call)


async def write(store: Store, call: Call[TasksRequest]) -> Result:
    """Write the list. Raises StoreDown, also if the store is unsafe and something is new."""
    request, project = call.request, call.project
    entries = [entry.kept(project) for entry in request.tasks]
    if not (store.knows(project) or await store.make_known(project, closed=request.dry_run)):
        if store.unsafe:
            raise Unwilling(store.unsafe)
        if not request.dry_run:
            return results.Full(why=store.room())
    dry = "1" if request.dry_run else ""

    def made() -> tuple[str, ...]:
        return (*Arguments(dry, store.closed()), *entries)

    tag, read, rest = await store.run(SCRIPT, project, call.session, made, call.key)
    match tag:
        case "rate-limited":
            return rate_limited(read, rest)
        case "unsafe":
            raise Unwilling(store.unsafe, sent=read.unsure)
        case _:
            return _result(store, tag, read, rest)


def _result(store: Store, tag: str, read: ReplyDecoder, rest: list[Any]) -> Result:
    """Return the result of a script that decided on the list."""
    lost = tuple(map(read.loss, rest[0]))
    match tag:
        case "cycle":
            return results.Circle(tuple(map(model.Task, rest[1:])), lost, unsure=read.unsure)
        case "full":
            return results.Full(lost, store.room(), unsure=read.unsure)
        case "quota":
            return results.OverQuota(rest[1], int(rest[2]), lost, unsure=read.unsure)
        case _:
            return results.Written(tuple(rest[1:]), lost)


def answer(result: Result, request: TasksRequest) -> Reply:
    """Return the answer with the changes, or raise the problem."""
    match result:
        case results.Written(changes, lost):
            told: dict[str, list[str]] = {change: [] for change in CHANGES}
            for entry, change in zip(request.tasks, changes, strict=True):
                told[change].append(entry.task)
            return responses.ok(told, lost)
        case results.Circle(path, lost):
            named = [at for at, entry in enumerate(request.tasks) if entry.task in path]
            at = next((at for at in named if not request.tasks[at].drop), 0)
            start = path.index(request.tasks[at].task) if named else 0
            detail = messages.circle((*path[start:], *path[:start]))
            raise invalid([fault(f"tasks.{at}.needs", detail)], **responses.losses(lost))
        case results.OverQuota() | results.Full() | results.RateLimited():
            raise limited(result)
        case never:
            assert_never(never)


ACT = Act(
    name="tasks",
    path="tasks",
    summary="Write the team's list: its tasks, what each needs, and which come first.",
    request=TasksRequest,
    success={200: ("Written",)},
    problems=("bad-session", "quota", "full"),
    body_most=1 << 20,
    run=run,
    answer=answer,
    commands=("add",),
)
