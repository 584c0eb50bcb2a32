"""The parts of `make bench` that use dibs' internals still run; the whole takes minutes."""

import shutil

import pytest
from bench import client, growth
from tests.harness.needs import lacking

pytestmark = pytest.mark.long


def test_the_scripts_alone_are_measured() -> None:
    if not shutil.which("redis-benchmark"):
        lacking("redis-benchmark is not installed")
    rates = growth.raw_scripts()
    assert list(rates) == ["claim", "heartbeat"]
    assert all(" p99 " in said for said in rates.values())


def test_the_processes_of_the_client_are_measured() -> None:
    times = client.measure(print, rounds=2)
    assert {"`dibs claim`", "`python3 dibs.py claim`", "`dibs beat`"} < set(times)
