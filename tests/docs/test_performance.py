"""docs/performance.md is written by hand, except for the results that `make bench` inserts."""

from pathlib import Path
from typing import Any

import pytest
from bench import report

PAGE = (Path(__file__).parents[2] / "docs" / "performance.md").read_text("utf-8")
GROWTH: list[dict[str, Any]] = [
    {"claims": claims, "rate": 9.0, "list_p50_ms": 4.0, "start_s": 1.0, "sweep_ms": 1.0}
    | {"bytes_each": 700.0}
    for claims in ("1,000", "100,000")
]


def a_run() -> dict[str, str]:
    """Return the results of a run."""
    return report.measured(
        machine="two cores",
        date="2026-11-30",
        busy=0.1,
        took_s=300.0,
        results={},
        missing=["etcd is not installed"],
        turns=[],
        scripts={"claim": "11,000/s"},
        growth=GROWTH,
        clients={"`dibs claim`": 18.0},
    )


def test_a_run_puts_its_figures_between_the_marks_and_leaves_the_rest_as_it_was() -> None:
    page = report.filled(PAGE, a_run())
    assert "two cores; load average 0.1 at the start; 300 s." in page
    assert "**Missing:** etcd is not installed" in page
    assert report.MEASURED.sub("", page) == report.MEASURED.sub("", PAGE)
    assert report.filled(page, a_run()) == page


def test_a_page_without_a_mark_is_refused_and_not_written_in_part() -> None:
    with pytest.raises(ValueError, match="marks"):
        report.filled(PAGE.replace("<!-- measured: growth -->", ""), a_run())
