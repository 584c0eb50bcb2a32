"""Validation of requests. One problem names all bad fields, each with its rule."""

import json
import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import parse_qsl, unquote_to_bytes

import pydantic_core
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.json_schema import WithJsonSchema

from dibs import characters, model
from dibs.problems import ProblemError, invalid

Errors = list[dict[str, str]]
JSON, FORM = "application/json", "application/x-www-form-urlencoded"
FIELDS_MOST = 100
"""Fields of a form, a query or a JSON body at most; a body of 16 KiB could hold thousands."""


Check = Callable[[str, str], str]


def _check_text(what: str, most: int, check: Check = model.plain_text) -> Callable[[object], str]:
    def checked(value: object) -> str:
        if isinstance(value, str) and len(value) <= most and characters.is_plain(value):
            return value
        if not isinstance(value, str):
            raise model.Refused(f"{what} must be text.")
        if len(value) > most:
            raise model.Refused(f"{what} has at most {most} characters; this has {len(value)}.")
        return check(value, what)

    return checked


def limited_text(what: str, most: int, check: Check = model.plain_text) -> BeforeValidator:
    """Return the validator of a text field with at most `most` characters."""
    return BeforeValidator(_check_text(what, most, check))


def _label(value: object) -> str:
    if not isinstance(value, str):
        raise model.Refused("A label must be text.")
    return model.label(value)


def _task(value: object) -> model.Task:
    if not isinstance(value, str):
        raise model.Refused("A task must be text.")
    return model.task(value)


def _tasks(value: object) -> tuple[model.Task, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not 1 <= len(items) <= model.TASKS_PER_CLAIM:
        raise model.Refused(f"It must be a list of 1 to {model.TASKS_PER_CLAIM} tasks.")
    tasks = tuple(_task(item) for item in items)
    if len(set(tasks)) < len(tasks):
        raise model.Refused("The list names a task twice.")
    return tasks


_url_text = _check_text("A url", 500)
_PR_PATH = re.compile(
    r"(.*?(?:pull|pulls|pull-requests|merge_requests|pullrequest)/\d+)(?:/.*)?", re.IGNORECASE
)


def _url(value: object) -> str:
    text = _url_text(value)
    if text and not text.startswith(("https://", "http://")):
        raise model.Refused("A url must start with https:// or http://.")
    if text and text.split() != [text]:
        raise model.Refused("A url must not have spaces.")
    return text


def _pr(value: object) -> str:
    """Return the canonical URL of a pull request: without query, fragment and anything after its
    number, so that its different pages are one pull request."""
    text = _url(value)
    if not text:
        return ""
    scheme, _, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    path = re.split(r"[?#]", path, maxsplit=1)[0].rstrip("/")
    if known := _PR_PATH.fullmatch(path):
        path = known[1].lower()  # on every forge, names are case-insensitive
    return f"{scheme.lower()}://{host.lower()}{slash}{path}"


def as_schema(**schema: Any) -> WithJsonSchema:
    """Return the annotation that sets a field's JSON Schema."""
    return WithJsonSchema(schema)


def _pattern(part: str) -> str:
    """Return part of a pattern with escapes that ECMAScript and Python share. They share none for
    characters above U+FFFF, so those stay as they are."""
    return "".join(
        char if " " <= char <= "~" or char > "\uffff" else f"\\u{ord(char):04x}" for char in part
    )


_REFUSED = _pattern(characters.CONTROL + characters.FORMAT + characters.EMPTY + characters.BLANKS)
"""The characters that `model.plain_text` refuses, except those that no short pattern can express:
unassigned and private characters, tags, and too many marks in a row."""
_CONTROL = _pattern(characters.CONTROL)
LINE = f"^[^{_REFUSED}]*$"
LINES = f"^[^{_CONTROL}]*$".replace(r"\u0000-\u001f", r"\u0000-\u0008\u000b-\u001f")
_LABEL = rf"^([A-Za-z0-9_.@:/+ -]|[^\x00-\x7f{_REFUSED}])*$"
TASK_SCHEMA: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": model.TASK_CHARS,
    # A pattern cannot express that the name is NFC either.
    "pattern": rf"^[^\s{_REFUSED}]([^{_REFUSED}]*[^\s{_REFUSED}])?$",
}
Task = Annotated[model.Task, BeforeValidator(_task), as_schema(**TASK_SCHEMA)]
Tasks = Annotated[
    tuple[model.Task, ...],
    BeforeValidator(_tasks),
    as_schema(
        type="array",
        items=TASK_SCHEMA,
        minItems=1,
        maxItems=model.TASKS_PER_CLAIM,
        uniqueItems=True,
    ),
]
Fence = Annotated[
    model.Fence,
    BeforeValidator(model.fence),
    as_schema(type="integer", minimum=1, maximum=model.MAX_FENCE),
]
Duration = Annotated[
    int,
    BeforeValidator(model.duration_s),
    as_schema(
        anyOf=[
            {"type": "integer", "minimum": 0, "maximum": 999_999_999},
            {"type": "string", "pattern": "^[0-9]{1,9}[smh]?$"},
        ]
    ),
]
Note = Annotated[
    str,
    limited_text("A note", model.NOTE_CHARS, model.prose),
    as_schema(type="string", maxLength=model.NOTE_CHARS, pattern=LINES),
]
Label = Annotated[
    str,
    BeforeValidator(_label),
    as_schema(type="string", maxLength=model.LABEL_CHARS, pattern=_LABEL),
]
Branch = Annotated[
    str, limited_text("A branch", 200), as_schema(type="string", maxLength=200, pattern=LINE)
]
_AS_URL = as_schema(type="string", maxLength=500, pattern=rf"^(https?://[^\s{_REFUSED}]*)?$")
Url = Annotated[str, BeforeValidator(_url), _AS_URL]
Pr = Annotated[str, BeforeValidator(_pr), _AS_URL]
Tag = Annotated[
    str,
    BeforeValidator(model.tag),
    as_schema(type="string", minLength=1, maxLength=model.TAG_CHARS, pattern=LINE),
]


