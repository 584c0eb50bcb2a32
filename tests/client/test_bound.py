"""Secrets from the environment go only to the host that the environment names."""

import hmac
import json
import re
import urllib.parse
import urllib.request
import uuid
from hashlib import sha256
from typing import Any

import pytest
from tests.client.conftest import CLIENT, KEY, Make, Sandbox
from tests.client.test_trust import conf, serving
from tests.harness.services import ServiceProcess

CLOUD = {"CLAUDE_CODE_REMOTE": "true", "CLAUDE_CODE_REMOTE_SESSION_ID": "cse_01AbCd"}
ROOT = CLIENT.parents[1]
COMMANDS = ["claim T-1", "beat", "park", "done T-1", "list", "show T-1", "verify T-1", "doctor"]


def place(url: str) -> str:
    """Return the host:port of a URL."""
    return urllib.parse.urlsplit(url).netloc


@pytest.mark.parametrize("given", ["key", "session", "key for another", "session for another"])
@pytest.mark.parametrize("words", COMMANDS)
def test_no_secret_goes_where_only_the_checkout_says(
    sandbox: Make, service: ServiceProcess, words: str, given: str
) -> None:
    secret = KEY if "key" in given else str(uuid.uuid4())
    value = secret + (f"@{place(service.url)}" if "another" in given else "")
    name = "DIBS_KEY" if "key" in given else "DIBS_SESSION"
    with serving({}) as (url, heard):
        ann = sandbox("", **CLOUD, **{name: value})
        conf(ann, url)
        asks_as_nobody = words == "list" and name == "DIBS_SESSION"
        answer = ann.dibs(*words.split()).said(0 if asks_as_nobody else 2)
        assert "dibs doctor` says why" in ann.hook("SessionStart", source="startup").stdout
        ann.hook("PostToolUse")
        ann.hook("Stop")
        assert secret not in "".join(heard)
        assert asks_as_nobody or heard == []
    said = answer.stdout + answer.stderr
    assert secret not in said
    remedy = f"set {name}=…@" if "another" in given else f"set DIBS_URL={url}, or {name}=…@"
    assert asks_as_nobody or remedy + place(url) in said


@pytest.mark.long
@pytest.mark.parametrize("how", ["DIBS_URL", "@host:port", "@host:port and DIBS_URL"])
def test_a_key_goes_to_the_host_that_it_is_bound_to(
    sandbox: Make, keyed: ServiceProcess, how: str
) -> None:
    key = KEY + (f"@{place(keyed.url)}" if "@" in how else "")
    ann = sandbox(keyed.url if "DIBS_URL" in how else "", DIBS_KEY=key, **CLOUD)
    conf(ann, keyed.url)
    ann.dibs("claim", "T-1").said(0)
    assert "key: accepted" in ann.dibs("doctor").said(0).stdout
    ann.dibs("release", "T-1").said(0)


def test_a_session_goes_to_the_host_that_it_is_bound_to(
    sandbox: Make, service: ServiceProcess
) -> None:
    given = str(uuid.uuid4())
    ann = sandbox("", DIBS_SESSION=f"{given}@{place(service.url)}")
    conf(ann, service.url)
    fence = ann.dibs("claim", "T-1", "--json").said(0).json["fence"]
    ann.env |= {"DIBS_URL": service.url, "DIBS_SESSION": given}
    assert ann.dibs("claim", "T-1", "--json").said(0).json["fence"] == fence


def test_a_bound_key_goes_to_no_other_host_although_dibs_url_names_it(sandbox: Make) -> None:
    with serving({}) as (url, heard):
        ann = sandbox(url, DIBS_KEY=f"{KEY}@dibs.example.org")
        assert "it is for another host" in ann.dibs("claim", "T-1").said(2).stderr
        assert heard == []


@pytest.mark.parametrize("bound_to", ["127.0.0.1", "localhost", "127.0.0.1:1", "[::1]:443"])
def test_another_port_is_another_host(sandbox: Make, keyed: ServiceProcess, bound_to: str) -> None:
    sandbox(keyed.url, DIBS_KEY=f"{KEY}@{bound_to}").dibs("claim", "T-1").said(2)


def test_a_key_with_an_at_sign_is_a_key(sandbox: Make) -> None:
    with serving({}) as (url, heard):
        sandbox(url, DIBS_KEY="team@key-of-these-tests").dibs("list").said(0)
        assert "Authorization: Bearer team@key-of-these-tests" in heard[0]


def test_a_trusted_client_in_a_strange_checkout_keeps_its_secrets(
    sandbox: Make, keyed: ServiceProcess
) -> None:
    ann = sandbox(keyed.url, DIBS_KEY=KEY, **CLOUD)
    ann.dibs("init").said(0)
    trusted = ann.repo / ".claude/skills/dibs/dibs"
    with serving({}) as (url, heard):
        bob = sandbox("", DIBS_KEY=f"{KEY}@{place(keyed.url)}", **CLOUD)
        conf(bob, url)
        bob.script = trusted
        said = bob.dibs("claim", "T-1").said(2).stderr
        assert heard == []
    assert f"dibs.conf has {url} and this client has {keyed.url}: {url} is used" in said


