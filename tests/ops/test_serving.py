"""`dibs serve`: start, several services over one store, stop within a time limit, and recovery."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness import processes
from tests.harness.processes import clean_environ, is_gone, until
from tests.harness.services import DIBS, Running, ServiceProcess, new_session

from dibs import app
from dibs.settings import load


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    """Start a service with its private store."""
    with Running("--data-dir", str(tmp_path / "d")) as running:
        yield running


@pytest.mark.long
def test_in_the_background_of_a_script_it_leaves_ctrl_c_to_others_and_ends_when_asked(
    tmp_path: Path,
) -> None:
    command = ["bash", "-c", "trap '' INT; exec \"$@\"", "bash", *DIBS]
    with ServiceProcess(tmp_path / "service", command=command) as service:
        os.kill(service.pid, signal.SIGINT)
        assert service.claim("T-1")[0] == 201
        # The signal mask in proc(5) also shows that SIGINT is ignored.
        ignored = Path(f"/proc/{service.pid}/status").read_text().split("SigIgn:")[1].split()[0]
        assert int(ignored, 16) & 1 << signal.SIGINT - 1
        assert service.stop() < 5
        assert service.process
        assert service.process.returncode == 0


@pytest.mark.long
def test_three_services_share_a_store_and_grant_each_task_once(tmp_path: Path) -> None:
    with Running("--data-dir", str(tmp_path / "d")) as first:
        env = {"DIBS_REDIS_URL": f"unix://{tmp_path}/d/valkey.sock"}
        with Running(env=env) as second, Running(env=env) as third:
            services = (first, second, third)
            for number in range(10):
                order = services[number % 3 :] + services[: number % 3]
                statuses = [each.claim(f"T-{number}", new_session())[0] for each in order]
                assert statuses == [201, 409, 409]
            assert third.stop() < 2
            second.kill()
            assert first.claim("T-2")[0] == 409
            assert first.claim("T-new")[0] == 201


def test_the_private_store_ends_with_the_service_that_started_it(service: Running) -> None:
    store = service.store()
    service.process.kill()
    until(lambda: is_gone(store), "the store is gone")


def test_the_private_store_is_started_again_when_it_dies(service: Running) -> None:
    session = new_session()
    fence = service.claim("T-1", session)[1]["fence"]
    os.kill(service.store(), signal.SIGKILL)

    def again() -> bool:
        status, body = service.claim("T-1", session)
        assert status in (200, 503), body
        return status == 200 and body["fence"] == fence

    until(again, "the claim is back with its fence")
    until(lambda: any("store_started_again" in line for line in service.logged), "it is logged")


@pytest.mark.long
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_within_two_seconds_with_streams_and_long_polls_open(
    service: Running, sig: int
) -> None:
    assert service.claim("T-1")[0] == 201
    streams = []
    for _ in range(10):
        stream = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
        stream.request("GET", "/v1/p/events", headers={"Accept": "text/event-stream"})
        reply = stream.getresponse()
        assert reply.status == 200
        reply.readline()
        streams.append((stream, reply))
    answers: list[tuple[int, str]] = []

    def wait_for_it() -> None:
        status, body, _ = service.ask(
            "POST", "/v1/p/claim", {"task": "T-1", "wait": 25}, new_session(), 30
        )
        answers.append((status, body["code"]))

    waiting = [threading.Thread(target=wait_for_it) for _ in range(5)]
    for thread in waiting:
        thread.start()
    until(lambda: service.metrics()["dibs_streams"] >= 15, "streams and long polls are open")
    idle = socket.create_connection(("127.0.0.1", service.port))

    took_s = service.stop(sig)

    assert service.process.returncode == 0, service.logged
    assert took_s < 2
    for thread in waiting:
        thread.join(5)
    assert answers == [(409, "held")] * 5, "a waiting claim is answered, not cut off"
    for stream, reply in streams:
        reply.read()
        stream.close()
    idle.close()


@pytest.mark.long
def test_a_service_that_ends_itself_answers_what_is_in_progress(tmp_path: Path) -> None:
    """Its store cannot start again: the log is gone."""
    with Running("--data-dir", str(tmp_path / "d")) as service:
        assert service.claim("T-1")[0] == 201
        read: list[int] = []
        waited: list[tuple[int, str]] = []

        def reads() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                while True:  # until the service no longer listens
                    read.append(service.ask("GET", "/v1/p/claims")[0])
                    time.sleep(0.1)  # below the rate limit of an address

        def waits() -> None:
            status, body = service.claim("T-1", wait=25)
            waited.append((status, body["detail"]))

        asking = [threading.Thread(target=each) for each in (reads, waits) for _ in range(6)]
        for thread in asking:
            thread.start()
        until(lambda: service.metrics()["dibs_streams"] == 6, "six wait")
        store = service.store()
        os.kill(store, signal.SIGSTOP)
        shutil.rmtree(tmp_path / "d/appendonlydir")
        os.kill(store, signal.SIGKILL)
        assert service.process.wait(20) == 1
        for thread in asking:
            thread.join(20)
        assert set(read) == {200, 503}
        assert len(waited) == 6, "a waiting claim is answered, not cut off"
        assert {status for status, _ in waited} <= {409, 503}
        assert not [detail for _, detail in waited if "is stopping" in detail], "none is cut short"
        assert "has had claims, but its log" in service.logged[-1]
        assert not any("Traceback" in line for line in service.logged)


def test_the_service_uses_nothing_that_its_framework_gives_up() -> None:
    app.build(load(), "redis://127.0.0.1:1")  # pyproject.toml turns warnings into errors


def test_the_answer_to_an_act_comes_in_one_piece(service: Running) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        for session in (new_session(), "none"):
            head = f"POST /v1/p/heartbeat HTTP/1.1\r\nHost: dibs\r\nDibs-Session: {session}\r\n"
            connection.sendall(f"{head}Content-Length: 0\r\n\r\n".encode())
            answer, _, body = connection.recv(65536).partition(b"\r\n\r\n")
            assert int(answer.lower().partition(b"content-length: ")[2].split()[0]) == len(body) > 0


def test_an_idle_service_and_its_store_need_less_than_80_mb(tmp_path: Path) -> None:
    with Running("--data-dir", str(tmp_path / "d")) as service:
        assert service.ask("GET", "/readyz")[0] == 200
        # Pss counts a page shared with other processes in proportion (proc(5)).
        used_kb = 0
        for pid in (service.pid, service.store()):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            used_kb += int(rollup.split("\nPss:")[1].split()[0])
        assert used_kb < 80_000


@pytest.mark.long
def test_it_takes_as_many_open_files_as_its_connections_need(tmp_path: Path) -> None:
    low = 'ulimit -Sn 256 && exec "$@"'
    process = processes.start(
        ["sh", "-c", low, "sh", *DIBS, "serve", "--port", "0", "--data-dir", str(tmp_path / "d")],
        env=clean_environ(),
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout
        assert " is at " in process.stdout.readline()
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        soft = next(line.split()[3] for line in limits.splitlines() if "open files" in line)
        assert int(soft) >= 2_000
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.mark.long
def test_a_port_that_is_taken_is_named_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = processes.run(
            [*DIBS, "serve", "--port", port, "--data-dir", str(tmp_path / "d")],
            env=clean_environ(),
            timeout=20,
        )
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"dibs serve: cannot listen on 127.0.0.1 port {port}")
    assert refused.stderr.count("\n") == 1


@pytest.mark.long
def test_a_store_that_is_not_there_is_one_line() -> None:
    began = time.monotonic()
    refused = processes.run(
        [*DIBS, "serve", "--port", "0"],
        env=clean_environ({"DIBS_REDIS_URL": "redis://user:hunter2hunter2@127.0.0.1:1/0"}),
        timeout=20,
    )
    assert refused.returncode == 1
    assert refused.stderr == (
        "dibs serve: redis://127.0.0.1:1: The store cannot be reached: Connection refused.\n"
    )
    assert "hunter2" not in refused.stderr + refused.stdout
    assert "Traceback" not in refused.stderr
    assert time.monotonic() - began < 10


def test_memory_without_its_package_is_one_line_that_says_what_to_install() -> None:
    hidden = (
        "import sys; sys.modules['fakeredis'] = None; import dibs.cli; sys.exit(dibs.cli.main())"
    )
    refused = processes.run(
        [sys.executable, "-c", hidden, "serve", "--port", "0", "--memory"],
        env=clean_environ(),
        timeout=30,
    )
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "pip install 'dibs[memory]'" in refused.stderr
