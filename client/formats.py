"""dibs, for exports of trackers: reads their issues and tickets as plain items.

importing.py calls this file, and checklists.py for markdown. Nothing here calls the service. Faults
are reported by line and field; unknown fields are ignored.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from bisect import bisect_right
from json import decoder, scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Union

    from client import dibs as client
    from client.dibs import Json

    Texts = list[str]
    Kinds = Union[type, tuple[type, ...]]
    Cells = dict[str, list[str]]  # the cells of a row, by column
    Row = tuple[Cells, str]  # (cells, place in the file)
else:
    import dibs_client as client

    Json, Texts = dict, list

TITLE_MOST, BODY_MOST, TAG_MOST, TAGS_MOST = 200, 8192, 50, 10
CUT = "\n… (cut here: it was longer)"
# Kinds of items: to do; closed; put aside; a heading of other items.
OPEN, CLOSED, ASIDE, GROUP = "open", "closed", "aside", "group"
STATES = {
    **dict.fromkeys(("closed", "done", "completed", "complete", "cancelled", "canceled"), CLOSED),
    **dict.fromkeys(("resolved", "duplicate", "won't do", "won't fix", "wontfix"), CLOSED),
    **dict.fromkeys(("deferred", "pinned", "archived"), ASIDE),
}
PRIORITIES = {
    **dict.fromkeys(("p0", "critical", "blocker", "highest", "urgent"), 0),
    **dict.fromkeys(("p1", "high"), 1),
    **dict.fromkeys(("p2", "medium", "major", "normal"), 2),
    **dict.fromkeys(("p3", "low", "minor"), 3),
    **dict.fromkeys(("p4", "lowest", "trivial"), 4),
}
LABEL_PRIORITY = re.compile(r"priority\s*[:/_ -]\s*(\S+)|(p[0-4])", re.IGNORECASE)
HARD = ("blocks", "conditional-blocks", "waits-for")  # dependency types of Beads that block
ISSUE = re.compile(r"https?://([^/\s]+)/([^/\s]+/[^/\s]+)/issues/(\d+)")
WAITS = re.compile(
    r"^[ \t>*-]*(?:blocked by|depends on)\b[*:\s]*(.+)$", re.IGNORECASE | re.MULTILINE
)
NAMED = re.compile(r"(?<![\w/.-])([\w.-]+/[\w.-]+)?#(\d+)\b")


class Damaged(Exception):
    """A fault in a file; the message has its place and the problem."""


class Elsewhere(str):
    """The name of a task of another source, which gets no prefix."""


class Item:
    """One task of a file. `fields` has only the fields that the file sets."""

    def __init__(self, name: str, place: str, kind: str = OPEN) -> None:
        self.name, self.place, self.kind = name, place, kind
        self.fields: Json = {}
        self.needs: list[str] = []
        self.source = ""
        self.blocks: list[str] = []  # the names of tasks that need it
        self.parent: str | None = None  # the name of the item that it is a part of
        self.notes: list[str] = []  # problems to report to a person: "cut", "blocked"

    def title(self, text: str) -> Item:
        flat = plain(text)
        self.fields["title"] = flat[: TITLE_MOST - 1] + "…" if len(flat) > TITLE_MOST else flat
        return self

    def body(self, *texts: str | None) -> Item:
        text = "\n\n".join(filter(None, map(lines_of, texts)))
        if len(text) > BODY_MOST:
            text = text[: BODY_MOST - len(CUT)] + CUT
            self.notes.append("cut")
        self.fields["body"] = text
        return self

    def body_above(self, groups: list[Item]) -> None:
        """Append the titles of the items above this one to the body."""
        titles = " / ".join(one.fields.get("title", one.name) for one in reversed(groups))
        self.body(self.fields.get("body", ""), f"Part of: {titles}")

    def tags(self, names: Iterable[str]) -> Item:
        found = list(
            dict.fromkeys(filter(None, (plain(name)[:TAG_MOST].strip() for name in names)))
        )
        self.fields["tags"] = found[:TAGS_MOST]
        return self


def plain(text: str) -> str:
    """Return one line without invisible characters."""
    kept = (c for c in text if c.isascii() or not is_hidden(c))
    return " ".join("".join(kept).split())


def is_hidden(char: str) -> bool:
    return unicodedata.category(char) in ("Cf", "Co", "Cn") or "\ufe00" <= char <= "\ufe0f"


def lines_of(text: str | None) -> str:
    return (text or "").replace("\r\n", "\n").replace("\r", "\n").strip("\n").rstrip()


def state_of(word: str) -> str:
    return STATES.get(plain(word).lower(), OPEN)


def priority_of(word: str) -> int:
    return PRIORITIES.get(plain(word).lower(), 2)


# JSON


class Located(Json):
    """A JSON object with the number of its line."""

    line = 0


class Decoder(json.JSONDecoder):
    """A slower JSON decoder whose objects have their line numbers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ends = [match.start() for match in re.finditer("\n", text)]
        self.parse_object = self.located
        # Both exist in Python's json package, but its type stubs lack them.
        self.scan_once = scanner.py_make_scanner(self)  # type: ignore[attr-defined]

    def located(self, at: tuple[str, int], *rest: Any) -> tuple[Located, int]:
        value, end = decoder.JSONObject(at, *rest)  # type: ignore[attr-defined]
        found = Located(value)
        found.line = bisect_right(self.ends, at[1] - 1) + 1  # the line of its {
        return found, end


