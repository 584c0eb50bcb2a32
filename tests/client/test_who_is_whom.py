"""The secrets that make a caller a session: one test for each row of the table in SECURITY.md."""

import json
import uuid

import pytest
from tests.client.conftest import KEY, Make, Sandbox
from tests.client.test_bound import place
from tests.client.test_trust import conf, serving
from tests.harness.services import ServiceProcess

ANN = {"CLAUDE_CODE_REMOTE_SESSION_ID": "cse_ann"}
BOB = {"CLAUDE_CODE_REMOTE_SESSION_ID": "cse_bob"}
MINE = "a-key-that-only-ann-has"


def is_same(one: Sandbox, other: Sandbox, task: str = "T-1") -> bool:
    """Return whether `other` is the session that has claimed a task as `one`."""
    one.dibs("claim", task).said(0)
    code = other.dibs("verify", task).returncode
    assert code == (0 if other.dibs("release", task).returncode == 0 else 1)
    one.dibs("release", task)
    return code == 0


def test_a_random_secret_is_nobody_elses(sandbox: Make) -> None:
    assert not is_same(sandbox(**ANN), sandbox(**ANN))


def test_the_team_key_and_the_board_are_enough_to_be_a_session_of_that_key(
    sandbox: Make, keyed: ServiceProcess
) -> None:
    ann = sandbox(keyed.url, DIBS_KEY=KEY, **ANN)
    seen = ann.dibs("claim", "T-0", "--json").said(0).json["holder"]["label"]
    ann.dibs("release", "T-0").said(0)
    assert is_same(ann, sandbox(keyed.url, DIBS_KEY=KEY, DIBS_LABEL=seen))


def test_an_identity_key_is_not_made_up_for_by_the_team_key(
    sandbox: Make, keyed: ServiceProcess
) -> None:
    keys = {"DIBS_KEY": KEY, "DIBS_IDENTITY_KEY": MINE}
    ann = sandbox(keyed.url, **keys, **ANN)
    assert not is_same(ann, sandbox(keyed.url, DIBS_KEY=KEY, **ANN))
    other = keys | {"DIBS_IDENTITY_KEY": "a-key-of-another"}
    assert not is_same(ann, sandbox(keyed.url, **other, **ANN))
    assert is_same(ann, sandbox(keyed.url, **keys, **ANN))


def test_two_agents_of_an_environment_with_a_session_are_two(sandbox: Make) -> None:
    shared = {"DIBS_SESSION": str(uuid.uuid4())}
    ann = sandbox(**shared, **ANN)
    assert not is_same(ann, sandbox(**shared, **BOB))
    assert is_same(ann, sandbox(**shared, **ANN))
    assert not is_same(ann, sandbox(DIBS_SESSION=str(uuid.uuid4()), **ANN))


def test_a_session_as_it_is_belongs_to_who_has_it(sandbox: Make) -> None:
    shared = {"DIBS_SESSION": str(uuid.uuid4())}
    assert is_same(sandbox(**shared), sandbox(**shared))
    assert not is_same(sandbox(**shared), sandbox(**shared, **ANN))


@pytest.mark.parametrize("with_", ["nothing", "key", "session"])
def test_a_sub_agent_is_neither_its_parent_nor_its_sister(
    sandbox: Make, keyed: ServiceProcess, with_: str
) -> None:
    given = {"key": {"DIBS_KEY": KEY}, "session": {"DIBS_SESSION": str(uuid.uuid4())}}
    env = {"DIBS_KEY": KEY, **given.get(with_, {})}
    ann = sandbox(
        keyed.url,
        **(env if with_ != "nothing" else {"DIBS_KEY": KEY, "DIBS_IDENTITY_KEY": MINE}),
        **ANN,
    )
    refs = {
        ann.dibs("claim", f"T-{number}", *words, "--json").said(0).json["holder"]["ref"]
        for number, words in enumerate([[], ["--as", "a"], ["--as", "b"], ["--as", "a/b"]])
    }
    assert len(refs) == 4
    ann.dibs("release", "T-1", "--as", "b").said(1)
    ann.dibs("release", "T-0", "--as", "a").said(1)
    for words in ([], ["--as", "a"], ["--as", "b"], ["--as", "a/b"]):
        ann.dibs("release", "--all", *words).said(0)


