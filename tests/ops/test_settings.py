"""The class defines every setting once; the error for a wrong value is one line that names it.

Rule 19: closed unless opened.
"""

import re
import subprocess
from pathlib import Path
from unittest import mock

import pytest
from tests.harness import processes
from tests.harness.commands import said_by
from tests.harness.processes import clean_environ, until
from tests.harness.services import DIBS, Running, new_session

from dibs.environment import unknown_variables
from dibs.package_files import package_folder
from dibs.setting_values import duration_text, size, size_bytes
from dibs.settings import Settings, knobs, load, table

ROOT = Path(__file__).parents[2]
SECRET = "hunter2-hunter2-hunter2"


def serve(*flags: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run `dibs serve` with settings that it rejects; return its output."""
    with mock.patch("dibs.serve.run", side_effect=AssertionError("it must not start")):
        return said_by("serve", *flags, env=env)


def test_the_table_in_the_documentation_is_the_class() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    found = re.search(r"<!-- settings:[^\n]*-->\n(.*)<!-- /settings -->", page, re.S)
    assert found
    assert found[1] == table(), "regenerate it with the command above the table"


def test_a_process_that_does_not_start_says_the_same() -> None:
    ran = processes.run([*DIBS, "serve"], env=clean_environ({"DIBS_PORT": "http"}), timeout=30)
    here = serve(DIBS_PORT="http")
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, here.stdout, here.stderr)


def test_help_has_every_setting_with_its_default_and_reason() -> None:
    told = serve("--help")
    assert told.returncode == 0
    text = " ".join(told.stdout.split())
    for knob in knobs():
        assert (knob.flag or knob.variable) in text, knob
        assert " ".join(knob.about.split()) in text, knob
        if knob.flag:
            assert f"(default: {knob.default})" in text, knob


def test_help_shows_no_value_of_the_environment() -> None:
    told = serve("--help", DIBS_TEAM_KEY=SECRET, DIBS_REDIS_URL=f"redis://:{SECRET}@x/0")
    assert told.returncode == 0
    assert SECRET not in told.stdout + told.stderr


def test_the_help_of_the_command_names_what_is_run_beside_the_service() -> None:
    told = said_by("--help")
    assert told.returncode == 0
    for act in ("serve", "backup FILE", "restore FILE", "repair", "token PROJECT", "purge PROJECT"):
        assert act in told.stdout.split("Where the service runs")[1], act


def test_every_setting_says_why() -> None:
    for knob in knobs():
        assert len(knob.about) > 10, knob
    assert {knob.name for knob in knobs()} == set(Settings.model_fields)


@pytest.mark.parametrize(
    ("env", "names"),
    [
        ({"DIBS_PORT": "99999"}, ["DIBS_PORT"]),
        ({"DIBS_PORT": "http"}, ["DIBS_PORT"]),
        ({"DIBS_MAX_CONNECTIONS": "0"}, ["DIBS_MAX_CONNECTIONS"]),
        ({"DIBS_TRUSTED_PROXIES": "10.0.0.0/8,proxy.internal"}, ["DIBS_TRUSTED_PROXIES"]),
        ({"DIBS_TRUSTED_PROXIES": "10.0.0.1/8"}, ["DIBS_TRUSTED_PROXIES"]),
        ({"DIBS_TRUSTED_PROXIES": ","}, ["DIBS_TRUSTED_PROXIES"]),
        ({"DIBS_ADDRESS_HEADER": "X Forwarded"}, ["DIBS_ADDRESS_HEADER"]),
        ({"DIBS_NEW_PER_ADDRESS": "-1"}, ["DIBS_NEW_PER_ADDRESS"]),
        ({"DIBS_GRACE": "5 minutes"}, ["DIBS_GRACE"]),
        ({"DIBS_LOG_LEVEL": "loud"}, ["DIBS_LOG_LEVEL"]),
        ({"DIBS_STORE_MEMORY": "all"}, ["DIBS_STORE_MEMORY"]),
        ({"DIBS_STORE_MEMORY": "100%"}, ["DIBS_STORE_MEMORY"]),
        ({"DIBS_STORE_MEMORY": "9" * 400}, ["DIBS_STORE_MEMORY"]),
        ({"DIBS_RECORD_BYTES": "9" * 400 + "gb"}, ["DIBS_RECORD_BYTES"]),
        ({"DIBS_DISK_FREE_BYTES": "-1"}, ["DIBS_DISK_FREE_BYTES"]),
        ({"DIBS_DISK_FREE_PERCENT": "91"}, ["DIBS_DISK_FREE_PERCENT"]),
        ({"DIBS_MAX_TTL": "x", "DIBS_PORT": "-1"}, ["DIBS_MAX_TTL", "DIBS_PORT"]),
        ({"DIBS_REDIS_URL": f"mysql://u:{SECRET}@h"}, ["DIBS_REDIS_URL"]),
        ({"DIBS_REDIS_URL": f"redis://u:{SECRET}@"}, ["DIBS_REDIS_URL"]),
        ({"DIBS_REDIS_URL": f"redis://u:{SECRET}@h:port"}, ["DIBS_REDIS_URL"]),
        ({"DIBS_REDIS_URL": f"redis+sentinel://:{SECRET}@a,b"}, ["DIBS_REDIS_URL"]),
        ({"DIBS_REDIS_URL": f"redis+cluster://:{SECRET}@a/3"}, ["DIBS_REDIS_URL"]),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_setting(
    env: dict[str, str], names: list[str]
) -> None:
    refused = serve(**env)
    assert refused.returncode == 2
    assert SECRET not in refused.stdout + refused.stderr
    lines = refused.stderr.splitlines()
    assert len(lines) == len(names)
    for name in names:
        assert any(line.startswith(f"dibs serve: {name}: ") for line in lines), lines


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({"DIBS_TEAM_KEY": "short"}, "DIBS_TEAM_KEY needs 20 characters"),
        ({"DIBS_TEAM_KEY": f"{SECRET},short"}, "DIBS_TEAM_KEY needs 20 characters"),
        ({"DIBS_TEAM_KEY": SECRET, "DIBS_ADMIN_KEY": SECRET}, "have a key in common"),
        ({"DIBS_TEAM_KEY": "a" * 40}, "DIBS_TEAM_KEY is too easy to guess"),
        ({"DIBS_ADMIN_KEY": "abcabcabcabcabcabcabcabc"}, "DIBS_ADMIN_KEY is too easy to guess"),
        ({"DIBS_TEAM_KEY": "schlüssel-für-das-ganze-team"}, "characters beyond ASCII"),
        ({"DIBS_HOST": "0.0.0.0"}, "there is no DIBS_TEAM_KEY: set one"),
        ({"DIBS_HOST": "::"}, "or DIBS_OPEN=yes"),
        ({"DIBS_HOST": "0.0.0.0", "DIBS_ADMIN_KEY": SECRET}, "there is no DIBS_TEAM_KEY"),
        ({"DIBS_PUBLIC_URL": "https://dibs.example.com"}, "there is no DIBS_TEAM_KEY"),
        ({"DIBS_OPEN": "yes", "DIBS_TEAM_KEY": SECRET}, "choose one"),
        ({"DIBS_READ": "open"}, "needs a DIBS_TEAM_KEY"),
        ({"DIBS_PROJECTS": "acme.web, *"}, "'*' is not a project"),
        ({"DIBS_REPLICAS": "1"}, "name it with DIBS_REDIS_URL"),
        ({"DIBS_MEMORY": "1", "DIBS_REDIS_URL": "redis://h"}, "exclude each other"),
        ({"DIBS_DEFAULT_TTL": "5s"}, "between DIBS_MIN_TTL and DIBS_MAX_TTL"),
        ({"DIBS_MIN_TTL": "0"}, "DIBS_MIN_TTL must be at least 1s"),
        ({"DIBS_MAX_HOLD": "1h"}, "must not exceed DIBS_MAX_HOLD"),
        ({"DIBS_PARK_TTL": "1m"}, "DIBS_PARK_TTL must not be shorter"),
        ({"DIBS_TICKET": "30s"}, "DIBS_TICKET must be at least DIBS_HANDOVER"),
        ({"DIBS_RETENTION": "10s"}, "DIBS_RETENTION must not be shorter"),
        ({"DIBS_PUBLIC_URL": f"https://u:{SECRET}@h/"}, "DIBS_PUBLIC_URL must be"),
        ({"DIBS_PUBLIC_URL": "dibs.example.com"}, "DIBS_PUBLIC_URL must be"),
        ({"DIBS_PUBLIC_URL": "http://[::1", "DIBS_TEAM_KEY": SECRET}, "DIBS_PUBLIC_URL must be"),
        ({"DIBS_PUBLIC_URL": "http://[::1"}, "DIBS_PUBLIC_URL must be"),
        ({"DIBS_PUBLIC_URL": "http://h:port/"}, "DIBS_PUBLIC_URL must be"),
        ({"DIBS_PUBLIC_URL": "http://:80"}, "DIBS_PUBLIC_URL must be"),
        ({"DIBS_DATA_DIR": "/"}, "DIBS_DATA_DIR must be a directory of its own"),
    ],
)
def test_what_does_not_go_together_does_not_start(env: dict[str, str], sentence: str) -> None:
    refused = serve(**env)
    assert refused.returncode == 2
    assert sentence in refused.stderr
    assert SECRET not in refused.stdout + refused.stderr


@pytest.mark.parametrize("blank", ["", " ", "\t"])
@pytest.mark.parametrize(
    "name",
    ["DIBS_TEAM_KEY", "DIBS_ADMIN_KEY", "DIBS_REDIS_URL", "DIBS_PROJECTS", "DIBS_PUBLIC_URL"],
)
def test_a_setting_that_is_set_to_nothing_is_named_and_never_taken_for_unset(
    name: str, blank: str
) -> None:
    refused = serve(**{name: blank})
    assert refused.returncode == 2
    assert refused.stderr.count(name) == 1
    assert f"{name} is set but empty" in refused.stderr


@pytest.mark.parametrize(
    "flag", ["--redis-url", "--projects", "--data-dir", "--public-url", "--host"]
)
def test_a_flag_that_is_given_nothing_is_named_and_never_taken_for_left_out(flag: str) -> None:
    refused = serve(f"{flag}=")
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        f"dibs serve: {flag} is empty: give it a value, or leave it out"
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [("DIBS_TEAM_KEY", "has no key"), ("DIBS_PROJECTS", "names no project")],
)
def test_a_list_of_commas_is_an_empty_list_and_named(name: str, said: str) -> None:
    refused = serve(**{name: " , ,"})
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"dibs serve: {name}: is set but {said}")


def test_an_open_service_says_so_when_it_starts_and_when_it_is_asked(tmp_path: Path) -> None:
    env = {"DIBS_OPEN": "yes", "DIBS_HOST": "0.0.0.0"}
    with Running("--data-dir", str(tmp_path / "d"), env=env) as service:
        until(lambda: len(service.said) > 3, "it says what is open")
        said = "".join(service.said)
        assert "anyone who reaches this URL can claim" in said
        assert said.count("DIBS_OPEN without DIBS_PROJECTS") == 1
        assert service.ask("GET", "/readyz")[1]["open"] is True
        for page in ("/", "/p/acme.web", "/p/acme.web/t/T-1", "/p/acme.web/hold?task=T-1"):
            assert "Open service: anyone" in service.ask("GET", page)[1], page
    keyed = {"DIBS_TEAM_KEY": SECRET, "DIBS_HOST": "0.0.0.0"}
    with Running("--data-dir", str(tmp_path / "d"), env=keyed) as service:
        assert service.ask("GET", "/readyz")[1]["open"] is False


def test_a_flag_wins_over_the_environment() -> None:
    refused = serve("--port", "70000", DIBS_PORT="8080")
    assert refused.returncode == 2
    assert "DIBS_PORT" in refused.stderr


def test_a_variable_that_means_nothing_is_named(tmp_path: Path) -> None:
    env = {"DIBS_TEAMKEY": SECRET, "DIBS_KEY": "the client's"}
    with Running("--data-dir", str(tmp_path / "d"), env=env) as service:
        until(lambda: service.logged, "the warning")
        assert "DIBS_TEAMKEY is not a setting of dibs" in service.logged[0]
    assert unknown_variables(env) == ["DIBS_TEAMKEY"]


def test_what_the_client_reads_is_no_variable_that_means_nothing() -> None:
    files = [file.read_text("utf-8") for file in package_folder("client").glob("*.py")]
    read = set(re.findall(r'"(DIBS_[A-Z_]+)"|environ, (DIBS_[A-Z_]+)=', "\n".join(files)))
    names = {one or other for one, other in read} | {"DIBS_FENCE"} - {"DIBS_HOOK_LATER"}
    assert names >= {"DIBS_IDENTITY_KEY", "DIBS_TASK", "DIBS_GATE"}
    assert unknown_variables(dict.fromkeys(names - {"DIBS_HOOK_LATER"}, "x")) == []


def test_no_secret_is_said_by_a_service_that_runs(tmp_path: Path) -> None:
    env = {
        "DIBS_TEAM_KEY": SECRET,
        "DIBS_ADMIN_KEY": SECRET[::-1],
        "DIBS_REDIS_URL": f"unix://u:{SECRET}@{tmp_path}/d/valkey.sock",
        "DIBS_LOG_LEVEL": "debug",
    }
    with Running("--data-dir", str(tmp_path / "d")) as owner:
        assert owner.claim("T-1")[0] == 201
        plain = env | {"DIBS_REDIS_URL": f"unix://{tmp_path}/d/valkey.sock"}
        with Running(env=plain) as service:
            status, body, _ = service.ask("GET", "/v1/p/claims", Authorization=f"Bearer {SECRET}x")
            assert status == 401
            seen = (
                str(body) + str(service.ask("GET", "/readyz")) + str(service.ask("GET", "/metrics"))
            )
            seen += str(service.ask("POST", "/v1/p/claim", {"task": "T"}, new_session()))
            seen += Path(f"/proc/{service.pid}/cmdline").read_text()
            service.stop()
            seen += "".join(service.said + service.logged)
            assert SECRET not in seen
            assert SECRET[::-1] not in seen


def test_settings_say_no_secret() -> None:
    given = load(team_key=f"{SECRET},{SECRET}2")
    assert SECRET not in repr(given)
    assert SECRET not in str(given)


@pytest.mark.parametrize(
    ("text", "count", "shown"),
    [
        ("104857600", 100 << 20, "100mb"),
        ("100mb", 100 << 20, "100mb"),
        ("1.5GB", 3 << 29, "1536mb"),
        ("512K", 512 << 10, "512kb"),
        ("1000", 1000, "1000"),
        ("0", 0, "0"),
    ],
)
def test_a_size_is_read_as_people_write_it(text: str, count: int, shown: str) -> None:
    assert size_bytes(text) == count
    assert size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(90, "90s"), (1800, "30m"), (7200, "2h"), (0, "0s"), (86400, "24h")]
)
def test_a_span_reads_as_it_is_written(seconds: int, text: str) -> None:
    assert duration_text(seconds) == text
