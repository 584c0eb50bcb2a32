"""dibs, for `dibs import`: writes the tasks of a file to the team's list.

formats.py and checklists.py read the file; this module works out the changes, shows them and writes
them. The whole file is checked first, here and by the service (a dry run), so a damaged file
changes nothing. A task is identified by its source and its id there, never by its title.
"""

from __future__ import annotations

import json
import os
import sys
import time
import unicodedata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from client import checklists, formats
    from client import dibs as client
    from client.dibs import Args, Json, Session, Setup
    from client.formats import Faults, Item
else:
    import dibs_client as client

    formats, checklists = client.part("formats"), client.part("checklists")

FILE_MOST = 8 << 20
BATCH_MOST, BATCH_BYTES = 500, (1 << 20) - 4096
NAMED_MOST = 20  # the most faults printed one by one
SOURCE_MOST = 200
SHOWN_MOST = 8  # the most names of each kind shown in the plan
CIRCLE = "need each other"  # part of the service's message for a circle
PATIENCE_S = 120  # the longest total wait for the service's rate limit
CALL_S = 20.0
GH_DEFAULT = 30  # how many issues `gh issue list` returns without --limit
KINDS = (
    *("github", "beads", "taskmaster", "jira", "linear", "speckit", "openspec", "kiro"),
    "markdown",
)


def do_import(args: Args, session: Session) -> int:
    """Run import: read, plan, show, and write if a person agrees."""
    session.load().setup.check()
    if args.order not in (None, *checklists.ORDERS):
        raise usage(f"--order takes {', '.join(checklists.ORDERS)}")
    if args.format not in (None, *KINDS):
        raise usage(f"--format takes {', '.join(KINDS)}")
    paths = [args.named(), *args.words]
    items, told = read_all(args, session.setup, paths)
    listed = {task["task"]: task for task in all_listed(session)}
    plan = Plan(items, listed, args)
    stop_at(plan.faults, paths)
    plan.learn(written(session, plan, plan.entries, is_dry=True))
    show(plan, told, args)
    if plan.is_empty() or args.dry_run:
        return say(args, plan, is_dry=bool(args.dry_run))
    if not (args.yes or agreed()):
        return client.REFUSED
    write(session, plan)
    return say(args, plan)


def usage(text: str) -> client.Failure:
    return client.Failure(client.USAGE, text)


def stop_at(faults: list[str], paths: Sequence[str]) -> None:
    """If there are faults, print them and raise Failure."""
    if not faults:
        return
    for fault in faults[:NAMED_MOST]:
        client.talk(fault)
    more = len(faults) - NAMED_MOST
    text = f"and {more} more; " if more > 0 else ""
    where = "the input" if paths == ["-"] else "this"
    raise usage(f"{text}nothing of {where} was written")


# Reading


def read_all(args: Args, setup: Setup, paths: list[str]) -> tuple[list[Item], Iterator[str]]:
    """Return (items, notes about how they were read) of all files; raise Failure for faults."""
    items: list[Item] = []
    faults, kinds = formats.Faults(), []
    for path in paths:
        before, count = len(faults), len(items)
        with faults.catch():
            kind, found = read_file(args, setup, path, faults)
            items += found
            kinds.append(kind)
        if len(paths) > 1:
            faults[before:] = [f"{path}, {fault}" for fault in faults[before:]]
            for item in items[count:]:
                item.place = f"{path}, {item.place}"
    stop_at(faults, paths)
    if not items:
        raise usage("the input has no task: nothing was written")
    return items, told_of(items, kinds, args)


def read_file(args: Args, setup: Setup, path: str, faults: Faults) -> tuple[str, list[Item]]:
    """Return (format, items) of one file. Raises Damaged."""
    text = text_of(path)
    kind, given = detected(args, setup, path, text)
    if kind in formats.READERS:
        items = list(formats.READERS[kind](given, faults))
        for item in items:
            item.source = args.source or item.source
    else:
        place = place_of(args, setup, path)
        items = checklists.read(text, place, kind, args.order, faults)
        if args.source:
            for item in items:
                item.source = f"{kind}:{args.source}"
    return kind, items


