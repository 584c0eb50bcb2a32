"""The project of a checkout: one for all URLs of a repository, and different ones for two."""

import itertools
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.client.conftest import Make
from tests.client.parts import client

# The URLs that each host documents for one repository, and the name of its project. None: the name
# ends with a digest, and the only promise is that all URLs give one unique name.
REPOSITORIES: list[tuple[str | None, list[str]]] = [
    (
        "acme.web",
        [
            "https://github.com/Acme/Web",
            "https://github.com/acme/web.git",
            "https://github.com/acme/web.git/",
            "https://ann@github.com/acme/web.git",
            "https://ann:token@github.com:443/acme/web.git",
            "https://www.github.com/acme/web",
            "http://github.com/acme/web",
            "git://github.com/acme/web.git",
            "git@github.com:acme/web.git",
            "git@github.com:/acme/web.git",
            "github.com:acme/web",
            "ssh://git@github.com/acme/web.git",
            "ssh://git@github.com:22/acme/web.git",
            "ssh://git@ssh.github.com:443/acme/web.git",
            "git@ssh.github.com:acme/web.git",
            "[git@ssh.github.com:443]:acme/web.git",
            "git+ssh://git@github.com/acme/web.git",
            "http://local_proxy@127.0.0.1:41234/git/acme/web",
        ],
    ),
    ("acme.web.js", ["https://github.com/acme/web.js.git", "git@github.com:acme/web.js"]),
    ("acme..github", ["https://github.com/acme/.github"]),
    ("acme.web.wiki", ["https://github.com/acme/web.wiki.git"]),
    ("ann_acme.web", ["git@github.com:ann_acme/web.git"]),
    ("bob.web", ["https://github.com/bob/web"]),
    ("gist--github--com.5f0e", ["https://gist.github.com/5f0e.git", "git@gist.github.com:5f0e"]),
    ("acme--ghe--com.acme.web", ["https://acme.ghe.com/acme/web", "git@acme.ghe.com:acme/web.git"]),
    (
        "gitlab--com.acme.web",
        [
            "https://gitlab.com/acme/web.git",
            "git@gitlab.com:acme/web.git",
            "ssh://git@gitlab.com/acme/web.git",
            "ssh://git@altssh.gitlab.com:443/acme/web.git",
            "https://oauth2:token@gitlab.com/acme/web",
        ],
    ),
    (
        "gitlab--com.acme.mobile.app",
        [
            "https://gitlab.com/Acme/Mobile/App.git",
            "git@gitlab.com:acme/mobile/app.git",
        ],
    ),
    ("gitlab--com.other.mobile.app", ["https://gitlab.com/other/mobile/app.git"]),
    ("gitlab--com.acme.scm.a.b", ["https://gitlab.com/acme/scm/a/b"]),
    (
        "gitlab--example--com.acme.web",
        [
            "https://gitlab.example.com/acme/web.git",
            "https://gitlab.example.com:8443/acme/web.git",
            "ssh://git@gitlab.example.com:2222/acme/web.git",
            "git@gitlab.example.com:acme/web.git",
            "git@gitlab.example.com.:acme/web.git",
        ],
    ),
    (
        "bitbucket--org.acme.web",
        [
            "https://bitbucket.org/acme/web.git",
            "https://ann@bitbucket.org/acme/web.git",
            "git@bitbucket.org:acme/web.git",
            "ssh://git@bitbucket.org/acme/web.git",
            "ssh://git@altssh.bitbucket.org:443/acme/web.git",
        ],
    ),
    (
        "bitbucket--example--com.proj.web",
        [
            "https://bitbucket.example.com/scm/PROJ/web.git",
            "https://ann@bitbucket.example.com:8443/scm/proj/web.git",
            "https://bitbucket.example.com/context/scm/proj/web.git",
            "ssh://git@bitbucket.example.com:7999/proj/web.git",
        ],
    ),
    (
        None,
        [
            "https://bitbucket.example.com/scm/~ann/web.git",
            "ssh://git@bitbucket.example.com:7999/~ann/web.git",
        ],
    ),
    ("bitbucket--example--com.ann.web", ["ssh://git@bitbucket.example.com:7999/ann/web.git"]),
    (
        "dev--azure--com.org.proj.web",
        [
            "https://dev.azure.com/org/proj/_git/web",
            "https://org@dev.azure.com/org/proj/_git/web",
            "https://dev.azure.com/org/proj/_git/_full/web",
            "https://dev.azure.com/org/proj/_git/_optimized/web",
            "git@ssh.dev.azure.com:v3/org/proj/web",
            "ssh://git@ssh.dev.azure.com:22/v3/org/proj/web",
            "https://org.visualstudio.com/proj/_git/web",
            "https://org.visualstudio.com/DefaultCollection/proj/_git/web",
            "org@vs-ssh.visualstudio.com:v3/org/proj/web",
            "ssh://org@org.visualstudio.com:22/proj/_git/web",
            "ssh://org@org.visualstudio.com:22/DefaultCollection/proj/_ssh/web",
        ],
    ),
    (
        "dev--azure--com.org.proj.proj",
        [
            "https://dev.azure.com/org/_git/proj",
            "https://dev.azure.com/org/proj/_git/proj",
            "git@ssh.dev.azure.com:v3/org/proj/proj",
            "https://org.visualstudio.com/_git/proj",
            "https://org.visualstudio.com/DefaultCollection/_git/proj",
        ],
    ),
    ("dev--azure--com.other.proj.web", ["https://dev.azure.com/other/proj/_git/web"]),
    ("dev--azure--com.org.other.web", ["git@ssh.dev.azure.com:v3/org/other/web"]),
    (
        None,
        [
            "https://dev.azure.com/org/My%20Project/_git/My%20Web",
            "git@ssh.dev.azure.com:v3/org/My%20Project/My%20Web",
        ],
    ),
    (None, ["https://dev.azure.com/org/My-Project/_git/My%20Web"]),
    (
        "tfs--example--com.tfs.coll.proj.web",
        [
            "https://tfs.example.com/tfs/Coll/Proj/_git/web",
            "ssh://tfs.example.com:22/tfs/coll/proj/_git/web",
        ],
    ),
    (
        "tfs--example--com.tfs.coll.proj.proj",
        [
            "https://tfs.example.com/tfs/coll/_git/proj",
            "https://tfs.example.com/tfs/coll/proj/_git/proj",
        ],
    ),
    (
        "git--example--com.acme.web",  # Gitea, Forgejo
        [
            "https://git.example.com/acme/web.git",
            "https://git.example.com:3000/acme/web.git",
            "ssh://git@git.example.com:2222/acme/web.git",
            "git@git.example.com:acme/web.git",
        ],
    ),
    ("git--.acme.web", ["git@git:acme/web.git", "http://git:3000/acme/web"]),
    ("10--0--0--5.acme.web", ["http://10.0.0.5/acme/web", "git@10.0.0.5:acme/web"]),
    (
        None,
        [
            "ssh://git@[2001:db8::5]:2222/acme/web.git",
            "https://[2001:DB8::5]/acme/web",
            "git@[2001:db8::5]:acme/web.git",
        ],
    ),
    (
        None,
        ["https://git.sr.ht/~ann/web", "git@git.sr.ht:~ann/web"],
    ),
    (
        "git-codecommit--us-east-1--amazonaws--com.v1.repos.web",
        [
            "https://git-codecommit.us-east-1.amazonaws.com/v1/repos/web",
            "ssh://APKAEXAMPLE@git-codecommit.us-east-1.amazonaws.com/v1/repos/web",
            "codecommit::us-east-1://web",
            "codecommit::us-east-1://profile@web",
        ],
    ),
    (None, ["https://git.example.com/a.b/c"]),
    (None, ["https://git.example.com/a/b.c"]),
    (None, ["https://git.example.com/a/b/c-" + "x" * 100]),
    (None, ["https://git.example.com/a/b/c-" + "x" * 101]),
    (None, ["https://github.com/acme/" + "x" * 100]),
    (None, ["https://github.com/acme/" + "x" * 99]),
    (None, ["https://git--example.com/acme/web"]),
    (None, ["https://git.example.com/büro/web", "https://git.example.com/b%C3%BCro/web"]),
    (None, ["/srv/git/acme/web.git", "file:///srv/git/acme/web.git", "/srv/git/acme/web/"]),
    (None, ["/srv/other/acme/web.git", "file://localhost/srv/other/acme/web"]),
    (None, [r"C:\repos\acme\web", "c:/repos/acme/web", "file:///C:/repos/acme/web"]),
    (None, [r"D:\repos\acme\web"]),
    (None, [r"\\server\share\acme\web", "//server/share/acme/web", "file://server/share/acme/web"]),
    (None, ["file:///srv/acme/web/.git", "/srv/acme/web"]),
]
LEGAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@pytest.mark.parametrize(("name", "urls"), REPOSITORIES, ids=lambda value: str(value)[:60])
def test_all_urls_of_a_repository_are_one_project(name: str | None, urls: list[str]) -> None:
    found = {client.project_of(url) for url in urls}
    assert len(found) == 1, found
    [project] = found
    assert name in (None, project)
    assert LEGAL.fullmatch(project)
    assert name or re.search("-[0-9a-f]{8}$", project)


