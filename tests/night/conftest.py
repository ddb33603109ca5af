"""One rehearsal of the tiny camera on real services; its stack then serves as the sandbox of drills."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ztfds.drills.sandbox import Sandbox
from ztfds.operations.postgres import EmbeddedPostgres
from ztfds.operations.services import stack
from ztfds.registry import database
from ztfds.simulator.rehearsal import Rehearsal


@pytest.fixture(scope="session")
def observatory() -> Iterator[Sandbox]:
    """Run the rehearsal of the tiny camera; leave its services up for the tests, then stop them."""
    folder = Path(tempfile.mkdtemp(prefix="ztfds-night-"))
    folder.chmod(0o755)
    rehearsal = Rehearsal("tiny", folder / "home", print, faults=True)
    try:
        summary = rehearsal.run()
        with database.transaction(EmbeddedPostgres(rehearsal.home).dsn("ztf_operator")) as cursor:
            # Simulated nights are old: all of them would be due.
            cursor.execute("update release_policy set days = null where programid > 1")
        yield Sandbox(rehearsal.home, rehearsal.context, tuple(rehearsal.plan.fields), summary)
    finally:
        stack.stop(rehearsal.home)
        shutil.rmtree(folder, ignore_errors=True)
