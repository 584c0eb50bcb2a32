"""docs/protocol.md is complete, and sufficient to write a client."""

import re
from pathlib import Path

import pytest
from tests.harness import processes
from tests.harness.services import running

from dibs.acts import ACTS
from dibs.api.routes import EventsQuery
from dibs.model import Claim, Holder, Listed
from dibs.problems import TABLE
from dibs.requests import Request

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")


def test_every_problem_is_in_the_protocol_with_its_status() -> None:
    documented = dict(re.findall(r"^\| `([a-z-]+)` \| (\d{3}) \|", TEXT, re.M))
    assert documented == {problem.code: str(problem.status) for problem in TABLE}


def test_every_field_of_a_claim_is_in_the_protocol() -> None:
    example = re.search(r"```json\n(\{.*?)```", TEXT, re.S)
    assert example
    named = set(re.findall(r'"(\w+)":', example[1]))
    inner = {*Holder.__struct_fields__, *Listed.__struct_fields__}
    assert named == inner | set(Claim.__struct_fields__)


def test_every_field_of_a_request_is_in_the_protocol() -> None:
    for model in (act.request for act in ACTS if act.method == "POST"):
        for name in model.model_fields:
            assert re.search(rf"`{name}[`:]", TEXT), f"{model.__name__}.{name}"


def test_every_query_parameter_is_in_the_protocol() -> None:
    reads = [act.request for act in ACTS if act.method == "GET"]
    queries: list[type[Request]] = [*reads, EventsQuery]
    for model in queries:
        for name in model.model_fields:
            assert re.search(rf"[`?&]{name}=", TEXT), f"{model.__name__}.{name}"


@pytest.mark.long
def test_the_session_with_curl_works_as_written(tmp_path: Path) -> None:
    [script] = re.findall(r"## A whole session with curl\n\n```sh\n(.*?)```", TEXT, re.S)
    with running(tmp_path / "service") as service:
        script = script.replace("http://127.0.0.1:8080", service.url)
        script = script.replace("curl -s ", "curl -sf -w '\\n%{http_code}\\n' ")
        shell = ["bash", "-euo", "pipefail", "-c", script]
        ran = processes.run(shell, timeout=60)
    assert ran.returncode == 0, ran.stderr
    codes = re.findall(r"^\d{3}$", ran.stdout, re.M)
    assert codes == ["201", "200", "200", "200", "200"]
