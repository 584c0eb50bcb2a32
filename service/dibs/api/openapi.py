"""The OpenAPI document, generated from the models and the table of problems.

The framework does not generate it, because every POST accepts two kinds of body, and every response
that is not a success is a problem.
"""

from functools import cache
from typing import Any

from msgspec.json import schema_components

from dibs import __version__, model, requests, responses
from dibs.acts import ACTS
from dibs.acts.act import Act
from dibs.acts.heartbeat import HeartbeatRequest
from dibs.acts.history import SpanQuery
from dibs.acts.tasks import CHANGES
from dibs.api.routes import EventsQuery
from dibs.forge.handler import RESULTS
from dibs.problems import TABLE
from dibs.results import Release, TaskTenure
from dibs.store.health import Health

Schema = dict[str, Any]
_REF = "#/components/schemas/"
_ALWAYS = ("invalid", "unauthorized", "not-found", "wrong-method", "too-large", "rate-limited")
_FAILING = ("internal", "unavailable")
_PROJECT = {
    "name": "project",
    "in": "path",
    "required": True,
    "description": "A namespace, usually one repository: owner.repo.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"},
}
_UUID = "-".join(
    f"{first}[0-9a-fA-F]{{{more}}}"
    for first, more in (("", 8), ("", 4), ("[48]", 3), ("[89abAB]", 3), ("", 12))
)
_SESSION = {
    "name": "Dibs-Session",
    "in": "header",
    "required": True,
    "description": "The session's secret: a UUID of version 4 or 8.",
    "schema": {"type": "string", "pattern": f"^{_UUID}$"},
}
_READER = {
    **_SESSION,
    "required": False,
    "description": "Decides `mine`, nothing else.",
    "schema": {"type": "string", "pattern": f"^({_UUID})?$"},
}
_IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Echoed. Never needed: every call is safe to repeat.",
    "schema": {"type": "string", "maxLength": 200, "pattern": "^[!-~]*$"},
}
_TASK = {
    "name": "task",
    "in": "path",
    "required": True,
    "description": "The task, percent-encoded; slashes need no encoding.",
    "schema": requests.TASK_SCHEMA,
}