def test_what_dibs_conf_says_otherwise_than_the_environment_is_said(
    sandbox: Make, service: ServiceProcess
) -> None:
    ann = sandbox(service.url)
    conf(ann, "https://dibs.example.org")
    said = ann.dibs("claim", "T-1").said(0).stderr
    used = f"{service.url} is used"
    assert f"dibs.conf has https://dibs.example.org and DIBS_URL has {service.url}: {used}" in said
    assert f"dibs.conf has acme.shop and DIBS_PROJECT has {ann.env['DIBS_PROJECT']}" in said
    conf(ann, service.url).write_text(f"url = {service.url}/\n")
    assert ann.dibs("claim", "T-1").said(0).stderr == ""


def session_of(ann: Sandbox, url: str, project: str) -> str:
    """Return the secret that the client sends to a service."""
    with serving({}) as (there, heard):
        ann.env |= {"DIBS_URL": there, "DIBS_PROJECT": project}
        ann.dibs("beat")
        found = re.search(r"Dibs-Session: (\S+)", heard[0])
    ann.env["DIBS_URL"] = url
    return found[1] if found else ""


def test_a_derived_secret_is_worth_nothing_at_another_host_or_project(
    sandbox: Make, keyed: ServiceProcess
) -> None:
    ann = sandbox(keyed.url, DIBS_KEY=KEY, **CLOUD)
    project = ann.env["DIBS_PROJECT"]
    ann.dibs("claim", "T-1").said(0)
    [state] = ann.state_files()
    here = json.loads(state.read_text())["session"]
    there = session_of(ann, keyed.url, project)
    other = session_of(ann, keyed.url, "acme.other")
    assert len({here, there, other}) == 3
    ann.env["DIBS_PROJECT"] = project
    ann.forget()
    assert ann.dibs("verify", "T-1").said(0)


def older(label: str, key: str = KEY) -> str:
    """Return the secret that older clients derived."""
    digest = hmac.new(key.encode(), b"dibs-session-v1\0" + label.encode(), sha256).hexdigest()
    made = int(digest[:32], 16) & ~(0xF << 76) & ~(3 << 62) | 8 << 76 | 2 << 62
    return str(uuid.UUID(int=made))


def post(
    service: ServiceProcess, project: str, session: str, act: str, **body: object
) -> dict[str, Any]:
    """POST a call as an older client did."""
    request = urllib.request.Request(
        f"{service.url}/v1/{project}/{act}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Dibs-Session": session,
         "Authorization": f"Bearer {KEY}"},
    )  # fmt: skip
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


@pytest.mark.long
@pytest.mark.parametrize("first", ["claim T-1", "beat", "hook"])
@pytest.mark.parametrize("machine", ["kept", "replaced"])
def test_an_upgrade_loses_no_claim_of_a_derived_secret(
    sandbox: Make, keyed: ServiceProcess, machine: str, first: str
) -> None:
    ann = sandbox(keyed.url, DIBS_KEY=KEY, **CLOUD)
    project, session = ann.env["DIBS_PROJECT"], older("session_01AbCd")
    if machine == "kept":
        ann.dibs("claim", "T-0").said(0)
        [state] = ann.state_files()
        state.write_text(
            json.dumps(json.loads(state.read_text()) | {"session": session, "claims": {}})
        )
    label = "session_01AbCd"
    fence = post(keyed, project, session, "claim", task="T-1", label=label)["fence"]
    if first == "hook":
        assert "holds T-1" in ann.hook("SessionStart", source="resume").stdout
    else:
        ann.dibs(*first.split()).said(0)
    ann.dibs("verify", "T-1", "--fence", str(fence)).said(0)
    assert ann.dibs("claim", "T-1", "--json").said(0).json["fence"] == fence
    ann.dibs("done", "T-1").said(0)


def test_the_team_key_and_the_board_are_enough_to_be_a_session_that_derived_its_secret(
    sandbox: Make, keyed: ServiceProcess
) -> None:
    """SECURITY.md states this. A secret derived from anything else is as strong as a random one."""
    ann, eve = (sandbox(keyed.url, DIBS_KEY=KEY) for _ in range(2))
    claim = ann.dibs("claim", "T-1", "--json", DIBS_LABEL="ann").said(0).json
    eve.dibs("done", "T-1", DIBS_LABEL=claim["holder"]["label"]).said(0)
    ann.dibs("claim", "T-2", DIBS_LABEL="ann", DIBS_SESSION=str(uuid.uuid4())).said(0)
    eve.dibs("done", "T-2", DIBS_LABEL="ann").said(1)
    page = (ROOT / "SECURITY.md").read_text().splitlines()
    [row] = [line for line in page if line.startswith("| **the team key**")]
    assert "derived from that key" in row


def test_a_namesake_is_not_taken_for_an_older_self(sandbox: Make, keyed: ServiceProcess) -> None:
    ann = sandbox(keyed.url, DIBS_KEY=KEY, DIBS_LABEL="ann")
    other = str(uuid.uuid4())
    post(keyed, ann.env["DIBS_PROJECT"], other, "claim", task="T-1", label="ann")
    ann.dibs("claim", "T-1", "--queue").said(1)
    ann.dibs("claim", "T-2").said(0)
    [state] = ann.state_files()
    assert json.loads(state.read_text())["session"] != older("ann")
    claim = ann.dibs("show", "T-1", "--json").said(0).json
    assert claim["waiters"] == 1


def test_the_client_says_where_a_secret_may_go() -> None:
    assert "KEY@host[:port]" in CLIENT.read_text()
