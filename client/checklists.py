"""dibs, for checklists in markdown: those of spec-kit, OpenSpec and Kiro, plain ones, task files.

importing.py calls this file. A line `- [ ] …` is a task, and the more indented lines below it are
its text. A checkbox with others below it is their heading, not a task.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from client import formats
    from client.formats import Faults, Item
else:
    import dibs_client as client

    formats = client.part("formats")

BOX = re.compile(r"^([ \t]*)(?:[-*+]|\d+[.)])[ \t]+\[([ xX~/-])\](\*?)(?:[ \t]+(.*))?$")
HEADING = re.compile(r"^#{1,6}[ \t]+(.*?)[ \t#]*$")
FENCE = re.compile(r"^[ \t]*(```|~~~)")
STORY_ID = re.compile(r"(?:\*\*)?(T\d{3,})(?:\*\*)?[:.]?(?=\s|$)")
NUMBER_ID = re.compile(r"(?:\*\*)?(\d+(?:\.\d+)*)(?:\*\*)?[.):]?(?=\s|$)")
KEY_ID = re.compile(r"(?:\*\*)?([A-Z][A-Z0-9]*-\d+|#\d+)(?:\*\*)?[.):]?(?=\s|$)")
MARKS = re.compile(r"^\s*\[(P|US\d+)\]")
DEPENDS = re.compile(r"\((?:depends on|needs|after):?\s+([^()]+)\)", re.IGNORECASE)
ORDERS = ("strict", "sections", "none")
NEEDS_MOST, NAME_MOST = 32, 200
# Each format's order of tasks without --order.
ORDER = {"speckit": "phases", "openspec": "strict", "kiro": "strict", "markdown": "none"}
FRONT = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)(.*)\Z", re.DOTALL)


class Box(formats.Item):
    """A task of a checklist, with the fields that only checklists have."""

    def __init__(self, name: str, place: str, kind: str, line: Line) -> None:
        super().__init__(name, place, kind)
        self.short = self.heading = ""
        self.section, self.is_parallel = line.section, False
        self.text: list[str] = []
        self.depends: list[str] = []


class Line:
    """A checkbox: its indent, its text, and the lines below it."""

    def __init__(self, number: int, match: re.Match[str], section: int) -> None:
        self.number, self.section = number, section
        self.below: list[str] = []
        self.indent = len(match[1].expandtabs(4))
        self.is_done, self.text = match[2] in "xX", (match[4] or "").strip()


def kind_of(text: str, path: str) -> str | None:
    """Return the format of a checklist, from its path and its ids, or None if it has no
    checkboxes."""
    if FRONT.match(text) and not any(BOX.match(line) for line in text.split("\n")):
        return "markdown"
    lines = boxes(text)
    if not lines:
        return None
    steps = path.replace("\\", "/").split("/")
    if ".kiro" in steps:
        return "kiro"
    if "openspec" in steps:
        return "openspec"
    if sum(bool(STORY_ID.match(line.text)) for line in lines) * 2 > len(lines):
        return "speckit"
    return "markdown"


def boxes(text: str) -> list[Line]:
    """Return all checkboxes outside code blocks."""
    found, section, fenced = [], 0, False
    for number, line in enumerate(text.split("\n"), 1):
        match, is_fence = BOX.match(line), bool(FENCE.match(line))
        fenced = fenced != is_fence
        if fenced or is_fence:
            match = None
        elif HEADING.match(line):
            section += 1
        if match and (match[4] or "").strip():
            found.append(Line(number, match, section))
        elif found and is_below(line, found[-1], section):
            found[-1].below.append(line)
    return found


def is_below(line: str, box: Line, section: int) -> bool:
    """Return whether a line without a checkbox belongs to the checkbox before it."""
    indent = len(line.expandtabs(4)) - len(line.expandtabs(4).lstrip())
    return section == box.section and (not line.strip() or indent > box.indent)


def read(
    text: str, place: tuple[str, str], format_: str, order: str | None, faults: Faults
) -> list[Item]:
    """Return the items of a file. `place`: (folder or name, path in the repository)."""
    front = FRONT.match(text)
    if front and not boxes(text):
        with faults.catch():
            return [of_front(front, *place)]
        return []
    lines = boxes(text)
    headings = [""] + [m[1] for m in map(HEADING.match, unfenced(text)) if m]
    items: list[Box] = []
    above: list[tuple[Line, Box]] = []
    known: dict[str, Box] = {}
    for line in lines:
        while above and above[-1][0].indent >= line.indent:
            above.pop()
        item = item_of(line, format_, place, above[-1][1] if above else None)
        by_number = known.get(item.short.rpartition(".")[0]) if "." in item.short else None
        if item.parent is None and by_number:
            item.parent = by_number.name
        item.heading = formats.plain(headings[line.section])
        known.setdefault(item.short, item)
        items.append(item)
        above.append((line, item))
    finish(items, format_, order)
    return [*items]


def unfenced(text: str) -> Iterator[str]:
    fenced = False
    for line in text.split("\n"):
        is_fence = bool(FENCE.match(line))
        fenced = fenced != is_fence
        if not fenced and not is_fence:
            yield line


def item_of(line: Line, format_: str, place: tuple[str, str], parent: Box | None) -> Box:
    """Return the item of a checkbox. Its name is the id at its beginning (T012, 2.1, GW-41), else
    its text."""
    folder, path = place
    short, rest, is_global = "", line.text, False
    for pattern in (STORY_ID, KEY_ID, NUMBER_ID):
        match = pattern.match(line.text)
        if match and line.text[match.end() :].strip():
            short, rest, is_global = match[1], line.text[match.end() :], pattern is KEY_ID
            break
    marks: list[str] = []
    mark = MARKS.match(rest)
    while mark:
        marks.append(mark[1])
        rest = rest[mark.end() :]
        mark = MARKS.match(rest)
    title = formats.plain(rest) or formats.plain(line.text)
    name = short if is_global or not short else f"{folder}/{short}"
    kind = formats.CLOSED if line.is_done else formats.OPEN
    name = name or title[:NAME_MOST].strip()
    item = Box(name, f"line {line.number}", kind, line)
    item.title(title)
    below = "\n".join(line.below)
    item.text = [title if len(title) > formats.TITLE_MOST else "", dedented(below)]
    if marks and any(mark != "P" for mark in marks):
        item.tags(mark for mark in marks if mark != "P")
    item.short, item.is_parallel = short, "P" in marks
    item.depends = [word for text in DEPENDS.findall(line.text) for word in words_of(text)]
    item.source = f"{format_}:{folder if format_ != 'markdown' else path}"
    item.parent = parent.name if parent else None
    return item


def words_of(text: str) -> list[str]:
    return [word.strip("`* .") for word in re.split(r"[,;]|\band\b|\s", text) if word.strip("`* .")]


def dedented(text: str) -> str:
    import textwrap

    return textwrap.dedent(text).strip("\n")


def finish(items: list[Box], format_: str, order: str | None) -> None:
    """Set the needs of the items: those they name, and those of their order."""
    known: dict[str, str] = {}
    parents = {item.parent for item in items}
    for item in items:
        known.setdefault(item.short, item.name)
    for item in items:
        if item.name in parents and item.kind == formats.OPEN:
            item.kind = formats.GROUP
        item.needs = [known.get(word, word) for word in item.depends if is_name(word, known)]
        context = f"Section: {item.heading}" if item.heading else ""
        item.body(*item.text, context)
    by_name = {item.name: item for item in items}
    todo = [item for item in items if item.kind == formats.OPEN and not is_over(item, by_name)]
    order_of(todo, order or ORDER[format_])


def is_name(word: str, known: Container[str]) -> bool:
    """Return whether a word names a task; no word of "(depends on the parser)" does."""
    return word in known or any(one.fullmatch(word) for one in (STORY_ID, KEY_ID, NUMBER_ID))


def is_over(item: Box, by_name: dict[str, Box]) -> bool:
    """Return whether any item above this one is done."""
    seen = set()
    while item.parent in by_name and item.parent not in seen:
        seen.add(item.parent)
        item = by_name[item.parent]
        if item.kind == formats.CLOSED:
            return True
    return False


def order_of(todo: list[Box], order: str) -> None:
    """Make tasks need earlier ones: the one before (strict), all of the section before (sections),
    or as in spec-kit (phases) also the one before in the section, except for tasks with [P]."""
    for at in range(1, len(todo)) if order == "strict" else ():
        todo[at].needs.append(todo[at - 1].name)
    if order not in ("sections", "phases"):
        return
    barrier: list[Box] = []
    for number in dict.fromkeys(item.section for item in todo):
        section = [item for item in todo if item.section == number]
        ends = in_phase(section, barrier) if order == "phases" else wait_for(section, barrier)
        barrier = narrowed(ends)


def wait_for(section: list[Box], barrier: list[Box]) -> list[Box]:
    for item in section:
        item.needs += [one.name for one in barrier]
    return section


def in_phase(section: list[Box], barrier: list[Box]) -> list[Box]:
    """Order the tasks of a phase, those without [P] one after another; return its last ones."""
    run = []
    for item in section:
        if item.is_parallel:
            wait_for([item], barrier)
            run.append(item)
        else:
            wait_for([item], narrowed(run) or barrier)
            barrier, run = [item], []
    return run or barrier


def narrowed(ends: list[Box]) -> list[Box]:
    """Reduce the tasks that the next ones need to NEEDS_MOST: the last one is made to need the
    first ones, and stands for them."""
    while len(ends) > NEEDS_MOST:
        last, room = ends[-1], max(1, NEEDS_MOST - len(set(ends[-1].needs)))
        last.needs += [one.name for one in ends[:room]]
        ends = [last, *ends[room:-1]]
    return ends


def of_front(front: re.Match[str], folder: str, path: str) -> Item:
    """Return the one task of a file with front matter (---)."""
    head, rest = front_fields(front[1]), front[2]
    stem = path.rpartition("/")[2]
    stem = stem[:-3] if stem.endswith(".md") else stem
    heading = re.search(r"^#[ \t]+(.+)$", rest, re.MULTILINE)
    name = one(head, "id") or stem
    kind = formats.state_of(one(head, "status"))
    item = formats.Item(name, f"{path} line 1", kind)
    item.title(one(head, "title") or (heading[1] if heading else stem)).body(rest)
    if "tags" in head or "labels" in head:
        item.tags([*head.get("tags", ()), *head.get("labels", ())])
    if "priority" in head:
        word = one(head, "priority")
        item.fields["priority"] = int(word) if word in "01234" else formats.priority_of(word)
    item.needs = [*head.get("depends_on", ()), *head.get("needs", ()), *head.get("blocked_by", ())]
    item.source = f"markdown:{folder}"
    return item


def front_fields(text: str) -> dict[str, list[str]]:
    """Parse `key: value`, `key: [a, b]` and lists of `- value` into {field: [values]}."""
    found, key = {}, None
    for number, line in enumerate(text.split("\n"), 2):
        if not line.strip() or line.lstrip()[:1] == "#":
            continue
        entry = re.match(r"[ \t]*-[ \t]+(.*)$", line)
        pair = re.match(r"([A-Za-z][\w-]*)[ \t]*:[ \t]*(.*)$", line)
        if entry and key:
            found[key].append(unquoted(entry[1]))
        elif pair:
            key, value = pair[1].lower().replace("-", "_"), pair[2].strip()
            values = value[1:-1].split(",") if value[:1] == "[" and value[-1:] == "]" else [value]
            found[key] = [word for word in map(unquoted, values) if word]
        elif line[:1] not in " \t":
            raise formats.Damaged(f"line {number}: it is not `key: value`")
    return found


def unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def one(head: dict[str, list[str]], field: str) -> str:
    return next(iter(head.get(field, ())), "")