@cache
def document() -> Schema:
    """Return the OpenAPI 3.1 document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dibs",
            "version": __version__,
            "description": "Claims on tasks for parallel coding sessions. docs/protocol.md "
            "describes it in prose.",
        },
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "The team key."},
                "basic": {"type": "http", "scheme": "basic", "description": "Key as password."},
            },
        },
        "security": [{}, {"bearer": []}, {"basic": []}],
    }


def _paths() -> Schema:
    events = {responses.JSON: _ref("Events"), "text/event-stream": {"type": "string"}}
    acts: dict[str, Schema] = {}
    for act in ACTS:
        acts.setdefault(f"/v1/{{project}}/{act.path}", {}).update(_operation(act))
    return {
        **acts,
        "/v1/{project}/events": _get(
            "events",
            "Transitions: a page, or (text/event-stream) as they happen.",
            events,
            [_PROJECT, *_query(EventsQuery)],
        ),
        "/v1/{project}/history.csv": _get(
            "history.csv",
            "All tenures that ended in a span of days, as CSV.",
            {"text/csv": {"type": "string"}},
            [_PROJECT, *_query(SpanQuery)],
        ),
        "/hooks/github": {"post": _forge()},
        "/livez": _get("livez", "The process is up.", {responses.JSON: {"type": "object"}}, []),
        "/readyz": _get("readyz", "The store answers.", {responses.JSON: _ref("Health")}, []),
    }


def _operation(act: Act) -> Schema:
    """Return the OpenAPI path item of an act."""
    shapes = {status: _one_of(names) for status, names in act.success.items()}
    if act.method == "POST":
        return _post(act, shapes)
    content = {responses.JSON: shapes[200]}
    if act.name == "list":
        content["text/plain"] = {"type": "string"}
    task = [_TASK] if "{task}" in act.path else []
    return _get(act.name, act.summary, content, [_PROJECT, *task, _READER, *_query(act.request)])


def _one_of(names: tuple[str, ...]) -> Schema:
    refs = [_ref(name) for name in names]
    return refs[0] if len(refs) == 1 else {"anyOf": refs}


def _post(act: Act, shapes: dict[int, Schema]) -> Schema:
    schema = _ref(act.request.__name__)
    kinds = [responses.JSON]
    if act.request.fits_a_form:
        kinds.append("application/x-www-form-urlencoded")
    session = [_SESSION, _IDEMPOTENCY] if act.caller == "session" else []
    operation: Schema = {
        "operationId": act.name,
        "summary": act.summary,
        "parameters": [_PROJECT, *session],
        "requestBody": {
            "required": act.request is not HeartbeatRequest,
            "content": {kind: {"schema": schema} for kind in kinds},
        },
        "responses": {
            **{
                str(status): _response("As asked.", {responses.JSON: shape})
                for status, shape in shapes.items()
            },
            **_problems(act.problems + _ALWAYS + _FAILING),
        },
    }
    return {"post": operation}


def _forge() -> Schema:
    """Return the OpenAPI operation of the webhook, whose deliveries are signed as a whole."""
    names = {
        "X-Hub-Signature-256": "^sha256=[0-9a-f]{64}$",
        "X-GitHub-Event": "^[!-~]{1,100}$",
        "X-GitHub-Delivery": "^[!-~]{1,100}$",
    }
    text = {"type": "string"}
    problems = ("bad-signature", *_ALWAYS, *_FAILING)
    return {
        "operationId": "hook",
        "summary": "A signed delivery of GitHub about pull requests or issues; this path exists "
        "if the service has a secret for it (DIBS_GITHUB_SECRET).",
        "security": [{}],
        "parameters": [
            {"name": name, "in": "header", "required": True, "schema": text | {"pattern": pattern}}
            for name, pattern in names.items()
        ],
        "requestBody": {
            "required": True,
            "content": {responses.JSON: {"schema": {"type": "object"}}},
        },
        "responses": {
            "202": _response("What was done.", {responses.JSON: _ref("Delivery")}),
            **_problems(problems),
        },
    }


def _get(name: str, summary: str, content: Schema, parameters: list[Schema]) -> Schema:
    codes = ("bad-session", *_ALWAYS, *_FAILING)
    return {
        "get": {
            "operationId": name,
            "summary": summary,
            "parameters": parameters,
            "responses": {"200": _response("As asked.", content), **_problems(codes)},
        }
    }


def _response(description: str, content: Schema) -> Schema:
    shown = {kind: {"schema": schema} for kind, schema in content.items()}
    return {"description": description, "content": shown}


def _problems(codes: tuple[str, ...]) -> Schema:
    by_status: dict[int, list[str]] = {}
    for problem in TABLE:
        if problem.code in codes:
            by_status.setdefault(problem.status, []).append(f"`{problem.code}`: {problem.title}.")
    return {
        str(status): _response(" ".join(lines), {responses.PROBLEM: _ref("Problem")})
        for status, lines in by_status.items()
    }


def _query(request: type[requests.Request]) -> list[Schema]:
    properties = request.model_json_schema()["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in properties.items()
    ]


def _ref(name: str) -> Schema:
    return {"$ref": _REF + name}


def _schemas() -> Schema:
    found: Schema = {}
    for request in (act.request for act in ACTS if act.method == "POST"):
        schema = request.model_json_schema(ref_template=_REF + "{model}")
        found.update(schema.pop("$defs", {}))
        found[request.__name__] = schema | request.together()
    outputs = (
        model.Claim,
        model.Free,
        model.Event,
        model.Loss,
        model.Tenure,
        TaskTenure,
        Release,
        Health,
    )
    found.update(schema_components(outputs, ref_template=_REF + "{name}")[1])
    many = {"type": "array"}
    task, either = {"type": "string"}, {"anyOf": [_ref("Claim"), _ref("Free")]}
    lost = {**many, "items": _ref("Loss")}
    for name in ("Claim", "Release"):
        found[name]["properties"]["lost"] = lost
    found["Free"]["properties"]["current"] = found["Claim"]["properties"]["current"] = {
        "type": "boolean"
    }
    found["Claims"] = _object(claims={**many, "items": _ref("Claim")}, lost=lost)
    found["Releases"] = _object(released={**many, "items": _ref("Release")}, lost=lost)
    found["Page"] = _object(
        claims={**many, "items": _ref("Claim")},
        seq={"type": "string"},
        cursor={"type": ["string", "null"]},
        server_time={"type": "string", "format": "date-time"},
        damaged={**many, "items": {"type": "string"}},
    )
    found["Written"] = _object(**{change: {**many, "items": task} for change in CHANGES}, lost=lost)
    found["Backlog"] = _object(
        tasks={**many, "items": either},
        seq={"type": "string"},
        cursor={"type": ["string", "null"]},
        server_time={"type": "string", "format": "date-time"},
        damaged={**many, "items": {"type": "string"}},
    )
    found["History"] = _object(
        tenures={**many, "items": _ref("TaskTenure")},
        cursor={"type": ["string", "null"]},
        server_time={"type": "string", "format": "date-time"},
    )
    more = _object(
        needs={**many, "items": either},
        dependents={**many, "items": either},
        tenures={**many, "items": _ref("Tenure")},
    )
    found["Delivery"] = _delivery()
    found["HeldBack"] = _object(
        task={"type": ["string", "null"]}, hold=_ref("Hold"), already={"type": "boolean"}
    )
    found["Whole"] = {"allOf": [either, more]}
    found["Events"] = _object(
        events={**many, "items": _ref("Event")},
        next={"type": "string"},
        reset={"type": "boolean"},
    )
    found["Problem"] = {
        **_object(
            type={"type": "string", "format": "uri-reference"},
            title={"type": "string"},
            status={"type": "integer"},
            detail={"type": "string"},
            code={"enum": [problem.code for problem in TABLE]},
            outcome={"enum": ["not-applied", "unknown"]},
        ),
        "additionalProperties": True,
    }
    return found


def _delivery() -> Schema:
    text: Schema = {"type": "string"}
    known: Schema = {"type": ["string", "null"]}
    match = _object(task=text, state=text, by=text)
    match["properties"]["already"] = {"type": "boolean"}
    return _object(
        event=text,
        action=text,
        delivery=text,
        project=known,
        result={"enum": [each for each in RESULTS if each != "refused"]},
        did=known,
        matched={"type": "array", "items": match},
        why={"type": "array", "items": text},
    )


def _object(**properties: Schema) -> Schema:
    required = [name for name in properties if name not in ("lost", "damaged")]
    return {"type": "object", "properties": properties, "required": required}
