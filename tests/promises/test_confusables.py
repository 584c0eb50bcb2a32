"""Names that look alike are different tasks, and a session that claims one is warned."""

import pytest
from tests.conftest import Desk

from dibs import model, responses
from dibs.confusables import skeleton
from dibs.model import Project, Task
from dibs.store import Rules

P = Project("acme.shop")

ALIKE = [
    ("T-12", "t-12"),
    ("T-12", "T-012"),
    ("T-12", "T-0012"),
    ("T-0", "T-00"),
    ("#12", "12"),
    ("#12", "GH-12"),
    ("#12", "gh12"),
    ("#12", "GH #012"),
    ("#12", "issue 12"),
    ("#12", "Issues/12"),
    ("#12", "https://github.com/acme/shop/issues/12"),
    ("#12", "https://github.com/Acme/Shop/issues/12#issuecomment-9"),
    ("#12", "https://github.com/acme/shop/pull/12/files"),
    ("#12", "https://gitlab.example/acme/shop/-/issues/12"),
    ("#12", "acme/shop#12"),
    ("other/repo#7", "https://github.com/other/repo/issues/7"),
    ("ABC-12", "https://acme.atlassian.net/browse/ABC-12"),
    ("ABC-12", "https://linear.app/acme/issue/ABC-12/fix-the-login"),
    ("ABC-12", "abc-012"),
    ("T-12", "Т-12"),  # Cyrillic Te
    ("T-12", "Τ-12"),  # Greek Tau
    ("т-12", "Т-12"),  # both Cyrillic, case
    ("COPE", "СОРЕ"),  # all Cyrillic
    ("NET-1", "ΝΕΤ-1"),  # all Greek
    ("paypal", "pаypal"),
    ("T-12", "Ｔ－１２"),  # width
    ("#12", "＃１２"),
    ("T-12", "T‐12"),  # a hyphen, U+2010
    ("T-12", "T–12"),
    ("T-10", "T-1O"),
    ("T-11", "T-1l"),
    ("T-11", "T-1I"),
    ("T-1", "T-l"),
    ("T-12", "T-O12"),
    ("fix the  login", "Fix the login"),
    ("fix #12", "fix 12"),
    ("don't", "don’t"),
    ("Straße", "STRASSE"),
    ("src/Users.py", "src/users.py"),
    ("№ 5", "no 5"),
]
APART = [
    ("T-1", "T-11"),
    ("T-1", "T-2"),
    ("T-10", "T-1"),
    ("T-100", "T-10"),
    ("T-12", "T-21"),
    ("T-12", "S-12"),
    ("a/b", "a-b"),
    ("a_b", "a-b"),
    ("a.b", "a-b"),
    ("a:b", "a/b"),
    ("ab", "a b"),
    ("v1.05", "v1.5"),
    ("1.10", "1.1"),
    ("fix-login", "fix-logins"),
    ("#12", "#13"),
    ("#12", "T-12"),
    ("#12", "https://github.com/acme/api/issues/12"),
    ("#12", "acme/api#12"),
    ("#12", "https://gitlab.example/acme/shop/-/merge_requests/12"),
    ("#12", "https://example.org/12"),
    ("other/repo#7", "other/repo#8"),
    ("ABC-12", "https://acme.atlassian.net/browse/ABC-13"),
    ("resume", "résumé"),
    ("O", "Ö"),
    ("room", "rom"),
    ("modern", "modem"),
    ("fix-ui", "fix-u1"),
    ("list", "l1st"),
    ("user", "uzer"),
    ("Мир", "Мор"),
    ("任务 1", "任务 2"),
    ("任務", "任务"),
    ("a", "b"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_names_that_look_alike_have_one_skeleton(one: str, other: str) -> None:
    assert skeleton(model.task(one), P) == skeleton(model.task(other), P)


@pytest.mark.parametrize(("one", "other"), APART)
def test_names_that_differ_in_more_have_two(one: str, other: str) -> None:
    assert skeleton(model.task(one), P) != skeleton(model.task(other), P)


@pytest.mark.parametrize(
    "task", ["T-12", "src/api/users.py", "Fix the login", "a" * 200, "A-1 B_2 (3)", "feat: x!"]
)
def test_an_ordinary_name_is_its_own_skeleton_in_lower_case(task: str) -> None:
    assert skeleton(Task(task), P) == task.lower()


def test_a_project_without_an_owner_has_one_tracker() -> None:
    url = Task("https://github.com/o/r/issues/12")
    assert skeleton(url, Project("web")) == skeleton(Task("#12"), Project("web"))


def test_a_project_that_names_its_host_has_the_issues_of_its_repository() -> None:
    project, path = Project("gitlab--com.acme.mobile.app"), "gitlab.com/acme/mobile/app"
    twelve = skeleton(Task("#12"), project)
    assert skeleton(Task(f"https://{path}/-/issues/12"), project) == twelve
    assert skeleton(Task("https://gitlab.com/acme/app/-/issues/12"), project) != twelve


@pytest.mark.parametrize(("one", "other"), ALIKE[:4] + ALIKE[10:11] + ALIKE[19:21])
async def test_a_new_name_that_resembles_one_in_use_says_so(
    desk: Desk, one: str, other: str
) -> None:
    other = other.replace("acme/shop", desk.project.replace(".", "/"))
    first = await desk.granted(desk.ann, one)
    second = await desk.granted(desk.bob, other)
    assert (first.resembles, second.resembles) == ((), (one,))
    assert second.fence > first.fence


async def test_a_retry_of_the_claim_is_told_again(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-12")
    for _ in range(2):
        assert (await desk.granted(desk.bob, "t-12", request="r")).resembles == ("T-12",)


async def test_a_name_that_was_claimed_before_is_not_new(desk: Desk) -> None:
    await desk.granted(desk.ann, "t-12")
    await desk.release(desk.ann, "t-12")
    await desk.granted(desk.bob, "T-12")
    assert (await desk.granted(desk.cat, "t-12")).resembles == ()


async def test_names_that_nobody_has_any_more_are_not_told_and_finished_ones_are(
    desk: Desk,
) -> None:
    for task, outcome in (("T-1", "released"), ("t-1", "done"), ("T-01", "abandoned")):
        await desk.granted(desk.ann, task)
        await desk.release(desk.ann, task, outcome=outcome)
    assert (await desk.granted(desk.bob, "t-01")).resembles == ("t-1",)


async def test_all_of_several_are_told_each_its_own(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1")
    outcome = await desk.claim(desk.bob, "t-1", "T-2", "t-2", mode="all")
    assert [claim.resembles for claim in outcome.claims] == [("T-1",), (), ("T-2",)]


SHORT = Rules(retention_ms=60_000, rate_per_session=0, rate_per_project=0)


@pytest.mark.parametrize("rules", [SHORT])
async def test_what_is_forgotten_leaves_nothing(desk: Desk) -> None:
    tasks = ["T-12", "t-12", "#7", "Т-12", "plain"]
    for task in tasks:
        await desk.granted(desk.ann, task, ttl_s=10)
    assert len([f for f in await _meta(desk) if f.startswith("~")]) == 3
    await desk.release(desk.ann, None)
    await desk.pass_time(desk.store.rules.retention_ms / 1000 + 20)
    while (await desk.store.sweep(desk.project))[0]:
        pass
    assert [f for f in await _meta(desk) if f.startswith("~")] == []
    assert (await desk.granted(desk.bob, "T-12")).resembles == ()


async def test_a_damaged_record_takes_its_likeness_with_it_when_it_is_forgotten(
    desk: Desk,
) -> None:
    await desk.granted(desk.ann, "#7")
    record = f"dibs:{{{desk.project}}}:task:#7"
    kept = await desk.store.link.command("GET", record)
    await desk.store.link.command("SET", record, kept[:-9])
    await desk.break_("#7", 1, reason="damaged")
    assert [f for f in await _meta(desk) if f.startswith("~")] == []


async def _meta(desk: Desk) -> list[str]:
    found = await desk.store.link.command("HGETALL", f"dibs:{{{desk.project}}}:meta")
    return list(found) if isinstance(found, dict) else list(found[::2])


async def test_however_many_names_look_alike_a_few_are_kept(desk: Desk) -> None:
    for zeros in range(20):
        claim = await desk.granted(desk.ann, f"T-{'0' * zeros}1")
        assert len(claim.resembles) == min(zeros, 8)
    fields = await desk.store.link.command("HGET", f"dibs:{{{desk.project}}}:meta", "~t-1")
    assert len(fields.split("\n")) == 8


async def test_on_the_wire_it_is_there_only_where_it_says_something(desk: Desk) -> None:
    first = await desk.granted(desk.ann, "T-12")
    second = await desk.granted(desk.bob, "t-12")
    assert "resembles" not in responses.builtin(first)
    assert b"resembles" not in responses.encode(first)
    assert responses.builtin(second)["resembles"] == ("T-12",)
    assert list(responses.builtin(second))[:-1] == list(responses.builtin(first))
    assert "held (resembles T-12)" in responses.table([first, second])


async def test_a_long_name_does_not_make_the_table_wide(desk: Desk) -> None:
    await desk.granted(desk.ann, "a" * 200)
    claim = await desk.granted(desk.bob, "A" * 200)
    assert f'resembles "{"a" * 39}…")' in responses.table([claim])


async def test_a_claim_that_is_not_granted_leaves_no_name(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-12")
    await desk.claim(desk.bob, "T-12", "t-12", mode="all")
    assert (await desk.granted(desk.cat, "T-012")).resembles == ("T-12",)


async def test_a_record_of_before_has_no_likeness_and_is_known_by_it_once_it_is_claimed(
    desk: Desk,
) -> None:
    await desk.granted(desk.ann, "T-12")
    await desk.store.link.command("HDEL", f"dibs:{{{desk.project}}}:meta", "~t-12")
    assert (await desk.granted(desk.bob, "t-12")).resembles == ()
    await desk.release(desk.ann, "T-12")
    await desk.granted(desk.ann, "T-12")
    assert (await desk.granted(desk.cat, "T-012")).resembles == ("t-12", "T-12")