def test_nothing_is_made_with_an_identity_key_for_a_host_that_only_a_checkout_names(
    sandbox: Make,
) -> None:
    with serving({}) as (url, heard):
        ann = sandbox("", DIBS_IDENTITY_KEY=MINE, **ANN)
        conf(ann, url)
        said = ann.dibs("claim", "T-1").said(2).stderr
        assert f"DIBS_IDENTITY_KEY was not used for {place(url)}: the environment does not" in said
        ann.env["DIBS_IDENTITY_KEY"] = f"{MINE}@dibs.example.org"
        ann.dibs("claim", "T-1").said(2)
        assert heard == []
        ann.env["DIBS_IDENTITY_KEY"] = f"{MINE}@{place(url)}"
        ann.dibs("claim", "T-1")
        assert heard
        assert MINE not in "".join(heard)


def test_an_upgrade_of_an_environment_with_a_session_loses_no_claim(
    sandbox: Make, service: ServiceProcess
) -> None:
    """Claims under the plain secret keep their holder; later claims belong to each agent alone."""
    shared = {"DIBS_SESSION": str(uuid.uuid4())}
    before = sandbox(**shared, DIBS_LABEL="session_ann")
    fence = before.dibs("claim", "T-1", "--json").said(0).json["fence"]
    for machine in (sandbox(**shared, **ANN), sandbox(**shared, **ANN)):
        assert machine.dibs("claim", "T-1", "--json").said(0).json["fence"] == fence
        assert "holds T-1" in machine.hook("SessionStart", source="resume").stdout
    bob = sandbox(**shared, **BOB)
    bob.dibs("claim", "T-1").said(1)
    bob.dibs("claim", "T-2").said(0)
    assert "T-2" not in before.dibs("list", "--mine").said(0).stdout


def test_a_state_file_of_the_version_before_keeps_its_claims(sandbox: Make) -> None:
    shared = {"DIBS_SESSION": str(uuid.uuid4())}
    ann = sandbox(**shared, **ANN)
    ann.dibs("claim", "T-9").said(0)
    [path] = ann.state_files()
    ann.dibs("release", "T-9").said(0)
    plain = sandbox(**shared, DIBS_LABEL="as-before")
    plain.dibs("claim", "T-1").said(0)
    kept = json.loads(plain.state_files()[0].read_text())
    path.write_text(json.dumps({"claims": kept["claims"], "lost": []}))
    ann.dibs("claim", "T-2").said(0)
    ann.dibs("verify", "T-1").said(0)
    assert "as it is, until the claims made with it end" in ann.dibs("doctor").said(0).stdout
    ann.dibs("release", "--all").said(0)
    ann.dibs("claim", "T-3").said(0)
    plain.dibs("release", "T-3").said(1)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({}, "none yet, the first claim makes a random one"),
        (
            {"DIBS_SESSION": "3f2b8c1e-6d4a-4f0b-9a7e-2c5d8e1f0a3b"},
            "DIBS_SESSION as it is: anyone with",
        ),
        ({"DIBS_SESSION": "3f2b8c1e-6d4a-4f0b-9a7e-2c5d8e1f0a3b", **ANN}, "other agents with it"),
        ({"DIBS_KEY": KEY, **ANN}, "all with the team key can derive it"),
        ({"DIBS_IDENTITY_KEY": MINE, **ANN}, "only those with that key can derive it"),
    ],
)
def test_doctor_says_what_the_secret_is_made_of_and_who_can_have_the_same(
    sandbox: Make, env: dict[str, str], words: str
) -> None:
    assert words in sandbox(**env).dibs("doctor").said(0).stdout


def test_doctor_says_what_a_cloud_session_without_a_key_will_lose(sandbox: Make) -> None:
    remote = {"CLAUDE_CODE_REMOTE": "true", **ANN}
    ann = sandbox(**remote)
    ann.dibs("claim", "T-1").said(0)
    said = ann.dibs("doctor").said(0).stdout
    assert "random, in the state file: nobody else has it" in said
    assert "set DIBS_KEY or DIBS_IDENTITY_KEY=<a key>@127.0.0.1:" in said
    assert "replaced" not in ann.dibs("doctor", DIBS_IDENTITY_KEY=MINE).said(0).stdout
