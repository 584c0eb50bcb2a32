"""Twenty real Claude Code cloud sessions on one repository, eight at a time."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.claude.claude_code import DIBS, bash, claude, write
from tests.client.conftest import Sandbox

CROWD, AT_ONCE = 20, 8
# A cloud session's claim is parked when the session ends, so no later session of the crowd may find
# the task free.
pytestmark = pytest.mark.timeout(400)


def sessions(box: Sandbox, command: str) -> list[list[str]]:
    """Run a command and write a file in each session; return the results by session."""

    def session(number: int) -> list[str]:
        name = f"cse_{number:02}"
        env = {"CLAUDE_CODE_REMOTE": "true", "CLAUDE_CODE_REMOTE_SESSION_ID": name}
        return claude(box, bash(command), write(box, f"by-{number}.py"), env=env).results()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(session, range(CROWD)))


def test_twenty_sessions_share_twenty_tasks(repo: Sandbox) -> None:
    tasks = [f"T-{number}" for number in range(CROWD)]
    results = sessions(repo, f"{DIBS} claim {tasks[0]} --any {' '.join(tasks[1:])}")
    got = [next(task for task in tasks if f"{task}: held by you" in told) for told, _ in results]
    assert sorted(got) == sorted(tasks)
    assert len(list(repo.repo.glob("by-*.py"))) == CROWD


def test_of_twenty_sessions_on_one_task_each_loser_knows_and_edits_nothing(repo: Sandbox) -> None:
    results = sessions(repo, f"{DIBS} claim T-1")
    winners = [number for number, (told, _) in enumerate(results) if "T-1: held by you" in told]
    assert len(winners) == 1
    for number, (told, edited) in enumerate(results):
        if number not in winners:
            assert f"by session_{winners[0]:02}" in told, told
            assert "holds no task" in edited
    assert [path.name for path in repo.repo.glob("by-*.py")] == [f"by-{winners[0]}.py"]
