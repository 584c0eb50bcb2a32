"""The board's HTML: its templates, and what they share."""

from datetime import datetime
from functools import cache
from html import escape as escape_html
from importlib import resources
from pathlib import Path
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from dibs.board import relative_time
from dibs.board.assets import asset
from dibs.board.event_text import name
from dibs.board.relative_time import span
from dibs.model import LAPSES_FLAGGED, Project, Task

_IN_A_PATH = frozenset(map(chr, range(0x21, 0x7F))) - frozenset("\"#%&'+/<>?\\^`{|}")
"""ASCII that stands for itself in the part of a path that is a task's name."""

_NO_TASK = Task("")


def ms(at: datetime) -> int:
    """Return an instant as the browser counts it."""
    return int(at.timestamp() * 1000)


def link(url: str | None) -> str | None:
    """Return `url` if it is one to click on. The API lets no other in; old data might."""
    if not url or not url.startswith(("https://", "http://")):
        return None
    return url.replace('"', "%22").replace("'", "%27")  # as browsers do, and shorter than escaped


def prose(text: str) -> Markup:
    """Escape what stands between tags, and never in one: quotes are as they are there, and a page
    of a thousand of them as long as it was written."""
    return Markup(escape_html(text, quote=False))  # noqa: S704 - escaped


def short(url: str) -> str:
    """Return a pull request's URL as people call it: owner/repo#7, or its host and path."""
    rest = url.split("://", 1)[1].rstrip("/")
    parts = rest.split("/")
    if len(parts) == 5 and parts[3] in ("pull", "pulls") and parts[4].isdigit():
        return f"{parts[1]}/{parts[2]}#{parts[4]}"
    return rest if len(rest) <= 40 else rest[:39] + "…"


def _in_a_path(char: str) -> str:
    # What is not ASCII is left to the browser, which writes it as UTF-8: a third of the bytes.
    return char if not char.isascii() or char in _IN_A_PATH else quote(char, safe="")


def task_path(project: Project, task: Task) -> str:
    """Return where a task's own page is."""
    if task in (".", ".."):  # however they are written, a browser takes them for folders
        return f"/p/{project}/t?{urlencode({'task': task})}"
    return f"/p/{project}/t/{''.join(map(_in_a_path, task))}"


def act_path(act: str, project: Project, task: Task = _NO_TASK, fence: int = 0) -> str:
    """Return where a person can do something to a task, or to the project: break, hold, … `fence`
    is that of the tenure that is shown."""
    given = {"task": task, "fence": fence} if fence else {"task": task} if task else {}
    return f"/p/{project}/{act}" + (f"?{urlencode(given, quote_via=quote)}" if given else "")


def _environment() -> Environment:
    templates = Path(str(resources.files("dibs.board"))) / "templates"
    env = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals.update(
        asset=asset, clock=relative_time.clock, time=relative_time.time, ms=ms, link=link
    )
    env.filters.update(prose=prose)
    env.globals.update(short=short, name=name, act_path=act_path, task_path=task_path)
    env.globals.update(span=span, flagged=LAPSES_FLAGGED)
    return env


_ENV = _environment()


@cache
def template(file: str) -> Template:
    """Return a template. It is compiled when somebody first looks at what it shows (100 ms for all
    of a board): compiling them all would make each start of a service longer by a seventh."""
    return _ENV.get_template(file)
