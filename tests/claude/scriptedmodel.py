"""A model on loopback that answers with scripted steps over the messages API."""

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Step = dict[str, Any]
Asked = dict[str, Any]


def use(tool: str, **given: Any) -> Step:
    """Return a step in which the model uses a tool."""
    return {"tools": [{"name": tool, "input": given}]}


def together(*steps: Step) -> Step:
    """Return a step in which the model uses several tools at once."""
    return {"tools": [tool for step in steps for tool in step["tools"]]}


class ScriptedModel(ThreadingHTTPServer):
    """Answers each request of a conversation with its next step, and records the requests.

    A word in the prompt identifies a sub-agent's conversation; it is also the key of its steps. A
    conversation without steps left, and any other request, gets "ok".
    """

    def __init__(self, steps: Sequence[Step], subs: Mapping[str, Sequence[Step]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.steps = {"": list(steps), **{word: list(some) for word, some in subs.items()}}
        self.asked: list[Asked] = []
        self.asked_by: dict[str, list[Asked]] = {word: [] for word in self.steps}
        self.turn = threading.Lock()

    @property
    def url(self) -> str:
        """Return the URL of the model."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_step(self, body: Asked) -> tuple[Step, int]:
        """Return the next step, and the number of requests so far."""
        with self.turn:
            said = _said(body)
            who = next((word for word in self.steps if word and word in said), "")
            self.asked.append(body)
            self.asked_by[who].append(body)
            steps = self.steps[who]
            return (steps.pop(0) if steps else {"text": "ok"}), len(self.asked)

    def results(self, who: str = "") -> list[str]:
        """Return the results of the tools in order, as the last request had them."""
        return [
            json.dumps(block.get("content"))
            for message in self.asked_by[who][-1]["messages"]
            if isinstance(message["content"], list)
            for block in message["content"]
            if block["type"] == "tool_result"
        ]


def _said(body: Asked) -> str:
    """Return the first user message of a conversation, from a person or a parent agent."""
    contents = [m["content"] for m in body["messages"] if m["role"] == "user"][:1]
    blocks = (b for c in contents for b in ([{"text": c}] if isinstance(c, str) else c))
    return "\n".join(block.get("text", "") for block in blocks)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedModel

    def log_message(self, *args: Any) -> None:
        """Write nothing to stderr."""

    def do_HEAD(self) -> None:
        self._say(b"")

    def do_GET(self) -> None:
        self._say(b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        if "count_tokens" in self.path or "/v1/messages" not in self.path:
            self._say(b'{"input_tokens": 1}')
            return
        step, number = self.server.next_step(body) if body.get("tools") else ({"text": "ok"}, 0)
        events = "".join(
            f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"
            for kind, fields in _events(
                step, f"toolu_{self.server.server_port}_{number}", body["model"]
            )
        )
        with contextlib.suppress(ConnectionError):  # the agent may have been killed meanwhile
            self._say(events.encode(), "text/event-stream")

    def _say(self, data: bytes, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _events(step: Step, name: str, model: str) -> Iterator[tuple[str, dict[str, Any]]]:
    usage = {"input_tokens": 1, "output_tokens": 1}
    message: dict[str, Any] = {
        "id": f"msg_{name}",
        "type": "message",
        "role": "assistant",
        "model": model,
    }
    message |= {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    yield "message_start", {"message": message}
    for at, (block, delta) in enumerate(_blocks(step, name)):
        yield "content_block_start", {"index": at, "content_block": block}
        yield "content_block_delta", {"index": at, "delta": delta}
        yield "content_block_stop", {"index": at}
    ending = {"stop_reason": "tool_use" if "tools" in step else "end_turn", "stop_sequence": None}
    yield "message_delta", {"delta": ending, "usage": usage}
    yield "message_stop", {}


def _blocks(step: Step, name: str) -> Iterator[tuple[Step, Step]]:
    if "text" in step:
        yield {"type": "text", "text": ""}, {"type": "text_delta", "text": step["text"]}
    for at, tool in enumerate(step.get("tools", [])):
        given = {"type": "input_json_delta", "partial_json": json.dumps(tool["input"])}
        yield {"type": "tool_use", "id": f"{name}_{at}", "name": tool["name"], "input": {}}, given


@contextlib.contextmanager
def scripted_model(*steps: Step, **subs: Sequence[Step]) -> Iterator[ScriptedModel]:
    """Run a model for the length of a block."""
    model = ScriptedModel(list(steps), subs)
    threading.Thread(target=model.serve_forever, daemon=True).start()
    try:
        yield model
    finally:
        model.shutdown()
        model.server_close()
