"""A machine that tries to break the contract: any act, at any moment, with any fault, in any order.

It drives a real store under a frozen clock and compares every answer, record, index and event with
the model (tests/proofs/reference_model.py). `make prove` runs it for a given time.
"""

import os
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.harness import acting
from tests.proofs.records import HELD
from tests.proofs.rig import INSTANTS, FrozenServer, Rig

from dibs.acts import POSTS

TASKS = ("T-1", "T/2 #x", "T:3", "T.4")
CASES = int(os.environ.get("DIBS_PROOF_CASES", "0"))
"""The number of random cases; by default the same 80 each time."""
SHORT_CASES = 12
"""Cases with `--short`: the same few each time, which need not meet everything."""
PHASES = [Phase.generate] if os.environ.get("DIBS_PROOF_SHRINK") == "0" else list(Phase)
STEPS = int(os.environ.get("DIBS_PROOF_STEPS", "50"))

PRS = tuple(f"https://example.org/pull/{number}" for number in range(3))
who = st.integers(0, 3)
task = st.sampled_from(TASKS)
ttl = st.sampled_from([None, None, 10, 20, 30, 60])
note = st.sampled_from(["", "", "half done", 'é\n"quote"'])
fences = st.sampled_from(["none", "none", "right", "right", "before", "after"])
instant = st.sampled_from(INSTANTS)
entry = st.fixed_dictionaries(
    {"task": task},
    optional={
        "title": st.sampled_from(["", "one", "two"]),
        "priority": st.sampled_from([0, 2, 4]),
        "needs": st.lists(task, max_size=2, unique=True),
        "tags": st.lists(st.sampled_from(["web", "api"]), max_size=2, unique=True),
        "max_attempts": st.sampled_from([1, 2]),
        "drop": st.sampled_from([None, None, True]),
    },
)