class Request(BaseModel):
    """The fields of a request. Unknown fields are refused, so that a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    fits_a_form: ClassVar[bool] = True
    """Whether a form can express all fields."""

    @classmethod
    def also(cls, given: dict[str, Any]) -> Errors:
        """Return the errors in the combination of fields."""
        return []

    @classmethod
    def together(cls) -> dict[str, Any]:
        """Return the rules that `also` checks, as JSON Schema."""
        return {}

    @classmethod
    def of(cls, given: dict[str, Any], errors: Errors) -> Self:
        """Return the checked fields, or raise `invalid` with all errors, `errors` first."""
        together = cls.also(given)
        try:
            body = cls.model_validate(given)
        except ValidationError as error:
            raise invalid(errors + _each_once(error.errors()) + together) from None
        if errors or together:
            raise invalid(errors + together)
        return body


def parse(content_type: str, body: bytes, errors: Errors) -> dict[str, Any]:
    """Return the fields of a JSON or form body; append what is wrong with it to `errors`."""
    if not body.strip():
        return {}
    kind = content_type.split(";", 1)[0].strip().lower()
    if kind not in (JSON, FORM):
        errors.append(fault("Content-Type", f"The body must be sent as {JSON} or {FORM}."))
        return {}
    try:
        if kind == FORM:
            return _form(body.decode("ascii"))
        given = pydantic_core.from_json(body, allow_inf_nan=False)
        if not isinstance(given, dict):
            raise model.Refused("The body must be one JSON object.")
        if not _has_each_once(body, given):
            json.loads(body.decode(), object_pairs_hook=_once, parse_int=str, parse_float=str)
        if len(given) > FIELDS_MOST:
            raise model.Refused(f"A body has at most {FIELDS_MOST} fields; this has {len(given)}.")
        return given
    except UnicodeDecodeError:
        errors.append(fault("body", "The body is not UTF-8 text."))
    except model.Refused as refused:
        errors.append(fault("body", str(refused)))
    except ValueError as error:
        errors.append(fault("body", f"The body cannot be read: {str(error)[:200]}."))
    return {}


def _has_each_once(body: bytes, given: dict[str, Any]) -> bool:
    """Return whether a JSON body certainly has no field twice. Every string in the body has two
    quotes, so a field that the parser dropped as a duplicate leaves too many quotes."""
    kinds = list(map(type, given.values()))
    texts = len(given) + kinds.count(str)
    if list in kinds:
        texts += sum(len(value) for value in given.values() if type(value) is list)
    return body.count(b'"') == 2 * texts


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of a JSON object, or raise Refused if one occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        name = next(name for name in names if names.count(name) > 1)
        raise model.Refused(f"The field {name[:100]} is in the body twice.")
    return found


def query(raw: bytes) -> dict[str, Any]:
    """Return the fields of a query string."""
    try:
        return _form(raw.decode("ascii"))
    except model.Refused as refused:
        raise invalid([fault("query", str(refused))]) from None
    except ValueError:
        raise invalid([fault("query", "The query is not UTF-8 text, percent-encoded.")]) from None


def task_in_path(raw: bytes) -> model.Task:
    """Return the task that a percent-encoded path ends with."""
    try:
        return model.task(unquote_to_bytes(raw).decode())
    except UnicodeDecodeError:
        raise invalid([fault("task", "The task in the path is not UTF-8.")]) from None
    except model.Refused as refused:
        raise invalid([fault("task", str(refused))]) from None


def project(text: str, errors: Errors) -> model.Project:
    """Return the project in the path; append what is wrong with it to `errors`."""
    try:
        return model.project(text)
    except model.Refused as refused:
        errors.append(fault("project", str(refused)))
        return model.Project("-")


def session(text: str | None) -> model.Session:
    """Return the session, or raise `bad-session` with the reason."""
    if not text:
        raise ProblemError(
            "bad-session",
            "Send the header Dibs-Session with a UUID that only this session knows; make one with "
            "`uuidgen` or Python's uuid.uuid4(), and keep it.",
        )
    try:
        return model.session(text)
    except model.Refused as refused:
        raise ProblemError("bad-session", str(refused)) from None


def _form(text: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    count = text.count("&") + 1
    if count > FIELDS_MOST:
        raise model.Refused(f"A request has at most {FIELDS_MOST} fields; this has {count}.")
    for name, value in parse_qsl(text, keep_blank_values=True, errors="strict"):
        if name in ("any_of", "all_of"):
            given.setdefault(name, []).append(value)
        elif name in given:
            raise model.Refused(f"The field {name[:100]} was sent twice.")
        else:
            given[name] = value
    return given


def only(name: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the JSON Schema that requires `name` and forbids the other `names`."""
    others = [has(other) for other in names if other != name]
    return {**has(name), "not": {"anyOf": others}}


def has(name: str) -> dict[str, Any]:
    """Return the JSON Schema that requires a field, not null."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def says(name: str) -> dict[str, Any]:
    """Return the JSON Schema that requires a field with text that is not empty."""
    return {**has(name), "properties": {name: {"type": "string", "minLength": 1}}}


def fault(field: str, message: str) -> dict[str, str]:
    """Return an error of a field, as `invalid` lists it."""
    return {"field": field, "message": message}


def _each_once(errors: list[Any]) -> Errors:
    """Return the errors, except "too short" for a list whose items have errors themselves."""
    places = [one["loc"] for one in errors]
    return [
        _named(one)
        for one in errors
        if one["type"] != "too_short"
        or not any(place[: len(one["loc"])] == one["loc"] != place for place in places)
    ]


def _named(error: Any) -> dict[str, str]:
    field = ".".join(str(part) for part in error["loc"]) or "body"
    if error["type"] == "extra_forbidden":
        return fault(field[:100], "This field does not exist.")
    cause = error.get("ctx", {}).get("error")
    message = str(cause) if isinstance(cause, model.Refused) else f"{error['msg']}."
    return fault(field[:100], message)
