"""What is due for source matching, counted on real products."""

from __future__ import annotations

import pytest

from ztfds.operations.day.matching import queue_due
from ztfds.registry import database as db
from ztfds.survey.errors import ConfigurationError


def test_what_has_enough_new_epochs_is_queued_once(ready):
    epochs = db.fetch_one(ready.dsn, "select count(*) as n from exposures where imgtype = 'o'")["n"]
    assert queue_due(ready, epochs + 1).line.startswith("0 of 4 fields, channels and filters are due")
    outcome = queue_due(ready, epochs)
    assert outcome.line == f"4 of 4 fields, channels and filters are due, with {4 * epochs} new epochs"
    since = db.fetch_all(ready.dsn, "select queued from matching_queue order by rcid")
    assert queue_due(ready, epochs) == outcome
    assert db.fetch_all(ready.dsn, "select queued from matching_queue order by rcid") == since, (
        "queued when it became due"
    )
    with db.transaction(ready.dsn) as cursor:
        cursor.execute("update matching_queue set matched = epochs, queued = null where mod(rcid, 4) = 0")
    assert queue_due(ready, epochs).figures["due"] == 3, "one was matched"
    with pytest.raises(ConfigurationError):
        queue_due(ready, 0)