def text_of(path: str) -> str:
    """Return the text of a file, with LF line ends. Raises Damaged."""
    if path == "-":
        data = sys.stdin.buffer.read(FILE_MOST + 1)
    else:
        with open(path, "rb") as file:
            data = file.read(FILE_MOST + 1)
    if len(data) > FILE_MOST:
        most = f"an import takes {FILE_MOST >> 20} MiB at most"
        raise formats.Damaged(f"it is too large: {most}; split it, or export fewer fields")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise formats.Damaged("line 1: it is UTF-16; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise formats.Damaged(f"line {line}: it is not UTF-8 text") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise formats.Damaged(f"line {line}: it has a null character, so it is not text")
    if not text.strip():
        raise formats.Damaged("it is empty")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def detected(args: Args, setup: Setup, path: str, text: str) -> tuple[str, Any]:
    """Return (format, value for its reader). Raises Damaged if the format is unknown or not the one
    that --format names."""
    kind, given = None, None
    is_json = text.lstrip()[:1] in "[{" and not checklists.BOX.match(text.lstrip().split("\n")[0])
    if args.format in (None, *formats.READERS) and is_json:
        kind, given = formats.document(text)
    elif args.format in (None, *checklists.ORDER):
        kind = checklists.kind_of(text, os.path.abspath(path))
        kind = args.format or kind if kind else kind
    if kind is None and not is_json and args.format in (None, "jira", "linear"):
        kind, given = formats.table(text)
    if kind and args.format in (None, kind):
        return kind, given
    if args.format:
        raise formats.Damaged(f"this is not in the format of {args.format}")
    raise formats.Damaged(
        "unknown format: neither a checklist (- [ ] …) nor GitHub issues (JSON with number and "
        "title), Beads (JSON lines with id and title), Task Master (JSON with tasks), or CSV of "
        "Jira (Issue key, Summary) or Linear (ID, Title)"
    )


def place_of(args: Args, setup: Setup, path: str) -> tuple[str, str]:
    """Return (the prefix of a checklist's tasks, its path in the repository). The prefix is
    --source, else the folder of a tasks.md, else the file's own name."""
    if path == "-":
        if not args.source:
            raise usage("a checklist on stdin has no name: give it one with --source NAME")
        return args.source, args.source
    whole = os.path.realpath(path)
    root = os.path.realpath(setup.root or os.path.dirname(whole))
    inside = os.path.relpath(whole, root) if whole.startswith(os.path.join(root, "")) else whole
    steps = inside.replace(os.sep, "/").split("/")
    stem = steps[-1].rpartition(".")[0] or steps[-1]
    above = os.path.basename(os.path.dirname(whole)) or stem
    return args.source or (above if stem.lower() == "tasks" else stem), "/".join(steps)


def told_of(items: list[Item], kinds: list[str], args: Args) -> Iterator[str]:
    """Yield notes for a person about how the file was read."""
    noted = {note: [i for i in items if note in i.notes] for note in ("cut", "blocked")}
    if noted["cut"]:
        yield f"{len(noted['cut'])} texts were cut at 8,192 characters: {some(noted['cut'])}"
    if noted["blocked"]:
        text = "are blocked by issues that this export does not name, and may be ready too early"
        yield f"{len(noted['blocked'])} {text}: {some(noted['blocked'])}"
    if kinds == ["github"] and len(items) == GH_DEFAULT:
        yield "exactly 30 issues: `gh issue list` gives no more without --limit"
    if not args.order and {"openspec", "kiro"} & set(kinds):
        text = "each task needs the one before it in the file; with --order sections"
        yield f"{text} the tasks of one section may be done in parallel"


# Planning


class Plan:
    """The changes that a file makes to the list, as entries for the service."""

    def __init__(self, items: list[Item], listed: dict[str, Json], args: Args) -> None:
        self.items, self.listed = items, listed
        self.faults: list[str] = []
        self.by_name: dict[str, Item] = {}
        self.changes: dict[str, list[str]] = {change: [] for change in client.CHANGES}
        for item in items:
            self.add(item, args.prefix or "")
        self.take_groups()
        self.sources = {item.source for item in items}
        self.todo = [item for item in items if item.kind == "open"]
        self.take_needs()
        self.check_sources()
        self.graph = {task: needs_of(one) for task, one in listed.items()}
        self.drops = self.dropped(args.keep_gone)
        self.graph.update((item.name, item.needs) for item in self.todo)
        self.graph.update((task, []) for task, _ in self.drops)
        self.order = [] if self.faults else self.needs_first()
        self.entries = [entry_of(item) for item in self.todo]
        self.where = {item.name: item for item in items}

    def add(self, item: Item, prefix: str) -> None:
        """Give an item its full name; a duplicate name is a fault."""

        def whole(name: str) -> str:
            is_ours = not isinstance(name, formats.Elsewhere)
            return unicodedata.normalize("NFC", (prefix if is_ours else "") + name)

        item.source = item.source[:SOURCE_MOST]
        item.name, item.parent = whole(item.name), item.parent and whole(item.parent)
        item.needs, item.blocks = [*map(whole, item.needs)], [*map(whole, item.blocks)]
        first = self.by_name.setdefault(item.name, item)
        if first is not item:
            text = (
                f"{item.place}: {client.word(item.name)} is listed twice, in {first.place} as well"
            )
            self.faults.append(text)

    def take_groups(self) -> None:
        """Pass the properties of items to their parts: parts of a closed item are closed, and parts
        of a heading, which is no task, need what the heading needs."""
        self.parts: dict[str, list[Item]] = {}
        for item in self.items:
            if item.parent in self.by_name:
                self.parts.setdefault(item.parent, []).append(item)
        for item in self.items:
            kinds = (one.kind for one in self.above(item) if one.kind in ("closed", "aside"))
            item.kind = next(kinds, item.kind)
            if item.kind == "group" and not self.parts.get(item.name):
                item.kind = "open"
        own = {item.name: {*self.leaves(item)} for item in self.items if item.kind == "group"}
        for item in self.items:
            groups = [one for one in self.above(item) if one.kind == "group"]
            for group in groups:
                item.needs += [need for need in group.needs if need not in own[group.name]]
            if groups and item.kind == "open":
                item.body_above(groups)

    def above(self, item: Item) -> Iterator[Item]:
        """Yield the items above an item, nearest first."""
        seen = set()
        while item.parent in self.by_name and item.parent not in seen:
            seen.add(item.parent)
            item = self.by_name[item.parent]
            yield item

    def leaves(self, item: Item) -> list[str]:
        """Return the names of the tasks below a heading, or of the task itself."""
        found, left, seen = [], [item], set()
        while left:
            one = left.pop()
            if one.name not in seen:
                seen.add(one.name)
                left += reversed(self.parts.get(one.name, []) if one.kind == "group" else [])
                found += [one.name] if one.kind != "group" else []
        return found

    def take_needs(self) -> None:
        """Resolve the needs of all tasks to tasks, without those that are done at the source."""
        for item in self.items:
            for other in item.blocks:
                if other in self.by_name:
                    self.by_name[other].needs.append(item.name)
        for item in self.todo:
            needs = []
            for name in item.needs:
                one = self.by_name.get(name)
                is_above = one and one.kind == "group" and one in self.above(item)
                if is_above:
                    continue
                needs += self.leaves(one) if one and one.kind == "group" else [name]
            over = {name for name in needs if self.is_closed(name)}
            item.needs = [name for name in dict.fromkeys(needs) if name not in over]

    def is_closed(self, name: str) -> bool:
        return name in self.by_name and self.by_name[name].kind == "closed"

    def check_sources(self) -> None:
        """Report names that the list already has from another source, since they are other tasks.
        An export without its repository (`github`) counts as one of this source
        (`github:owner/repo`)."""
        for item in self.todo:
            source = self.source_of(item.name)
            is_vague = any(one.startswith(f"{source}:") for one in self.sources)
            if source and source not in self.sources and not is_vague:
                text = f"{item.place}: {client.word(item.name)} is listed already, from "
                text += f"{client.word(source)}; --prefix NAME/ tells them apart"
                self.faults.append(text)

    def source_of(self, task: str) -> str:
        return ((self.listed.get(task) or {}).get("listed") or {}).get("source") or ""

    def dropped(self, keep_gone: bool | None) -> list[tuple[str, str]]:
        """Return (task, reason) of the listed tasks of these sources that the file no longer has to
        do."""
        names = {item.name for item in self.todo}
        found = []
        for task, one in self.listed.items():
            if task in names or self.source_of(task) not in self.sources or one["state"] == "done":
                continue
            if task in self.by_name:
                found.append((task, self.by_name[task].kind))
            elif not keep_gone:
                found.append((task, "gone"))
        return found

    def needs_first(self) -> list[str]:
        """Return all names, each after its needs. A circle is a fault, reported with its path."""
        found, done, path = [], set(), {}
        for start in self.graph:
            stack = [] if start in done else [(start, iter(self.graph[start]))]
            path = {start: 0} if stack else {}
            while stack:
                name, rest = stack[-1]
                need = next((one for one in rest if one not in done), None)
                if need is None:
                    stack.pop()
                    path.pop(name)
                    done.add(name)
                    found.append(name)
                elif need in path:
                    self.tell_circle([one for one, _ in stack[path[need] :]])
                    return []
                else:
                    path[need] = len(stack)
                    stack.append((need, iter(self.graph.get(need, ()))))
        return found

    def tell_circle(self, names: list[str]) -> None:
        item = next((self.by_name[name] for name in names if name in self.by_name), None)
        place = f"{item.place}, needs: " if item else ""
        if len(names) == 1:
            self.faults.append(f"{place}{client.word(names[0])} needs itself")
            return
        around = " needs ".join(map(client.word, [*names[:10], *names[:1]]))
        self.faults.append(f"{place}these need each other: {around}")

    def turns(self, entry: Json) -> bool:
        """Return whether the needs of a listed task change."""
        one = self.listed.get(entry["task"])
        return one is not None and sorted(needs_of(one)) != sorted(entry["needs"])

    def learn(self, told: dict[str, list[str]]) -> None:
        """Add the changes that the service's dry run reported."""
        for change, names in told.items():
            self.changes[change] += names

    def is_empty(self) -> bool:
        return not (self.changes["created"] or self.changes["updated"] or self.drops)

    def steps(self) -> list[Json]:
        """Return the entries to write, in an order in which no prefix makes a circle with tasks
        that are still unchanged: drops, then updates, each after its needs, then new tasks."""
        entries = {entry["task"]: entry for entry in self.entries}
        updated = set(self.changes["updated"])
        created = set(self.changes["created"])
        return [
            *({"task": task, "drop": True} for task, _ in self.drops),
            *(entries[name] for name in self.order if name in updated),
            *(entry for entry in self.entries if entry["task"] in created),
        ]


def needs_of(one: Json) -> list[str]:
    return list((one.get("listed") or {}).get("needs") or ())


def entry_of(item: Item) -> Json:
    return {"task": item.name, "needs": item.needs, "source": item.source, **item.fields}


# The service


def all_listed(session: Session) -> list[Json]:
    return client.tasks_of(session, "", 1 << 30)[0]


def batches(entries: list[Json]) -> Iterator[list[Json]]:
    """Yield the entries in batches of the size that the service accepts."""
    batch: list[Json] = []
    size = 0
    for entry in entries:
        more = len(json.dumps(entry)) + 2
        if batch and (len(batch) == BATCH_MOST or size + more > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += more
    if batch:
        yield batch


def written(
    session: Session, plan: Plan, entries: list[Json], is_dry: bool = False
) -> dict[str, list[str]]:
    """Send the entries in batches; return {change: tasks} as the service did it, or with `is_dry`
    would do it."""
    told: dict[str, list[str]] = {change: [] for change in client.CHANGES}
    faults = []
    for batch in batches(entries):
        try:
            reply = looked(session, plan, batch) if is_dry else posted(session, {"tasks": batch})
            for change in client.CHANGES:
                told[change] += reply[change]
        except client.Failure as failure:
            found = faults_of(plan, batch, failure.problem)
            if not (is_dry and found):
                raise unfinished(failure, sum(map(len, told.values())), entries, is_dry) from None
            faults += found
    stop_at(faults, [])
    return told


def looked(session: Session, plan: Plan, batch: list[Json]) -> Json:
    """Return what the service would do with a batch. A batch may make a circle with tasks that are
    still unchanged, though the whole does not: then repeat the dry run without the changed
    needs."""
    try:
        return posted(session, {"tasks": batch, "dry_run": True})
    except client.Failure as failure:
        told = str(failure.problem.get("errors"))
        turned = {entry["task"] for entry in batch if plan.turns(entry)}
        if CIRCLE not in told or not turned:
            raise
    less = [dict(entry) for entry in batch]
    for entry in less:
        if entry["task"] in turned:
            del entry["needs"]
    reply = posted(session, {"tasks": less, "dry_run": True})
    same = [task for task in reply["unchanged"] if task not in turned]
    moved = [task for task in reply["unchanged"] if task in turned]
    return dict(reply, unchanged=same, updated=[*reply["updated"], *moved])


def write(session: Session, plan: Plan) -> None:
    """Write the plan. After a failure another run of the import writes the rest."""
    written(session, plan, plan.steps())


def unfinished(
    failure: client.Failure, count: int, entries: list[Json], is_dry: bool
) -> client.Failure:
    if is_dry:
        return failure
    text = f"{count} of {len(entries)} changes were written; running this again does the rest: "
    return client.Failure(failure.code, text + str(failure), failure.problem)


def posted(session: Session, body: Json) -> Json:
    """Post a batch; while the service answers `rate-limited`, wait and repeat it."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            return session.post("tasks", body, timeout_s=CALL_S)
        except client.Failure as failure:
            code, wait_s = failure.problem.get("code"), failure.problem.get("retry_after") or 1
            if code != "rate-limited" or time.monotonic() + wait_s > give_up:
                raise
        time.sleep(wait_s)


def faults_of(plan: Plan, batch: list[Json], problem: Json) -> list[str]:
    """Return the faults that the service found, each with its place in the file."""
    found = []
    for error in problem.get("errors") or () if problem.get("code") == "invalid" else ():
        _, _, field = str(error.get("field")).partition(".")
        number, _, field = field.partition(".")
        if number.isdigit() and int(number) < len(batch):
            item = plan.where[batch[int(number)]["task"]]
            what = f"{item.place}, {field or 'task'}"
        else:
            what = str(error.get("field"))
        found.append(f"{what}: {error.get('message')}")
    return found


# Output for people


def some(names: Iterable[Item | str]) -> str:
    """Return the first names, and the number of the others."""
    shown = [client.word(one if isinstance(one, str) else one.name) for one in names]
    more = f" and {len(shown) - SHOWN_MOST} more" if len(shown) > SHOWN_MOST else ""
    return ", ".join(shown[:SHOWN_MOST]) + more


def show(plan: Plan, told: Iterable[str], args: Args) -> None:
    """Print the plan on stderr."""
    closed = [item for item in plan.items if item.kind == "closed"]
    sources = ", ".join(map(client.word, sorted(plan.sources)))
    client.talk(f"{sources}: {len(plan.todo)} tasks to do, {len(closed)} done at the source")
    for change, names in (("new", plan.changes["created"]), ("changed", plan.changes["updated"])):
        if names:
            client.talk(f"  {change}, {len(names)}: {some(names)}")
    whys = {
        "gone": "gone from the source",
        "closed": "done at the source",
        "group": "only headings",
    }
    whys["aside"] = "put aside at the source"
    for kind, why in whys.items():
        names = [task for task, kind_ in plan.drops if kind_ == kind]
        if names:
            client.talk(f"  dropped from the list, {why}, {len(names)}: {some(names)}")
    for text in [*told, *warnings(plan)]:
        client.talk("  note: " + text)


def warnings(plan: Plan) -> Iterator[str]:
    """Yield warnings about effects that a person may not expect."""
    known = {item.name for item in plan.todo} | set(plan.listed)
    known -= {task for task, _ in plan.drops}
    unknown = {need: item for item in plan.todo for need in item.needs if need not in known}
    if unknown:
        shown = some(f"{need} (needed by {item.name})" for need, item in unknown.items())
        yield f"not on the list, so the tasks that need them stay blocked: {shown}"
    state = {task: one["state"] for task, one in plan.listed.items()}
    over = [item for item in plan.todo if state.get(item.name) == "done"]
    if over:
        yield f"still open at the source but done here; they stay done: {some(over)}"
    held = [task for task, _ in plan.drops if state[task] in client.LIVE]
    if held:
        yield f"somebody works on these; the claims continue: {some(held)}"


def agreed() -> bool:
    """Ask the person at the terminal; raise Failure if there is no terminal."""
    try:
        if not sys.stderr.isatty():
            raise OSError
        with open("/dev/tty", encoding="utf-8", errors="replace") as terminal:
            print("dibs: write this? [y/N] ", end="", file=sys.stderr, flush=True)
            return terminal.readline().strip().lower() in ("y", "yes")
    except OSError:
        raise usage("nothing was written: use --yes to write this") from None


def say(args: Args, plan: Plan, is_dry: bool = False) -> int:
    """Print the result on one line."""
    changes = dict(plan.changes, dropped=[task for task, _ in plan.drops])
    if args.json:
        told = {"sources": sorted(plan.sources), "dry_run": is_dry, **changes}
        print(json.dumps(told))
        return client.YES
    counts = ", ".join(f"{len(names)} {change}" for change, names in changes.items())
    print(client.one_line(("would be: " if is_dry else "") + counts))
    return client.YES
