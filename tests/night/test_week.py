"""A week of the tiny camera passes on real services, and nobody does anything."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ztfds.operations.services import stack
from ztfds.simulator.week import WEEK, Week, WeekScore, numbers, plans

pytestmark = [pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def passed_week() -> Iterator[WeekScore]:
    """Let the week pass once for all tests of this module."""
    folder = Path(tempfile.mkdtemp(prefix="ztfds-week-"))
    folder.chmod(0o755)
    try:
        yield Week(folder / "home", print).run()
    finally:
        stack.stop(folder / "home")
        shutil.rmtree(folder, ignore_errors=True)


def test_the_nights_follow_each_other_and_differ() -> None:
    dates = [plan.dates[0] for plan in plans()]
    assert len(set(dates)) == len(WEEK) == 7 and dates == sorted(dates)
    assert {plan.fields for plan in plans()} == {plans()[0].fields}, "on the same sky"
    assert {exposure.programid for exposure in plans()[-1].exposures} == {0}


def test_the_numbers_of_a_report_are_read_by_their_names() -> None:
    text = "Night 1\n\n  files sent                    12\n  median latency            3.4 s\n\nwhat      number\nsent      12\n"
    assert numbers(text) == {"files sent": 12, "sent": 12}


@pytest.mark.services
@pytest.mark.slow
def test_every_report_is_right_to_the_unit_and_nobody_did_anything(passed_week: WeekScore) -> None:
    assert passed_week.problems == [] and passed_week.human_actions == []
    assert {one.kind: one.problems for one in passed_week.nights} == {kind.name: [] for kind in WEEK}
    assert passed_week.passed


@pytest.mark.services
@pytest.mark.slow
def test_each_night_was_what_it_was_meant_to_be(passed_week: WeekScore) -> None:
    by_kind = {one.kind: one for one in passed_week.nights}
    assert by_kind["cloudy"].alerts == 0 and by_kind["cloudy"].states["bad"] > 0
    assert by_kind["no manifest"].announced < by_kind["no manifest"].sent
    assert by_kind["link down"].reports >= 2, "without its manifest first, then with it"
    assert by_kind["back-log"].reports >= 2, "without the file that came a night late, then with it"
    assert by_kind["ordinary"].alerts > 0 and by_kind["engineering"].alerts > 0
    assert "manifest_missing" in passed_week.alarms