def json_of(text: str) -> Any:
    """Return the value of JSON, or the objects of JSON lines; raise Damaged if it is neither."""
    try:
        first, *rest = (line for line in text.split("\n") if line.strip())
        json.loads(first)
    except (ValueError, RecursionError):
        rest = []
    if rest:
        return json_lines(text)
    try:
        return Decoder(text).decode(text)
    except RecursionError:
        raise Damaged("line 1: it is nested too deep") from None
    except ValueError as error:
        raise Damaged(f"line {getattr(error, 'lineno', 1)}: {broken(error)}") from None


def json_lines(text: str) -> list[Located]:
    """Return the objects of JSON lines; raise Damaged with all broken lines."""
    found, faults = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError("it is not an object")
            one = Located(value)
            one.line = number
            found.append(one)
        except (ValueError, RecursionError) as error:
            faults.append(f"line {number}: {broken(error)}")
    if faults:
        raise Damaged("\n".join(faults))
    return found


def broken(error: Exception) -> str:
    where = f" at column {error.colno}" if hasattr(error, "colno") else ""
    return f"this is not JSON as expected{where}: {getattr(error, 'msg', error)}"


def get(record: Json, field: str, kinds: Kinds, place: str) -> Any:
    """Return a field if it has one of these types, or None if it is missing; raise Damaged for any
    other type."""
    value = record.get(field)
    if value is None or (isinstance(value, kinds) and not isinstance(value, bool)):
        return value
    names = {str: "a text", int: "a whole number", list: "a list", dict: "an object"}
    wanted = " or ".join(names[kind] for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
    raise Damaged(f"{place}, {field}: it has to be {wanted}")


def need(record: Json, field: str, kinds: Kinds, place: str) -> Any:
    value = get(record, field, kinds, place)
    if value is None or value == "":
        raise Damaged(f"{place}, {field}: it is missing")
    return value


def names_of(values: Iterable[Any], place: str, field: str) -> Iterator[str]:
    """Yield the names of labels, which are texts or objects with a name."""
    for value in values:
        name = value.get("name") if isinstance(value, dict) else value
        if not isinstance(name, str):
            raise Damaged(f"{place}, {field}: it has to be texts, or objects with a name")
        yield name


def github(records: Iterable[Any], faults: Faults) -> Iterator[Item]:
    """Yield the items of issues from `gh issue list --json …` or the REST API."""
    for record, place in each(records, faults):
        if record.get("pull_request"):
            continue  # REST lists pull requests as issues
        with faults.catch():
            yield github_issue(record, place)


def github_issue(record: Json, place: str) -> Item:
    number = need(record, "number", int, place)
    place = f"{place} (#{number})"
    item = Item(f"#{number}", place, state_of(get(record, "state", str, place) or "open"))
    item.title(need(record, "title", str, place))
    url = get(record, "html_url", str, place) or get(record, "url", str, place) or ""
    found, body = ISSUE.match(url), lines_of(get(record, "body", str, place))
    repository = found[2] if found else ""
    host = found[1] + "/" if found and found[1] != "github.com" else ""
    item.source = f"github:{host}{repository}" if found else "github"
    if found:
        item.fields["url"] = url
    if "body" in record:
        item.body(body)
    if "labels" in record:
        labels = list(names_of(get(record, "labels", list, place) or (), place, "labels"))
        item.tags(labels).fields["priority"] = priority_of_labels(labels)
    item.needs = [*blockers(record, place, repository), *blockers_in(body, repository)]
    summary = record.get("issue_dependencies_summary")
    count = summary.get("blocked_by") if isinstance(summary, dict) else 0
    if isinstance(count, int) and count > len(item.needs):
        item.notes.append("blocked")
    return item


def priority_of_labels(labels: list[str]) -> int:
    """Return the priority of the first label that names one, else 2."""
    for label in labels:
        found = LABEL_PRIORITY.fullmatch(label.strip())
        word = (found[1] or found[2]).lower() if found else ""
        if word in PRIORITIES:
            return PRIORITIES[word]
    return 2


def blockers(record: Json, place: str, repository: str) -> Iterator[str]:
    """Yield the open issues that block an issue, if the export has them."""
    for field in ("blockedBy", "blocked_by"):
        found = record.get(field)
        found = found.get("nodes") if isinstance(found, dict) else found
        for one in found if isinstance(found, list) else ():
            one = one if isinstance(one, dict) else {"number": one}
            if str(one.get("state")).lower() == "closed":
                continue
            number = need(one, "number", int, f"{place}, {field}")
            other = ISSUE.match(str(one.get("html_url") or one.get("url") or ""))
            yield named(other[2] if other else "", number, repository)


def blockers_in(body: str, repository: str) -> Iterator[str]:
    """Yield the issues in lines "Blocked by #12" and "Depends on #12, #13" of a body."""
    for line in WAITS.findall(body):
        line = ISSUE.sub(lambda issue: f" {issue[2]}#{issue[3]} ", line)
        for elsewhere, number in NAMED.findall(line):
            yield named(elsewhere, number, repository)


def named(elsewhere: str, number: str | int, repository: str) -> str:
    is_here = elsewhere in ("", repository)
    return f"#{number}" if is_here else Elsewhere(f"{elsewhere}#{number}")


def beads(records: Iterable[Any], faults: Faults) -> Iterator[Item]:
    """Yield the items of Beads' JSON lines."""
    for record, place in each(records, faults):
        if record.get("_type") in (None, "issue") and record.get("status") != "tombstone":
            with faults.catch():
                yield bead(record, place)


def bead(record: Json, place: str) -> Item:
    name = need(record, "id", str, place)
    place = f"{place} ({client.word(name)})"
    item = Item(name, place, state_of(get(record, "status", str, place) or ""))
    if record.get("issue_type") == "epic" and item.kind == OPEN:
        item.kind = GROUP
    accepted = get(record, "acceptance_criteria", str, place)
    item.title(need(record, "title", str, place)).body(
        *(get(record, field, str, place) for field in ("description", "design", "notes")),
        accepted and f"Done when:\n{accepted}",
    )
    item.tags(names_of(get(record, "labels", list, place) or (), place, "labels"))
    priority = get(record, "priority", int, place)
    if priority is not None and not 0 <= priority <= 4:
        raise Damaged(f"{place}, priority: it has to be 0 to 4")
    item.fields["priority"] = 2 if priority is None else priority
    reference = get(record, "external_ref", str, place) or ""
    if reference.startswith(("https://", "http://")):
        item.fields["url"] = reference
    for tie in get(record, "dependencies", list, place) or ():
        if not isinstance(tie, dict):
            raise Damaged(f"{place}, dependencies: it has to be objects")
        other = need(tie, "depends_on_id", str, f"{place}, dependencies")
        if tie.get("type", "blocks") in HARD:
            item.needs.append(other)
        elif tie.get("type") == "parent-child":
            item.parent = other
    item.source = "beads:" + name.rpartition("-")[0] if "-" in name else "beads"
    return item


def taskmaster(lists: Json, faults: Faults) -> Iterator[Item]:
    """Yield the items of Task Master: {tag: {tasks}}, or in older files {tasks}."""
    if "tasks" in lists:
        lists = {"master": lists}
    for tag, one in lists.items():
        tasks = one.get("tasks") if isinstance(one, dict) else None
        for record, place in each(tasks if isinstance(tasks, list) else (), faults):
            with faults.catch():
                yield from task_and_parts(record, f"{place}, tag {client.word(tag)}", tag)


def task_and_parts(record: Json, place: str, tag: str, above: str = "") -> Iterator[Item]:
    """Yield the items of a Task Master task and of its subtasks."""
    number = str(need(record, "id", (int, str), place))
    number = above + number.rpartition(".")[2] if above else number
    place = f"{place} ({client.word(number)})"
    item = Item(f"{tag}/{number}", place, state_of(get(record, "status", str, place) or ""))
    details, tests = get(record, "details", str, place), get(record, "testStrategy", str, place)
    item.title(need(record, "title", str, place)).body(
        get(record, "description", str, place), details, tests and f"Test strategy:\n{tests}"
    )
    item.fields["priority"] = priority_of(get(record, "priority", str, place) or "")
    for other in get(record, "dependencies", list, place) or ():
        if not isinstance(other, (int, str)) or isinstance(other, bool):
            raise Damaged(f"{place}, dependencies: it has to be numbers or texts")
        is_whole = "." in str(other) or not above
        item.needs.append(f"{tag}/{other}" if is_whole else f"{tag}/{above}{other}")
    item.source = f"taskmaster:{tag}"
    item.parent = f"{tag}/{above[:-1]}" if above else None
    parts = get(record, "subtasks", list, place) or ()
    item.kind = GROUP if parts and item.kind == OPEN else item.kind
    yield item
    for part in parts:
        if not isinstance(part, dict):
            raise Damaged(f"{place}, subtasks: it has to be objects")
        where = f"line {getattr(part, 'line', 0)}, tag {client.word(tag)}"
        yield from task_and_parts(part, where, tag, f"{number}.")


# CSV


def delimiter_of(text: str) -> str:
    """Return the delimiter: the comma, semicolon or tab most frequent in the header, outside
    quotes."""
    head = re.sub(r'"[^"]*"', "", text.lstrip().split("\n", 1)[0])
    return max(",;\t", key=head.count)


def columns_of(text: str) -> set[str]:
    """Return the column names in lower case; an empty set if the first line is not CSV."""
    try:
        header = next(csv.reader([text.lstrip().split("\n", 1)[0]], delimiter=delimiter_of(text)))
    except (csv.Error, StopIteration):
        return set()
    return {plain(cell).lower() for cell in header}


def rows_of(text: str) -> list[Row]:
    """Return [(cells by column, place)] of a CSV file; raise Damaged if it is malformed."""
    delimiter = delimiter_of(text)
    # Splitting drops the line ends; cells of several lines need them.
    reader = csv.reader(
        (line + "\n" for line in text.split("\n")), delimiter=delimiter, strict=True
    )
    rows, header, begun = [], None, 1
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                pass
            elif header is None:
                header = [plain(cell) for cell in row]
            elif len(row) != len(header):
                fields = f"{len(row)} fields, and the header has {len(header)}"
                raise Damaged(f"line {begun}: it has {fields}")
            else:
                rows.append((by_column(header, row), f"line {begun}"))
            begun = reader.line_num + 1
    except csv.Error as error:
        raise Damaged(f"line {begun}: this is not CSV: {error}") from None
    return rows


def by_column(header: list[str], row: list[str]) -> Cells:
    cells: Cells = {}
    for column, cell in zip(header, row):
        cells.setdefault(column.lower(), []).extend([cell] if cell.strip() else [])
    return cells


def first(cells: Cells, *columns: str) -> str:
    """Return the first cell that is not empty in these columns, or ''."""
    found = (cell for column in columns for cell in cells.get(column, ()))
    return next(found, "").strip()


def split(cells: Cells, *columns: str) -> list[str]:
    """Return all names in these columns, which may be repeated and may list several."""
    texts = (cell for column in columns for cell in cells.get(column, ()))
    return [name.strip() for text in texts for name in re.split(r"[,;\n]", text) if name.strip()]


JIRA_KEY = ("issue key", "work item key", "work item", "key")


def jira(rows: list[Row], faults: Faults) -> Iterator[Item]:
    """Yield the items of Jira's CSV, whose columns repeat: one for each link."""
    for cells, place in rows:
        with faults.catch():
            yield ticket(cells, place)


def ticket(cells: Cells, place: str) -> Item:
    key = first(cells, *JIRA_KEY)
    if not key:
        raise Damaged(f"{place}, Issue key: it is missing")
    place = f"{place} ({client.word(key)})"
    if not first(cells, "summary"):
        raise Damaged(f"{place}, Summary: it is missing")
    category = first(cells, "status category") or first(cells, "status")
    item = Item(key, place, state_of(category))
    if first(cells, "resolution").lower() not in ("", "unresolved"):
        item.kind = CLOSED
    if first(cells, "issue type", "work type").lower() == "epic" and item.kind == OPEN:
        item.kind = GROUP
    item.title(first(cells, "summary"))
    if "description" in cells:
        item.body(first(cells, "description"))
    if "labels" in cells:
        item.tags(name for cell in cells["labels"] for name in cell.split())
    item.fields["priority"] = priority_of(first(cells, "priority"))
    for way, names in (("inward", item.needs), ("outward", item.blocks)):
        names += split(cells, f"{way} issue link (blocks)", f"{way} work item link (blocks)")
    item.parent = first(cells, "parent key", "parent") or None
    item.source = "jira:" + key.rpartition("-")[0]
    return item


def linear(rows: list[Row], faults: Faults) -> Iterator[Item]:
    """Yield the items of Linear's CSV."""
    for cells, place in rows:
        with faults.catch():
            yield linear_issue(cells, place)


def linear_issue(cells: Cells, place: str) -> Item:
    name = first(cells, "id")
    if not name:
        raise Damaged(f"{place}, ID: it is missing")
    place = f"{place} ({client.word(name)})"
    if not first(cells, "title"):
        raise Damaged(f"{place}, Title: it is missing")
    item = Item(name, place, state_of(first(cells, "status")))
    if first(cells, "completed", "canceled", "duplicate of"):
        item.kind = CLOSED
    elif first(cells, "archived"):
        item.kind = ASIDE
    item.title(first(cells, "title"))
    if "description" in cells:
        item.body(first(cells, "description"))
    if "labels" in cells:
        item.tags(split(cells, "labels"))
    item.fields["priority"] = priority_of(first(cells, "priority"))
    item.needs, item.blocks = split(cells, "blocked by"), split(cells, "blocks", "blocking")
    item.source = "linear:" + name.rpartition("-")[0]
    return item


# Format detection


def each(records: Iterable[Any], faults: Faults) -> Iterator[tuple[Json, str]]:
    """Yield each record with its place; any other value than an object is a fault."""
    for number, record in enumerate(records, 1):
        if isinstance(record, dict):
            yield record, f"line {getattr(record, 'line', 0)}"
        else:
            faults.append(f"entry {number}: it is not an object")


class Faults(Texts):
    """The faults of a file, one short text each; as a context manager it collects Damaged."""

    def catch(self) -> Faults:
        return self

    def __enter__(self) -> Faults:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: object
    ) -> bool:
        if kind is not None and issubclass(kind, Damaged):
            self += str(error).split("\n")
            return True
        return False


