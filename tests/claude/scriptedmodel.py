"""A model on loopback that says what it was told to say, over the messages API."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Step = dict[str, Any]


def use(tool: str, **given: Any) -> Step:
    """A step in which the model uses a tool."""
    return {"tool": tool, "input": given}


class ScriptedModel(ThreadingHTTPServer):
    """Answers each main request with the next step; remembers what it was asked."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.steps, self.asked = list(steps), list[dict[str, Any]]()
        self.turn = threading.Lock()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def results(self) -> list[str]:
        """What came back from the tools, in order, as the model saw it at the end."""
        return [
            json.dumps(block.get("content"))
            for message in self.asked[-1]["messages"]
            if isinstance(message["content"], list)
            for block in message["content"]
            if block["type"] == "tool_result"
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedModel

    def log_message(self, *args: Any) -> None:
        """Say nothing on stderr."""

    def do_HEAD(self) -> None:
        self._say(b"")

    def do_GET(self) -> None:
        self._say(b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        if "count_tokens" in self.path or "/v1/messages" not in self.path:
            self._say(b'{"input_tokens": 1}')
            return
        step: Step = {"text": "ok"}
        if body.get("tools"):
            with self.server.turn:
                self.server.asked.append(body)
                step = self.server.steps.pop(0) if self.server.steps else step
        events = "".join(
            f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"
            for kind, fields in _events(step, f"toolu_{len(self.server.asked)}", body["model"])
        )
        self._say(events.encode(), "text/event-stream")

    def _say(self, data: bytes, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _events(step: Step, name: str, model: str) -> Iterator[tuple[str, dict[str, Any]]]:
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": f"msg_{name}", "type": "message", "role": "assistant", "model": model}
    message |= {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    if "text" in step:
        block, stop = {"type": "text", "text": ""}, "end_turn"
        delta = {"type": "text_delta", "text": step["text"]}
    else:
        block = {"type": "tool_use", "id": name, "name": step["tool"], "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(step["input"])}
        stop = "tool_use"
    yield "message_start", {"message": message}
    yield "content_block_start", {"index": 0, "content_block": block}
    yield "content_block_delta", {"index": 0, "delta": delta}
    yield "content_block_stop", {"index": 0}
    ending = {"stop_reason": stop, "stop_sequence": None}
    yield "message_delta", {"delta": ending, "usage": usage}
    yield "message_stop", {}


@contextlib.contextmanager
def scripted_model(*steps: Step) -> Iterator[ScriptedModel]:
    """A model for the length of a block."""
    model = ScriptedModel(list(steps))
    threading.Thread(target=model.serve_forever, daemon=True).start()
    try:
        yield model
    finally:
        model.shutdown()
        model.server_close()
