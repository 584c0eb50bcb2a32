"""The description of the HTTP interface, made from the models and the table of problems.

Made here and not by the framework, because every POST takes two kinds of body, and every answer
that is no success is a problem.
"""

from functools import cache
from typing import Any

from msgspec.json import schema_components

from dibs import __version__, words
from dibs.api import bodies, wire
from dibs.api.problems import TABLE
from dibs.outcomes import Release
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
    "description": "The task, percent-encoded; a slash may stand as it is.",
    "schema": bodies.TASK_SCHEMA,
}


@cache
def document() -> Schema:
    """Return the OpenAPI 3.1 document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dibs",
            "version": __version__,
            "description": "Claims on tasks for parallel coding sessions. docs/protocol.md says "
            "it in prose.",
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
    claim, claims = _ref("Claim"), _ref("Claims")
    shown = {"anyOf": [_ref("Claim"), _ref("Free")]}
    return {
        "/v1/{project}/claim": _post(
            "claim",
            "Take a task, the first free of any_of, or all of all_of.",
            bodies.ClaimBody,
            {200: {"anyOf": [claim, claims]}, 201: {"anyOf": [claim, claims]}},
            ("bad-session", "held", "cooling", "done", "quota", "full"),
        ),
        "/v1/{project}/heartbeat": _post(
            "heartbeat",
            "Extend one claim, or (without task) all that the session has.",
            bodies.HeartbeatBody,
            {200: {"anyOf": [claim, claims]}},
            ("bad-session", "not-holder", "lost"),
        ),
        "/v1/{project}/release": _post(
            "release",
            "End one claim, or all; or leave a queue.",
            bodies.ReleaseBody,
            {200: {"anyOf": [_ref("Release"), _ref("Releases")]}},
            ("bad-session", "not-holder", "lost"),
        ),
        "/v1/{project}/break": _post(
            "break",
            "A person ends somebody's claim; takes an admin key.",
            bodies.BreakBody,
            {200: _ref("Release")},
            ("forbidden", "fence-required", "fence-moved"),
            session=False,
        ),
        "/v1/{project}/claims": _get(
            "list",
            "The project's claims, as one snapshot.",
            {wire.JSON: _ref("Page"), "text/plain": {"type": "string"}},
            [_PROJECT, _READER, *_query(bodies.ListQuery)],
        ),
        "/v1/{project}/claims/{task}": _get(
            "show",
            "One task; with fence, whether that is the current one.",
            {wire.JSON: shown},
            [_PROJECT, _TASK, _READER, *_query(bodies.ShowQuery)],
        ),
        "/v1/{project}/events": _get(
            "events",
            "Transitions: a page, or (text/event-stream) as they happen.",
            {wire.JSON: _ref("Events"), "text/event-stream": {"type": "string"}},
            [_PROJECT, *_query(bodies.EventsQuery)],
        ),
        "/livez": _get("livez", "The process is up.", {wire.JSON: {"type": "object"}}, []),
        "/readyz": _get("readyz", "The store answers.", {wire.JSON: _ref("Health")}, []),
    }


def _post(
    name: str,
    summary: str,
    body: type[bodies.Body],
    success: dict[int, Schema],
    codes: tuple[str, ...],
    *,
    session: bool = True,
) -> Schema:
    schema = _ref(body.__name__)
    kinds = (wire.JSON, "application/x-www-form-urlencoded")
    operation: Schema = {
        "operationId": name,
        "summary": summary,
        "parameters": [_PROJECT, *([_SESSION, _IDEMPOTENCY] if session else [])],
        "requestBody": {
            "required": body is not bodies.HeartbeatBody,
            "content": {kind: {"schema": schema} for kind in kinds},
        },
        "responses": {
            **{
                str(status): _response("As asked.", {wire.JSON: shape})
                for status, shape in success.items()
            },
            **_problems(codes + _ALWAYS + _FAILING),
        },
    }
    return {"post": operation}


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
        str(status): _response(" ".join(lines), {wire.PROBLEM: _ref("Problem")})
        for status, lines in by_status.items()
    }


def _query(model: type[bodies.Body]) -> list[Schema]:
    properties = model.model_json_schema()["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in properties.items()
    ]


def _ref(name: str) -> Schema:
    return {"$ref": _REF + name}


def _schemas() -> Schema:
    found: Schema = {}
    inputs = (bodies.ClaimBody, bodies.HeartbeatBody, bodies.ReleaseBody, bodies.BreakBody)
    for model in inputs:
        found[model.__name__] = {
            **model.model_json_schema(ref_template=_REF + "{model}"),
            **model.together(),
        }
    outputs = (words.Claim, words.Free, words.Event, words.Loss, Release, Health)
    found.update(schema_components(outputs, ref_template=_REF + "{name}")[1])
    many = {"type": "array"}
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


def _object(**properties: Schema) -> Schema:
    required = [name for name in properties if name not in ("lost", "damaged")]
    return {"type": "object", "properties": properties, "required": required}