class Contract(RuleBasedStateMachine):
    """Sessions, tasks, and everything that may happen to them."""

    server: FrozenServer

    @initialize(restarts=st.sampled_from([0, 0, 1, 2]))
    def begin(self, restarts: int) -> None:
        self.rig = Rig(self.server)
        self.restarts = restarts
        self.again: Any = None

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.rig.close()

    def fence(self, task: str | None, kind: str) -> int | None:
        tenure = self.rig.model.tasks.get(task or "")
        if kind == "none" or not tenure:
            return None if kind == "none" else 1
        if kind == "before":
            return tenure.previous.fence if tenure.previous else tenure.fence - 1
        return tenure.fence + (kind == "after")

    def do(self, act: Any, *args: Any, **wish: Any) -> None:
        wish = {key: value for key, value in wish.items() if value is not None}
        rig = self.rig
        people = (rig.break_, rig.hold, rig.unhold, rig.retry, rig.resolve)
        if act not in people:
            wish["request"] = f"r{self.rig.model.fence}-{len(self.rig.model.events)}-{id(wish)}"
        self.again = (act, args, wish)
        act(*args, **wish)

    @rule(
        who=who,
        task=task,
        ttl=ttl,
        note=note,
        queue=st.booleans(),
        reopen=st.booleans(),
        face=st.sampled_from([{}, {}, {"branch": "feat/one"}, {"branch": "b", "pr": PRS[0]}]),
    )
    def claim(
        self,
        who: int,
        task: str,
        ttl: int | None,
        note: str,
        queue: bool,
        reopen: bool,
        face: dict[str, str],
    ) -> None:
        wish = {"ttl_s": ttl, "note": note, "queue": queue, "reopen": reopen, **face}
        self.do(self.rig.claim, who, task, **wish)

    @rule(
        who=who,
        tasks=st.permutations(TASKS),
        count=st.integers(1, 4),
        mode=st.sampled_from(["any", "any", "all"]),
        reopen=st.booleans(),
        queue=st.booleans(),
    )
    def claim_several(
        self, who: int, tasks: list[str], count: int, mode: str, reopen: bool, queue: bool
    ) -> None:
        waits = queue and mode == "any"
        self.do(self.rig.claim, who, *tasks[:count], mode=mode, reopen=reopen, queue=waits)

    @rule(
        who=who,
        task=st.one_of(task, st.none()),
        fence=fences,
        ttl=ttl,
        state=st.sampled_from(["", "", "working", "parked"]),
        note=note,
    )
    def heartbeat(
        self, who: int, task: str | None, fence: str, ttl: int | None, state: str, note: str
    ) -> None:
        number = self.fence(task, fence) if task else None
        self.do(self.rig.beat, who, task, number, ttl_s=ttl, state=state, note=note)

    @rule(
        who=who,
        task=st.one_of(task, task, task, st.none()),
        fence=fences,
        outcome=st.sampled_from(["released", "abandoned", "done"]),
        note=note,
    )
    def release(self, who: int, task: str | None, fence: str, outcome: str, note: str) -> None:
        number = self.fence(task, fence) if task else None
        self.do(self.rig.release, who, task, number, outcome=outcome, note=note)

    @rule(task=task, state=st.sampled_from(["", "working", "parked", "released", "done", "done"]))
    def holder_acts(self, task: str, state: str) -> None:
        """Act as the holder, with the right fence."""
        tenure = self.rig.model.tasks.get(task)
        if tenure:
            who = self.rig.who(tenure.owner)
            if state in ("released", "done"):
                self.do(self.rig.release, who, task, tenure.fence, outcome=state)
            else:
                self.do(self.rig.beat, who, task, tenure.fence, state=state)

    @rule(who=who, entries=st.lists(entry, min_size=1, max_size=3, unique_by=lambda e: e["task"]))
    def write(self, who: int, entries: list[dict[str, Any]]) -> None:
        kept = [{name: v for name, v in each.items() if v is not None} for each in entries]
        for each in kept:
            if each["task"] in each.get("needs", ()):  # the service refuses that before the store
                each["needs"] = [need for need in each["needs"] if need != each["task"]]
        self.do(self.rig.write, who, *kept)

    @rule(who=who, ttl=ttl, reopen=st.booleans())
    def next(self, who: int, ttl: int | None, reopen: bool) -> None:
        self.do(self.rig.next, who, ttl_s=ttl, reopen=reopen)

    @rule(task=task)
    def somebody_finishes(self, task: str) -> None:
        tenure = self.rig.model.tasks.get(task)
        if tenure:
            who = self.rig.who(tenure.owner)
            self.do(self.rig.release, who, task, tenure.fence, outcome="done")

    @rule(who=who, task=task)
    def somebody_queues(self, who: int, task: str) -> None:
        self.do(self.rig.claim, who, task, queue=True)

    @rule(task=task)
    def everybody_queues(self, task: str) -> None:
        for who in range(len(self.rig.sessions)):
            self.do(self.rig.claim, who, task, queue=True)

    @rule(task=task)
    def somebody_comes_before_the_head_of_a_queue(self, task: str) -> None:
        self.everything_goes_on()
        for who in range(3):
            self.do(self.rig.claim, who, task, queue=who == 1, reopen=True)
        for who in (0, 2):
            self.do(self.rig.release, who, task)
        self.do(self.rig.claim, 2, task)

    @rule(task=task, fence=fences, hold=st.sampled_from([False, False, True]))
    def break_(self, task: str, fence: str, hold: bool) -> None:
        number = self.fence(task, fence) or self.fence(task, "right")
        self.do(self.rig.break_, task, number, hold=hold)

    @rule(who=who, task=task, hold=st.booleans())
    def somebody_is_broken(self, who: int, task: str, hold: bool) -> None:
        self.everything_goes_on()
        self.do(self.rig.claim, who, task, reopen=True)
        self.do(self.rig.break_, task, self.fence(task, "right") or 1, hold=hold)
        self.do(self.rig.beat, who, task)

    @rule(task=st.sampled_from([*TASKS, *TASKS, None]), until=st.sampled_from([5, 5, 20, None]))
    def hold(self, task: str | None, until: int | None) -> None:
        self.do(self.rig.hold, task, until)

    @rule(task=st.sampled_from([*TASKS, None]))
    def unhold(self, task: str | None) -> None:
        self.do(self.rig.unhold, task)

    @rule()
    def everything_goes_on(self) -> None:
        self.rig.fill(on=False)
        self.rig.closed = ""
        for task in list(self.rig.model.holds):
            self.do(self.rig.unhold, task or None)

    @rule(task=task, fence=fences)
    def retry(self, task: str, fence: str) -> None:
        self.do(self.rig.retry, task, self.fence(task, fence))

    @rule(task=task, again=st.booleans())
    def holder_opens_a_pull_request(self, task: str, again: bool) -> None:
        tenure = self.rig.model.tasks.get(task)
        if tenure:
            who, pr = self.rig.who(tenure.owner), PRS[TASKS.index(task) // 2 + again]
            self.do(self.rig.beat, who, task, tenure.fence, state="review", pr=pr)

    @rule(who=who, two=st.permutations(TASKS), outcome=st.sampled_from(["merged", "rejected"]))
    def two_are_on_one_branch(self, who: int, two: list[str], outcome: str) -> None:
        self.everything_goes_on()
        for task in two[:2]:
            self.do(self.rig.claim, who, task, branch="feat/both", reopen=True)
        self.do(self.rig.resolve, outcome, branch="feat/both")

    @rule(who=who, task=task, outcome=st.sampled_from(["merged", "rejected"]))
    def somebody_waits_for_the_verdict(self, who: int, task: str, outcome: str) -> None:
        self.everything_goes_on()
        pr = PRS[TASKS.index(task) // 2]
        self.do(self.rig.claim, who, task, reopen=True)
        self.do(self.rig.beat, who, task, None, state="review", pr=pr)
        self.do(self.rig.claim, (who + 1) % 4, task)
        self.do(self.rig.resolve, outcome, pr=pr)

    @rule(
        way=st.sampled_from(["task", "pr", "pr", "branch", "both"]),
        task=task,
        fence=fences,
        outcome=st.sampled_from(["merged", "rejected", "rejected", "opened"]),
    )
    def resolve(self, way: str, task: str, fence: str, outcome: str) -> None:
        tenure = self.rig.model.tasks.get(task)
        given = {"task": task}
        if way == "pr":
            given = {"pr": (tenure.pr if tenure else "") or PRS[0]}
        elif way == "branch":
            given = {"branch": (tenure.branch if tenure else "") or "feat/one"}
        elif way == "both":
            given["pr"] = PRS[TASKS.index(task) // 2]
        number = self.fence(task, fence) if "task" in given else None
        self.do(self.rig.resolve, outcome, fence=number, **given)

    @rule(task=task, who=who, outcome=st.sampled_from(["abandoned", "abandoned", "released"]))
    def somebody_gives_up(self, task: str, who: int, outcome: str) -> None:
        for _ in range(2):
            self.do(self.rig.claim, who, task)
            self.do(self.rig.release, who, task, outcome=outcome)

    @precondition(lambda self: self.rig.model.failed())
    @rule()
    def what_failed_is_retried(self) -> None:
        for task in self.rig.model.failed():
            self.do(self.rig.retry, task, None)

    @rule()
    def two_wait_for_people(self) -> None:
        self.everything_goes_on()
        for who, task in enumerate(TASKS[:2]):
            self.do(self.rig.claim, who, task, reopen=True)
            self.do(self.rig.beat, who, None, state="parked")
        self.do(self.rig.write, 0, {"task": TASKS[2], "needs": []})
        self.do(self.rig.next, 3, reopen=True)

    @rule(who=who, other=who, task=task)
    def somebody_fails_until_it_is_failed(self, who: int, other: int, task: str) -> None:
        self.everything_goes_on()
        for _ in range(3):
            self.do(self.rig.claim, who, task)
            self.do(self.rig.release, who, task, outcome="abandoned")
        self.do(self.rig.claim, other, task)

    @rule(who=who, two=st.permutations(TASKS))
    def a_need_is_done_and_taken_up_again(self, who: int, two: list[str]) -> None:
        self.everything_goes_on()
        need, task = two[:2]
        self.do(self.rig.write, who, {"task": task, "needs": [need]}, {"task": need, "needs": []})
        self.do(self.rig.claim, who, need, reopen=True)
        self.do(self.rig.release, who, need, outcome="done")
        self.do(self.rig.claim, who, need, reopen=True)

    @rule(who=who, task=task, other=task)
    def what_was_listed_is_dropped(self, who: int, task: str, other: str) -> None:
        self.everything_goes_on()
        needs = [task] if other != task else []
        self.do(self.rig.write, who, {"task": task, "needs": []})
        self.do(self.rig.write, who, {"task": other, "needs": needs})
        self.do(self.rig.write, who, {"task": task, "drop": True})

    @rule(who=who, two=st.permutations(TASKS))
    def two_need_each_other(self, who: int, two: list[str]) -> None:
        self.everything_goes_on()
        for task, need in (two[:2], two[1::-1]):
            self.do(self.rig.write, who, {"task": task, "needs": [need]})

    @rule(who=who, task=task)
    def somebody_wants_what_is_kept_back(self, who: int, task: str) -> None:
        self.everything_goes_on()
        self.do(self.rig.hold, task, 20)
        self.do(self.rig.claim, who, task, reopen=True)
        self.do(self.rig.next, who)

    @rule(who=who)
    def one_session_wants_more_than_its_share(self, who: int) -> None:
        self.everything_goes_on()
        for task in TASKS:
            self.do(self.rig.claim, who, task, reopen=True)

    @rule(task=task, who=who)
    def holder_comes_back_after_another_took_over(self, task: str, who: int) -> None:
        tenure = self.rig.model.tasks.get(task)
        if tenure and tenure.state in HELD:
            holder = self.rig.who(tenure.owner)
            self.everything_goes_on()
            self.rig.pass_until(task, "grace", 1)
            self.do(self.rig.claim, (holder + 1 + who % 3) % 4, task, reopen=True)
            self.do(self.rig.beat, holder, task, tenure.fence)

    @rule(task=task, off=st.sampled_from([-1, 1]))
    def holder_names_another_fence(self, task: str, off: int) -> None:
        tenure = self.rig.model.tasks.get(task)
        if tenure:
            self.do(self.rig.beat, self.rig.who(tenure.owner), task, max(1, tenure.fence + off))

    @rule()
    def everybody_parks(self) -> None:
        for who in range(len(self.rig.sessions)):
            self.do(self.rig.beat, who, None, state="parked")
        self.do(self.rig.next, 3)

    @rule(task=task, who=st.one_of(who, st.none()))
    def show(self, task: str, who: int | None) -> None:
        self.rig.show(task, who)

    @precondition(lambda self: self.again)
    @rule()
    def ask_again(self) -> None:
        """Repeat the last request: its first answer may have been lost."""
        act, args, wish = self.again
        act(*args, **wish)

    @rule(ms=st.sampled_from([1, 999, 1_000, 2_500, 4_999, 5_001, 9_000, 16_000, 31_000]))
    def time_passes(self, ms: int) -> None:
        self.rig.pass_time(ms)

    @rule(task=task, instant=instant, off=st.sampled_from([-1, 0, 1]))
    def time_passes_until(self, task: str, instant: str, off: int) -> None:
        """Let time pass to the instant of a change, or to a millisecond before or after it."""
        if self.rig.model.tasks.get(task):
            self.rig.pass_until(task, instant, off)

    @rule(task=task, who=who)
    def somebody_claims_in_grace(self, task: str, who: int) -> None:
        if self.rig.model.tasks.get(task):
            self.rig.pass_until(task, "grace", -1)
            self.do(self.rig.claim, who, task)

    @rule(ms=st.sampled_from([1, 400, 5_000, 5_001, 25_000, 600_000, -1, -400, -6_000, -600_000]))
    def clock_steps(self, ms: int) -> None:
        self.rig.jump(ms)

    @rule()
    def sweep(self) -> None:
        self.rig.sweep()

    @rule()
    def scripts_are_flushed(self) -> None:
        self.rig.server.flush_scripts()

    @rule()
    def functions_are_flushed(self) -> None:
        self.rig.server.flush_functions()

    @rule(what=st.sampled_from(["lose_request", "lose_reply"]), times=st.sampled_from([1, 1, 2, 3]))
    def messages_are_lost(self, what: str, times: int) -> None:
        setattr(self.rig.link, what, times)

    @rule(task=task, whose=st.lists(who, min_size=1, max_size=3), ends=st.booleans())
    def others_have_it_between_two_tries(self, task: str, whose: list[int], ends: bool) -> None:
        tenure = self.rig.model.tasks.get(task)
        self.rig.others_have_it_between_two_tries(task, whose)
        if tenure:
            holder = self.rig.who(tenure.owner)
            act = self.rig.release if ends else self.rig.beat
            self.do(act, holder, task, tenure.fence)

    @rule(full=st.booleans())
    def store_fills(self, full: bool) -> None:
        self.rig.fill(on=full)

    @rule(who=who, task=task)
    def somebody_claims_in_a_full_store(self, who: int, task: str) -> None:
        self.everything_goes_on()
        for each in range(len(self.rig.sessions)):
            self.do(self.rig.release, each, task)
        self.rig.fill(on=True)
        self.do(self.rig.claim, who, task, reopen=True)
        self.rig.fill(on=False)

    @rule(why=st.sampled_from(["", "", "There is no room."]))
    def doors_close(self, why: str) -> None:
        self.rig.closed = why

    @rule()
    def service_restarts(self) -> None:
        self.rig.restart_service()

    @precondition(lambda self: self.restarts)
    @rule(who=who, task=task, ms=st.sampled_from([1, 1_000, 9_000]))
    def store_is_killed(self, who: int, task: str, ms: int) -> None:
        self.restarts -= 1
        self.do(self.rig.claim, who, task)
        self.rig.pass_time(ms)
        self.rig.restart()

    @precondition(lambda self: self.restarts)
    @rule(
        who=who,
        task=task,
        queue=st.booleans(),
        turns=st.one_of(st.integers(0, 6), st.integers(0, 60)),
        after=st.booleans(),
    )
    def store_is_killed_during_a_claim(
        self, who: int, task: str, queue: bool, turns: int, after: bool
    ) -> None:
        self.restarts -= 1
        rig = self.rig
        if after:  # so that it can be granted
            self.everything_goes_on()
            tenure = rig.model.tasks.get(task)
            for each in {who, rig.who(tenure.owner) if tenure else who}:
                self.do(rig.release, each, None)
        wish: dict[str, Any] = {
            "queue": queue,
            "reopen": after,
            "label": f"s{who}",
            "request": f"crash {len(rig.model.events)}",
        }
        session = rig.sessions[who]
        rig.crash_during(
            lambda: acting.claim(rig.store, rig.project, session, [task], **wish),
            turns,
            after=after,
        )


MEETS = (
    *("granted: new", "granted: mine", "full", "kept", "moved", "ended", "ended: already"),
    *(f"refused: {why}" for why in ("held", "cooling", "done", "reserved", "blocked")),
    *("refused: on-hold", "refused: failed", "failed", "retried", "on-hold", "off-hold"),
    *("held-back", "waiting", "held", "review", "rejected", "ambiguous", "unknown"),
    *("listed", "changed", "dropped", "ready", "blocked", "cycle", "nothing"),
    *(f"quota: {whose}" for whose in ("session", "project", "queue")),
    *(f"not-mine: {why}" for why in ("lost", "not-holder", "moved")),
    *("claimed", "parked", "resumed", "released", "abandoned", "done", "lapsed", "revived"),
    *("broken", "queued", "unqueued", "told of a loss", "a crash", "a crash after an act"),
    "a claim under way met an outage",
    *(f"act: {act.name}" for act in POSTS.values()),
)


def crash_in_each_way() -> None:
    """Run the crashes of each kind: the few random ones may leave a kind out."""
    machine = Contract()
    machine.begin(restarts=6)
    try:
        for turns in (1, 3, 9):
            for after in (False, True):
                machine.store_is_killed_during_a_claim(
                    who=turns % 4, task=TASKS[0], queue=False, turns=turns, after=after
                )
    finally:
        machine.teardown()


def what_few_cases_meet() -> None:
    """Run events that only some random cases meet: any change here changes how cases are drawn."""
    machine = Contract()
    machine.begin(restarts=1)
    try:
        machine.two_are_on_one_branch(who=0, two=TASKS[:2], outcome="merged")
        machine.do(machine.rig.claim, 1, TASKS[2], ttl_s=60)
        machine.time_passes(2_500)
        machine.store_is_killed(who=1, task=TASKS[3], ms=2_500)
    finally:
        machine.teardown()


@pytest.mark.timeout(0)
def test_no_history_makes_the_store_differ_from_the_contract(
    server: FrozenServer, pytestconfig: pytest.Config
) -> None:
    is_short = pytestconfig.getoption("short")
    Contract.server = server
    Rig.met.clear()  # only this test's own counts are checked
    crash_in_each_way()
    what_few_cases_meet()
    run_state_machine_as_test(
        Contract,
        settings=settings(
            max_examples=CASES or (SHORT_CASES if is_short else 60),
            derandomize=not CASES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=PHASES,
            report_multiple_bugs=False,
        ),
    )
    print(f"results of cases of up to {STEPS} steps: {dict(Rig.met.most_common())}")
    unmet = [kind for kind in MEETS if not Rig.met[kind]]
    assert is_short or not unmet, f"no case met {unmet}"
