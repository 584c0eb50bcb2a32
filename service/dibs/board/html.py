"""The board's templates, and the functions that they share."""

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
"""ASCII characters of a task's name that need no encoding in a path."""

_NO_TASK = Task("")


def ms(at: datetime) -> int:
    """Return an instant in milliseconds since 1970, as in browsers."""
    return int(at.timestamp() * 1000)


def link(url: str | None) -> str | None:
    """Return `url` if it is safe as a link, else None. The API accepts only http and https; old
    data may have others."""
    if not url or not url.startswith(("https://", "http://")):
        return None
    return url.replace('"', "%22").replace("'", "%27")  # as browsers do; shorter than escaping


def prose(text: str) -> Markup:
    """Escape text between tags, not for attributes: quotes stay unescaped there, which keeps pages
    with many of them short."""
    return Markup(escape_html(text, quote=False))  # noqa: S704 - escaped


def short(url: str) -> str:
    """Return the short form of a pull request's URL: owner/repo#7, or its host and path."""
    rest = url.split("://", 1)[1].rstrip("/")
    parts = rest.split("/")
    if len(parts) == 5 and parts[3] in ("pull", "pulls") and parts[4].isdigit():
        return f"{parts[1]}/{parts[2]}#{parts[4]}"
    return rest if len(rest) <= 40 else rest[:39] + "…"


def _in_a_path(char: str) -> str:
    # The browser encodes non-ASCII characters; as UTF-8 on the page they take a third of the bytes.
    return char if not char.isascii() or char in _IN_A_PATH else quote(char, safe="")


def task_path(project: Project, task: Task) -> str:
    """Return the path of a task's own page."""
    if task in (".", ".."):  # even encoded, browsers resolve them as path segments
        return f"/p/{project}/t?{urlencode({'task': task})}"
    return f"/p/{project}/t/{''.join(map(_in_a_path, task))}"


def act_path(act: str, project: Project, task: Task = _NO_TASK, fence: int = 0) -> str:
    """Return the path of the form for an act (break, hold, …) on a task or the project. `fence` is
    that of the tenure shown."""
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
    """Return a template, compiled on first use (100 ms for all templates of a board). Compiling all
    of them at the start of the service would make the start longer by a seventh."""
    return _ENV.get_template(file)
