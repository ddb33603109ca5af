"""Change control on a real database: proposal, validation, decision; settings that nobody approved do not run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ztfds.operations.context import Context
from ztfds.operations.control import changes
from ztfds.operations.pages.changes import changes_page
from ztfds.registry import database as db
from ztfds.survey.errors import ConfigurationError

FORM = {
    "purpose": "fewer false candidates", "risk": "faint transients are lost: completeness of the rehearsal", "author": "A. Scientist",
    "settings": {"difference": {"candidates": {"threshold": 5.5}}},
}  # fmt: skip
SOUND = {"alerts": 100, "scorr_width": 1.0, "problems": []}
BAD = {**SOUND, "problems": ["90 of 100 injected transients alerted"]}


@pytest.fixture
def context(database, tmp_path: Path) -> Context:
    places = {"archive": tmp_path, "inbox": tmp_path, "catalogs": tmp_path, "camera": "tiny"}
    return Context.build(database.pipeline, places)


def threshold(context: Context) -> float:
    return changes.in_force(context).config.difference.candidates.threshold


def test_the_first_settings_run_and_others_do_not_until_approved(context):
    shipped = threshold(context)
    assert shipped == context.config.difference.candidates.threshold
    upgraded = replace(context, config=changes.changed_set(context.config, {"difference": {"star_snr": 29.0}}))
    with pytest.raises(ConfigurationError, match="not approved"):
        changes.in_force(upgraded)
    assert "are approved (B. Admin)" in changes.approve_shipped(context.dsn, upgraded, "B. Admin")
    assert changes.in_force(upgraded).config.difference.star_snr == 29.0


def test_degraded_modes_need_no_approval(context):
    changes.in_force(context)
    slow = Context.build(context.dsn, {**context.places, "forced_photometry": False})
    assert not changes.in_force(slow).config.alerts.forced.enabled


def test_a_change_is_in_force_after_validation_and_approval_and_can_be_withdrawn(context):
    shipped = threshold(context)
    number, line = changes.propose(context, FORM)
    assert f"difference.candidates.threshold {shipped} → 5.5" in line
    assert threshold(context) == shipped
    with pytest.raises(ConfigurationError, match="is proposed, not validated"):
        changes.decide(context, number, True, "B. Operator")
    words = changes.note_validation(context.dsn, number, SOUND, {**SOUND, "alerts": 93})
    assert "no new problem" in words and "| alerts | 100 | 93 |" in words
    assert "in force (B. Operator)" in changes.decide(context, number, True, "B. Operator")
    assert threshold(context) == 5.5 and changes.accumulated(context.dsn) == FORM["settings"]
    with pytest.raises(ConfigurationError, match="is in force"):
        changes.decide(context, number, False, "B. Operator")
    changes.withdraw(context, number, "B. Operator", "too many were lost")
    assert threshold(context) == shipped
    page = changes_page(context.dsn)
    assert "withdrawn" in page and "too many were lost" in page and "difference.candidates.threshold" in page


def test_changes_add_up_and_are_withdrawn_in_order(context):
    changes.in_force(context)
    numbers = []
    for settings in ({"difference": {"star_snr": 25.0}}, {"difference": {"candidates": {"threshold": 5.5}}}):
        now = changes.in_force(context)
        number, _ = changes.propose(now, {**FORM, "settings": settings})
        changes.note_validation(context.dsn, number, SOUND, SOUND)
        changes.decide(now, number, True, "B. Operator")
        numbers.append(number)
    both = changes.in_force(context).config.difference
    assert (both.star_snr, both.candidates.threshold) == (25.0, 5.5)
    with pytest.raises(ConfigurationError, match="came later"):
        changes.withdraw(context, numbers[0], "B. Operator", "why not")


def test_a_rehearsal_with_new_problems_cannot_be_approved(context):
    number, _ = changes.propose(context, FORM)
    with pytest.raises(ConfigurationError, match="new problems: 90 of 100"):
        changes.note_validation(context.dsn, number, SOUND, BAD)
    with pytest.raises(ConfigurationError, match="is failed"):
        changes.decide(context, number, True, "B. Operator")
    assert "rejected" in changes.decide(context, number, False, "B. Operator")


def test_what_nobody_decided_is_rehearsed_again_and_what_was_decided_is_not(context):
    number, line = changes.propose(context, FORM, "run_1")
    assert changes.propose(context, FORM, "run_1") == (number, line), "a repeated task proposes nothing new"
    changes.begin_rehearsal(context.dsn, number)  # it dies
    assert f"change {number} is not decided, its rehearsal came to no end" in changes.leave_undecided(
        context.dsn, number
    )
    page = changes_page(context.dsn)
    assert "Rehearse again" in page and "its rehearsal came to no end" in page and "run_1" in page
    changes.begin_rehearsal(context.dsn, number)
    assert "Rehearse again" not in changes_page(context.dsn)
    with pytest.raises(ConfigurationError, match="new problems"):
        changes.note_validation(context.dsn, number, SOUND, BAD)
    assert "has new problems" in changes.leave_undecided(context.dsn, number)
    for answer in (None, "Approve"):
        changes.begin_rehearsal(context.dsn, number)
        changes.note_validation(context.dsn, number, SOUND, SOUND)
        if answer is None:
            assert "nobody answered" in changes.leave_undecided(context.dsn, number)
    changes.decide(context, number, True, "B. Operator")
    assert "Rehearse again" not in changes_page(context.dsn)
    for act in (changes.begin_rehearsal, changes.leave_undecided):
        with pytest.raises(ConfigurationError, match="is in force"):
            act(context.dsn, number)


def test_proposals_that_make_no_sense_are_refused(context):
    for change, words in (
        ({"risk": " "}, "a change needs: risk"),
        ({"settings": {}}, "nothing would change"),
        ({"settings": {"difference": {"speed": 11}}}, "no such setting: speed"),
        ({"settings": {"difference": {"star_snr": "many"}}}, "not allowed"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            changes.propose(context, {**FORM, **change})
    assert db.fetch_all(context.dsn, "select 1 from setting_changes") == []