def test_two_repositories_are_two_projects() -> None:
    names = [client.project_of(urls[0]) for _, urls in REPOSITORIES]
    twice = [pair for pair in itertools.combinations(names, 2) if pair[0] == pair[1]]
    assert twice == []


STEP = st.text("ab.-_~é%", min_size=1, max_size=4).filter(
    lambda text: text.strip(".") and text != "~" and not text.endswith(".git") and "%" not in text
)
HOST = st.lists(st.text("ab-", min_size=1, max_size=3), min_size=1, max_size=3).map(".".join)
PLACE = st.tuples(HOST | st.just("github.com"), st.lists(STEP, min_size=1, max_size=4))


@given(PLACE, PLACE)
def test_no_two_places_share_a_project(one: Any, other: Any) -> None:
    def url(place: Any) -> str:
        return f"https://{place[0]}/{'/'.join(place[1])}"

    same = one == other
    assert (client.project_of(url(one)) == client.project_of(url(other))) == same
    if len(one[1]) > 1:  # the ssh URL gives the same project
        by_ssh = f"git@{one[0]}:{'/'.join(one[1])}.git"
        assert client.project_of(by_ssh) == client.project_of(url(one))


@given(st.text(max_size=300))
def test_whatever_a_remote_is_the_project_is_a_name_or_none(remote: str) -> None:
    project = client.project_of(remote)
    assert project == "" or LEGAL.fullmatch(project)