def table(text: str) -> tuple[str | None, list[Row]]:
    """Return (format, rows) of a CSV file; (None, []) if the header is unknown."""
    columns = columns_of(text)
    if columns & set(JIRA_KEY) and "summary" in columns:
        return "jira", rows_of(text)
    if {"id", "title"} <= columns:
        return "linear", rows_of(text)
    return None, []


def document(text: str) -> tuple[str | None, Any]:
    """Return (format, value for its reader) of JSON; (None, None) if the format is unknown."""
    value = json_of(text)
    if isinstance(value, dict):
        inner = [value, *(one for one in value.values() if isinstance(one, dict))]
        if any(isinstance(one.get("tasks"), list) for one in inner):
            return "taskmaster", value
        value = next(
            (value[k] for k in ("data", "items") if isinstance(value.get(k), list)), [value]
        )
    some = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
    if any("number" in one for one in some) or value == []:
        return "github", value
    ours = ("title", "status", "priority", "dependencies", "issue_type", "_type")
    if any("id" in one and any(field in one for field in ours) for one in some):
        return "beads", value
    return None, None


READERS: dict[str, Callable[[Any, Faults], Iterator[Item]]] = {
    "github": github,
    "beads": beads,
    "taskmaster": taskmaster,
    "jira": jira,
    "linear": linear,
}
