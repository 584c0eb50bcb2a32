"""Every fault outside the client ends in one clear line and the right exit code."""

import contextlib
import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from fnmatch import fnmatch

import pytest
from tests.client.conftest import KEY, Make, Sandbox
from tests.harness import processes
from tests.harness.services import ServiceProcess

from dibs import __version__


@contextlib.contextmanager
def answering(*replies: bytes) -> Iterator[str]:
    """Run a server that answers with `replies` in turn, then repeats the last one."""
    left = list(replies)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    with peer:
                        peer.recv(65536)
                        peer.sendall(left.pop(0) if len(left) > 1 else left[0])

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        serving.join(5)


def http(
    body: str, status: str = "200 OK", kind: str = "application/json", more: str = ""
) -> bytes:
    """Return a whole HTTP reply as bytes."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}"
    return f"{head}Content-Length: {len(body.encode())}\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        (http("<html>Welcome</html>", kind="text/html"), "not from dibs"),
        (http("<html>oops</html>", "502 Bad Gateway", "text/html"), "not from dibs"),
        (http("<h1>no</h1>", "404 Not Found", "text/html"), "not from dibs"),
        (http("", "302 Found", more="Location: https://login.example.org/\r\n"), "login.example"),
        (http('{"task": "T-1"')[:-5], "cut short"),
        (http("x" * 100)[:40], "cut short"),
        (http('["not", "an", "object"]'), "not from dibs"),
        (http('{"task": "T-1"}'), "not from dibs"),
        (http("not json"), "not from dibs"),
        (http("", "204 No Content"), "not from dibs"),
        (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a"', "cut short"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "cut short"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (b"\x00\xff\x00\xff", "not HTTP"),
        (b"", "not HTTP"),
    ],
)
def test_an_answer_that_is_not_from_dibs_is_unknown(sandbox: Make, reply: bytes, word: str) -> None:
    with answering(reply) as url:
        answer = sandbox(url).dibs("claim", "T-1").said(3)
    assert answer.stdout == ""
    assert answer.stderr.count("\n") == 1
    assert word in answer.stderr


def test_who_waits_reads_once_what_for(sandbox: Make) -> None:
    held = {"title": "-", "detail": "T-1 is held by ann.", "code": "held", "retry_after": 1,
            "claim": {"fence": 5, "state": "held", "holder": {"label": "ann"}}}  # fmt: skip
    other = held | {"detail": "T-1 is held by eve.", "claim": {"fence": 6, "state": "held"}}
    refusals = [http(json.dumps(one), "409 Conflict") for one in (held, held, other)]
    with answering(*refusals) as url:
        said = sandbox(url).dibs("claim", "T-1", "--wait", "4s").said(1).stderr.splitlines()
    ann, eve = "dibs: T-1 is held by ann.", "dibs: T-1 is held by eve."
    assert said == [ann, eve, eve]  # the last line gives the reason why the wait ended


def test_nobody_there_is_unknown(sandbox: Make) -> None:
    assert "not reached" in sandbox("http://127.0.0.1:1").dibs("claim", "T-1").said(3).stderr


def test_a_name_that_does_not_resolve_is_unknown(sandbox: Make) -> None:
    ann = sandbox("https://dibs.invalid")
    assert "dibs.invalid was not reached" in ann.dibs("claim", "T-1").said(3).stderr


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("", "no service is set"),
        ("http://dibs.example.org", "must be https"),
        ("http://127.0.0.1.example.org", "must be https"),
        ("ftp://dibs.example.org", "is not like https"),
        ("dibs.example.org", "is not like https"),
        ("https://", "is not like https"),
        ("https://dibs.example.org:port", "is not like https"),
        ("https://dibs.example.org/?a=b", "is not like https"),
        ("__DIBS_URL__", "is not like https"),
    ],
)
def test_a_bad_url_is_a_usage_error(sandbox: Make, url: str, word: str) -> None:
    answer = sandbox(url).dibs("claim", "T-1").said(2)
    assert word in answer.stderr
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        "bogus",
        "",
        "claim",
        "claim T-1 --frobnicate",
        "verify T --fence x",
        "claim T --wait soon",
        "run T",
    ],
)
def test_a_wrong_command_line_is_a_usage_error(sandbox: Make, words: str) -> None:
    answer = sandbox().dibs(*words.split()).said(2)
    assert answer.stdout == ""
    assert "dibs --help" in answer.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "name a command"),
        ("bogus", "bogus is not a command"),
        ("claim", "claim needs a TASK, and takes 32 at most"),
        ("done", "done needs one TASK"),
        ("done T-1 T-2", "done needs one TASK"),
        ("beat T-1 T-2", "beat takes one TASK at most"),
        ("list T-1", "list takes no words besides its flags"),
        ("run T-1", "run needs a TASK and a command, as: dibs run TASK -- make test"),
        ("import", "import needs a FILE"),
        ("verify T --fence x", "--fence needs a whole number, not x"),
        ("claim T --wait 10d", "--wait needs a time like 90s, 10m or 2h, not 10d"),
        ("watch --every -1", "--every needs a number of seconds, a day at most, not -1"),
        ("watch --every inf", "--every needs a number of seconds, a day at most, not inf"),
        ("claim a --any b --all", "--any takes the first free task"),
    ],
)
def test_what_is_wrong_with_a_command_line_is_said_in_its_own_words(
    sandbox: Make, words: str, said: str
) -> None:
    assert f"dibs: {said}" in sandbox().dibs(*words.split()).said(2).stderr


def test_the_client_says_the_version_of_the_service_that_it_belongs_to(sandbox: Make) -> None:
    assert sandbox("").dibs("--version").said(0).stdout == f"dibs {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ("claim", ""),
        ("claim", "x" * 201),
        ("claim", " blank"),
        ("claim", "T\x1b[31m"),
        ("claim", "T-1", "--ttl", "5x"),
        ("claim", "T-1", "--ttl", "25h"),
        ("claim", "T-1", "--note", "n" * 1001),
        ("release",),
    ],
)
def test_a_bad_value_is_a_usage_error_that_names_it(sandbox: Make, words: tuple[str, ...]) -> None:
    answer = sandbox().dibs(*words).said(2)
    assert answer.stdout == ""
    assert answer.stderr.count("\n") == 1


def test_a_task_that_is_not_unicode_is_refused(sandbox: Make) -> None:
    ann = sandbox()
    command = [*ann.command("claim"), os.fsdecode(b"\xff\xfe")]
    done = processes.run(command, cwd=ann.repo, env=ann.env)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_a_wrong_key_is_a_settings_error(keyed: ServiceProcess, sandbox: Make) -> None:
    ann = sandbox(keyed.url)
    remedy = f"Set DIBS_KEY=<the team key>@{keyed.url.partition('//')[2]}\n"
    assert ann.dibs("claim", "T-1").said(2).stderr == f"dibs: The team key is missing. {remedy}"
    wrong = ann.dibs("claim", "T-1", DIBS_KEY="not-the-key-of-these-tests").said(2).stderr
    assert wrong == f"dibs: The team key is not one of this service's. {remedy}"
    ann.dibs("claim", "T-1", DIBS_KEY="not-the-key-of-these-tests").said(2)
    ann.dibs("list", DIBS_KEY="not-the-key-of-these-tests").said(2)
    ann.dibs("claim", "T-1", DIBS_KEY=KEY).said(0)


def test_a_placeholder_key_is_no_key(service: ServiceProcess, sandbox: Make) -> None:
    sandbox(DIBS_KEY="proxy-injected").dibs("claim", "T-1").said(0)


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", '{"claims": 5, "lost": []}', '{"claims": {"T": {}}, "lost": []}',
     '{"claims": {}, "lost": [5]}', '{"claims": {}, "lost": [], "session": 7}', "\x00" * 50,
     *(f'{{"claims": {{}}, "lost": [], {field}}}' for field in (
         '"unreachable_at": "now"', '"parked_at": []', '"warned_at": {}', '"stopped_at": []',
         '"hooks": ["Stop"]', '"hooks": {"Stop": "now"}',
         '"begun": ["startup"]', '"begun": ["startup", "now"]'))],
)  # fmt: skip
def test_a_damaged_state_file_counts_as_none(sandbox: Make, text: str) -> None:
    ann = sandbox()
    ann.dibs("claim", "T-1").said(0)
    [state] = ann.state_files()
    state.write_text(text)
    answer = ann.dibs("claim", "T-2").said(0)
    assert "is damaged" in answer.stderr
    assert "is damaged" not in ann.dibs("claim", "T-2").said(0).stderr
    state.write_text(text)
    ann.hook("PreToolUse", tool_name="Bash", tool_input={"command": "git push"})


def test_what_an_upgrade_leaves_is_no_damaged_state_file(sandbox: Make) -> None:
    """An older client stored no secret in its state file if DIBS_SESSION was set."""
    named = {"DIBS_SESSION": str(uuid.uuid4()), "CLAUDE_CODE_SESSION_ID": "c0ffee"}
    ann = sandbox(**named)
    ann.dibs("claim", "T-1").said(0)
    [state] = ann.state_files()
    kept = json.loads(state.read_text())
    del kept["session"], kept["from"]
    state.write_text(json.dumps(kept))
    ann.dibs("claim", "T-1").said(1)  # it is now another session with the same name
    assert "is damaged" not in ann.dibs("beat").stderr


def test_a_home_that_cannot_be_written_is_named(sandbox: Make) -> None:
    ann = sandbox(XDG_STATE_HOME="/proc/nothing")
    answer = ann.dibs("claim", "T-1").said(2)
    assert "XDG_STATE_HOME" in answer.stderr
    ann.dibs("list").said(0)
    ann.hook("PostToolUse")


def test_a_state_file_in_the_way_is_named(sandbox: Make) -> None:
    ann = sandbox()
    ann.dibs("claim", "T-1").said(0)
    [state] = ann.state_files()
    state.unlink()
    state.mkdir()
    assert str(state) in ann.dibs("claim", "T-1").said(2).stderr


def without_git(ann: Sandbox) -> Sandbox:
    """Return the same machine, in a directory outside any repository."""
    ann.repo = ann.home
    return ann


def test_no_repository_needs_a_project(sandbox: Make) -> None:
    ann = without_git(sandbox(DIBS_PROJECT=""))
    assert "DIBS_PROJECT" in ann.dibs("claim", "T-1").said(2).stderr


def test_no_repository_is_fine_with_a_project(sandbox: Make) -> None:
    without_git(sandbox()).dibs("claim", "T-1").said(0)


def test_a_working_directory_that_is_gone_is_fine_with_a_project(sandbox: Make) -> None:
    ann = sandbox()
    gone = ann.folder / "gone"
    gone.mkdir()
    command = f'cd "{gone}" && rmdir "{gone}" && exec "$@"'
    shell = ["sh", "-c", command, "sh", *ann.command("claim", "T-1")]
    done = processes.run(shell, env=ann.env)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


@pytest.mark.parametrize(
    ("remote", "project"),
    [
        ("git@github.com:Acme/Shop.git", "acme.shop"),
        ("ssh://git@github.com:22/acme/shop", "acme.shop"),
        ("https://user:token@github.com/acme/shop.git/", "acme.shop"),
        ("http://local_proxy@127.0.0.1:41234/git/acme/shop", "acme.shop"),
        ("https://gitlab.example.org/group/sub/shop.git", "gitlab--example--org.group.sub.shop"),
        ("/srv/git/shop.git", "file--.git.shop-"),
        ("../shop", "file--.*.shop-"),
        (r"C:\work\acme\shop", "file--.acme.shop-"),
        ("file:///srv/acme/sh%C3%B6p", "file--.acme.sh-p-"),
        ("https://example.org/~ann/my shop.git", "example--org.-ann.my-shop-"),
    ],
)
def test_odd_remotes_give_a_project_that_the_service_takes(
    sandbox: Make, remote: str, project: str
) -> None:
    ann = sandbox(DIBS_PROJECT="")
    ann.git("remote", "set-url", "origin", remote)
    claim = ann.dibs("claim", ann.folder.name, "--json").said(0).json
    assert fnmatch(claim["project"], f"{project}*" if project[-1] == "-" else project)
    ann.dibs("release", claim["task"]).said(0)


@pytest.mark.parametrize("config", ["", "\x00\xff", "[remote", '[remote "origin"]\n', "[a]\nurl=b"])
def test_a_git_config_without_a_remote_needs_a_project(sandbox: Make, config: str) -> None:
    ann = sandbox(DIBS_PROJECT="")
    (ann.repo / ".git/config").write_text(config)
    assert "DIBS_PROJECT" in ann.dibs("claim", "T-1").said(2).stderr


def test_streams_that_are_closed_do_no_harm(sandbox: Make) -> None:
    ann = sandbox()
    closing = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *ann.command("claim", "T-1")]
    assert processes.run(closing, cwd=ann.repo, env=ann.env).returncode == 0
    closing[-2:] = ["hook"]
    assert processes.run(closing, cwd=ann.repo, env=ann.env).returncode == 0


@pytest.mark.parametrize("words", ["watch", "--help"])
def test_a_reader_that_leaves_does_no_harm(sandbox: Make, words: str) -> None:
    ann = sandbox()
    ann.dibs("claim", "T-1").said(0)
    piped = ["sh", "-c", '"$@" | true', "sh", *ann.command(words)]
    done = processes.run(piped, cwd=ann.repo, env=ann.env, timeout=30)
    assert "Traceback" not in done.stderr


def test_a_clock_that_is_off_by_a_day_decides_nothing(sandbox: Make) -> None:
    faketime = """
import runpy, sys, time
real, skew = time.time, float(sys.argv[1])
time.time = lambda: real() + skew
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    ann = sandbox()
    for skew in ("-86400", "86400"):
        for words in (("claim", "T-1"), ("verify", "T-1"), ("beat",)):
            command = ann.command(*words)
            done = processes.run(
                [command[0], "-c", faketime, skew, *command[1:]],
                cwd=ann.repo,
                env=ann.env,
            )
            assert done.returncode == 0, done.stderr