@pytest.mark.parametrize(
    "remote", ["work:Acme/{name}.git", "git@github.com-work:acme/{name}", "gh:acme/{name}"]
)
def test_short_forms_of_this_machine_are_no_other_project(sandbox: Make, remote: str) -> None:
    ann = sandbox(DIBS_PROJECT="")
    (ann.home / ".ssh").mkdir()
    hosts = "Host *\n  User git\nHost other work github.com-work\n  HostName github.com\n"
    (ann.home / ".ssh/config").write_text(hosts + "Match all\n  HostName nowhere\n")
    (ann.home / ".gitconfig").write_text('[url "https://github.com/"]\n\tinsteadOf = gh:\n')
    name = ann.project.partition(".")[2]
    ann.git("remote", "set-url", "origin", remote.format(name=name))
    assert ann.dibs("claim", "T-1", "--json").said(0).json["project"] == ann.project
    ann.dibs("release", "T-1").said(0)


def test_a_relative_remote_is_the_folder_that_it_leads_to(sandbox: Make) -> None:
    ann, bob = sandbox(DIBS_PROJECT=""), sandbox(DIBS_PROJECT="")
    for box in (ann, bob):
        box.git("remote", "set-url", "origin", "../web.git")
    projects = {box.dibs("claim", "T-1", "--json").said(0).json["project"] for box in (ann, bob)}
    assert len(projects) == 2
    bob.git("remote", "set-url", "origin", str(ann.folder / "web"))
    assert bob.dibs("show", "T-1", "--json").said(0).json["project"] in projects


def test_doctor_says_which_project_a_fork_is_and_how_to_share_one(sandbox: Make) -> None:
    ann = sandbox(DIBS_PROJECT="")
    assert "another project" not in ann.dibs("doctor").said(0).stdout
    ann.git("remote", "add", "upstream", "https://gitlab.com/acme/a/web.git")
    said = ann.dibs("doctor").said(0).stdout
    assert f"project {ann.project}\n" in said
    assert "the remote upstream is another project, gitlab--com.acme.a.web: if its" in said
    assert "DIBS_PROJECT or `init --project`" in said
    said = ann.dibs("doctor", DIBS_PROJECT="gitlab--com.acme.a.web").said(0).stdout
    assert f"the remote origin is another project, {ann.project}" in said
