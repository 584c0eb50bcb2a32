"""dibs, for agents other than Claude Code: translates their hooks to Claude's form and back.

dibs.py imports this file when a hook of another agent has something to do. Codex uses Claude's
form. The differences are tables of fields, tools and answers; dibs.py has those of events.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from client import dibs as client
    from client import hook, passing
    from client.dibs import Json, Session
else:
    import dibs_client as client

    hook, passing = client.part("hook"), client.part("passing")

# Claude's names for their fields.
FIELDS = {
    "sessionId": "session_id",
    "conversation_id": "session_id",
    "toolName": "tool_name",
    "toolArgs": "tool_input",
    "toolResult": "tool_response",
    "initialPrompt": "prompt",
    "agentId": "agent_id",
    "subagent_id": "agent_id",
    "agentName": "agent_type",
    "subagent_type": "agent_type",
}
SHELLS = ("Shell", "run_shell_command", "bash", "powershell", "shell", "exec_command")
EDITS = (
    *("Write", "Edit", "StrReplace", "Delete", "EditNotebook", "MultiEdit", "write_file"),
    *("replace", "create", "edit", "str_replace_editor"),
)
PATHS = ("file_path", "path", "filePath", "target_file", "target_notebook", "absolute_path")
TWICE_S = 3.0
# Agents that can ask a person before a tool is used, if a hook requests it.
ASKING = ("claude", "copilot")


def see_to_event(session: Session, agent: str, event: str, payload: bytes) -> None:
    """Run hook.py as if Claude Code had called it, and print its output in this agent's form."""
    told = translated(event, json.loads(payload))
    if event == "SessionStart" and has_just_begun(session, str(told.get("source"))):
        return  # the agent reads our hooks twice: in its own settings and in Claude's
    out, sys.stdout = sys.stdout, io.StringIO()
    try:
        hook.run(session, told, call_of(session, agent))
    finally:
        out, sys.stdout = sys.stdout, out
    text = answered(agent, event, out.getvalue())
    if text:
        print(text)


def has_just_begun(session: Session, source: str) -> bool:
    before, at = session.load().data.get("begun") or ("", 0)
    session.change(lambda one: one.data.update({"begun": (source, session.begun)}))
    return bool(before == source and session.begun - at < TWICE_S)


def call_of(session: Session, agent: str) -> list[str]:
    """Return the assignment to put before the agent's dibs commands, so that they belong to the
    same session: its shells may lack the id that its hooks receive."""
    name, value = client.AGENTS[agent], "" if client.agent_id() else session.heard
    return [f"{name}={passing.quoted(value)}"] if value else []


def translated(event: str, payload: Json) -> Json:
    """Translate a payload to Claude's form."""
    found = {FIELDS.get(name, name): value for name, value in payload.items()}
    found["hook_event_name"] = event
    given = found.get("tool_input")
    if isinstance(given, str):
        given = parsed(given)
    given = given if isinstance(given, dict) else {}
    roots = found.get("workspace_roots")
    if isinstance(roots, list) and roots and not found.get("cwd"):
        found["cwd"] = roots[0]
    if found.get("source") == "new":
        found["source"] = "startup"
    tool = found.get("tool_name")
    if isinstance(tool, str):
        found["tool_name"], found["tool_input"] = tool_of(tool, given)
        folder = given.get("directory") or given.get("dir_path") or given.get("working_directory")
        if isinstance(folder, str) and found["tool_name"] == "Bash":
            found["cwd"] = os.path.join(str(found.get("cwd") or ""), folder)
    return found


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {}


def tool_of(tool: str, given: Json) -> tuple[str, Json]:
    """Return (name, input) of a tool in Claude's terms."""
    if tool in SHELLS or tool == "Bash":
        return "Bash", dict(given, command=given.get("command") or "")
    if tool in EDITS:
        path = next((given[name] for name in PATHS if isinstance(given.get(name), str)), None)
        return "Edit", dict(given, file_path=path)
    if tool.startswith("mcp__") or not re.search(r"[:-]|^mcp_", tool):
        return tool, given
    return "mcp__" + re.sub(r"[:-]|^mcp_", "__", tool), given  # MCP:name, server-name


def answered(agent: str, event: str, text: str) -> str:
    """Translate our output for Claude to this agent's form; return '' if it has none for it."""
    said = parsed(text) if text[:1] == "{" else {}
    said = said.get("hookSpecificOutput", {"additionalContext": text.strip()} if not said else {})
    decision, why = said.get("permissionDecision"), said.get("permissionDecisionReason", "")
    if decision == "ask" and agent not in ASKING:
        decision, why = "deny", why + ": leave it out, or ask the user to run it"
    context = said.get("additionalContext", "")
    reply = ANSWERS[agent](event, decision, why, context, said.get("updatedInput"))
    return json.dumps(reply) if reply else ""


def for_codex(event: str, decision: str, why: str, context: str, given: Json | None) -> Json:
    """Build an answer in Claude's form."""
    said: Json = {"hookEventName": event}
    if decision:
        said.update(permissionDecision=decision, permissionDecisionReason=why)
    if given:
        said["updatedInput"] = given
    if context:
        said["additionalContext"] = context
    return {"hookSpecificOutput": said} if len(said) > 1 else {}


def for_cursor(event: str, decision: str, why: str, context: str, given: Json | None) -> Json:
    if event != "PreToolUse":
        return {"additional_context": context} if context else {}
    said: Json = {"permission": decision} if decision else {}
    if decision == "deny" or context:
        said.update(user_message=why or context, agent_message=why or context)
    if given:
        said["updated_input"] = given
    # When Cursor runs the hooks of Claude's settings, it reads Claude's form.
    return dict(said, **for_codex(event, decision, why, "", given)) if said else {}


GEMINI_EVENTS = {
    "PreToolUse": "BeforeTool",
    "PostToolUse": "AfterTool",
    "UserPromptSubmit": "BeforeAgent",
    "Stop": "AfterAgent",
}


def for_gemini(event: str, decision: str, why: str, context: str, given: Json | None) -> Json:
    said: Json = {"decision": decision, "reason": why} if decision else {}
    inner: Json = {"hookEventName": GEMINI_EVENTS.get(event, event)}
    if context:
        inner["additionalContext"] = context
    if given:
        inner["tool_input"] = {"command": given["command"]}
    return dict(said, hookSpecificOutput=inner) if len(inner) > 1 else said


def for_copilot(event: str, decision: str, why: str, context: str, given: Json | None) -> Json:
    """Build an answer in Copilot's form and in Claude's, which it reads for events with Claude's
    names."""
    said: Json = {"permissionDecision": decision} if decision else {}
    if decision:
        said["permissionDecisionReason"] = why
    if given:
        said["modifiedArgs"] = given
    if context:
        said["additionalContext"] = context
    return dict(said, **for_codex(event, decision, why, context, given))


ANSWERS = {
    "codex": for_codex,
    "cursor": for_cursor,
    "gemini": for_gemini,
    "copilot": for_copilot,
}
