"""One rehearsal of the tiny camera on real services; its stack then serves the tests of faults and kills."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from observatory import Observatory

from ztfds.operations.services import stack
from ztfds.operations.services.state import load
from ztfds.simulator.rehearsal import Rehearsal, context_of


@pytest.fixture(scope="session")
def observatory() -> Iterator[Observatory]:
    """Run the rehearsal of the tiny camera; leave its services up for the tests, then stop them."""
    folder = Path(tempfile.mkdtemp(prefix="ztfds-night-"))
    folder.chmod(0o755)
    rehearsal = Rehearsal("tiny", folder / "home", print)
    try:
        summary = rehearsal.run()
        yield Observatory(rehearsal.home, context_of(load(rehearsal.home)), summary, rehearsal.plan.fields[0])
    finally:
        stack.stop(rehearsal.home)
        shutil.rmtree(folder, ignore_errors=True)
