"""The internals of uvicorn that dibs uses, and the facts about them that it relies on.

`protocol.py` and `server.py` rely on more than uvicorn's public interface, so its minor version is
pinned. A new minor version has to pass this test, and a person has to read the changes to the
methods named here.
"""

import asyncio
import inspect
import logging
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from dibs import framing
from dibs.protocol import HttpConnection
from dibs.server import Server

ROOT = Path(__file__).parents[2]
OVERRIDDEN = {
    *("connection_made", "connection_lost", "data_received", "on_header", "on_headers_complete"),
    *("on_message_complete", "on_response_complete", "shutdown"),
}
CALLED_BY_THE_PARSER = {"on_message_begin", "on_url", "on_body"}
USED = {
    *("client", "cycle", "expect_100_continue", "flow", "headers", "loop", "parser", "scope"),
    *("server_state", "timeout_keep_alive", "transport", "url"),
}
OF_A_CYCLE = {
    *("disconnected", "keep_alive", "message_event", "response_complete", "response_started"),
}


def assigned(method: object) -> set[str]:
    """Return the names of the attributes that a method assigns to `self`."""
    return set(re.findall(r"self\.(\w+)(?::[^=\n]+)? = ", inspect.getsource(method)))  # type: ignore[arg-type]


def test_the_protocol_has_all_that_is_built_on() -> None:
    protocol = httptools_impl.HttpToolsProtocol
    methods = {name for name, _ in inspect.getmembers(protocol, inspect.isfunction)}
    assert methods >= OVERRIDDEN | CALLED_BY_THE_PARSER
    assert methods | assigned(protocol.__init__) | assigned(protocol.on_message_begin) >= USED
    assert assigned(httptools_impl.RequestResponseCycle.__init__) >= OF_A_CYCLE
    assert {"pause_reading", "resume_reading"} <= set(dir(FlowControl))
    assert "write_paused" in assigned(FlowControl.__init__)


def test_it_has_no_way_of_its_own_round_what_is_overridden() -> None:
    """A new parser callback in uvicorn would bypass the limits of dibs."""
    callbacks = {name for name in dir(httptools_impl.HttpToolsProtocol) if name.startswith("on_")}
    assert callbacks == {
        *("on_message_begin", "on_url", "on_header", "on_headers_complete", "on_body"),
        *("on_message_complete", "on_response_complete"),
    }
    own = {name for name in vars(HttpConnection) if name in OVERRIDDEN}
    assert own == OVERRIDDEN


def test_nothing_else_of_its_inside_is_used() -> None:
    source = inspect.getsource(HttpConnection)
    told = set(re.findall(r"self\.(\w+)", source)) - set(vars(HttpConnection))
    assert told - {"_slots", "_metrics"} == USED
    assert set(re.findall(r"self\.cycle\.(\w+)", source)) == OF_A_CYCLE


@pytest.mark.parametrize("keep_alive", [True, False])
async def test_an_answer_at_once_is_byte_for_byte_the_one_that_it_would_send(
    keep_alive: bool,
) -> None:
    sent: list[bytes] = []
    transport = SimpleNamespace(write=sent.append, close=lambda: None)
    always, own = [(b"date", b"Mon")], [(b"content-type", b"text/x"), (b"content-length", b"2")]
    cycle = httptools_impl.RequestResponseCycle(
        scope={"method": "POST"},  # type: ignore[typeddict-item]
        transport=transport,  # type: ignore[arg-type]
        flow=SimpleNamespace(write_paused=False),  # type: ignore[arg-type]
        logger=logging.getLogger(),
        access_logger=logging.getLogger(),
        access_log=False,
        default_headers=always,
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: None,
    )
    await cycle.send({"type": "http.response.start", "status": 201, "headers": own})
    await cycle.send({"type": "http.response.body", "body": b"{}", "more_body": False})
    assert b"".join(sent) == framing.whole(201, always, own, keep_alive=keep_alive) + b"{}"


def test_no_header_of_an_answer_can_become_two() -> None:
    for text in (b"a\r\nset-cookie: b", b"a\nb", b"a\rb"):
        with pytest.raises(ValueError, match="more than one line"):
            framing.whole(200, [], [(b"x-request-id", text)], keep_alive=True)


def test_the_server_has_all_that_is_built_on() -> None:
    assert {"on_tick", "handle_exit", "capture_signals", "serve", "startup", "shutdown"} <= set(
        dir(uvicorn.Server)
    )
    assert "connections" in vars(ServerState())
    assert "should_exit" in assigned(uvicorn.Server.__init__)
    ours = set(vars(Server)) - {"__module__", "__doc__", "__init__", "__firstlineno__"}
    assert ours - {"__static_attributes__"} == {
        *("connection", "startup", "shutdown", "on_tick", "stop", "handle_exit", "capture_signals")
    }
    # uvicorn itself passes the same arguments to a connection.
    source = inspect.getsource(uvicorn.Server)
    for part in ("config=config", "server_state=self.server_state", "self.lifespan.state"):
        assert part in source
    assert "disconnected" in OF_A_CYCLE, "admission.py reads it from a request"


async def test_started_on_no_sockets_it_listens_to_nothing() -> None:
    """acceptor.py accepts all connections; a socket that uvicorn opened itself would bypass it."""
    config = uvicorn.Config(lambda *_: None, lifespan="off", log_config=None, port=1)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup([])
    assert server.started
    assert server.servers == []


def test_its_minor_version_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [wanted] = [each for each in project["dependencies"] if each.startswith("uvicorn")]
    major, minor, *_ = uvicorn.__version__.split(".")
    assert wanted == f"uvicorn>={major}.{minor},<{major}.{int(minor) + 1}"
