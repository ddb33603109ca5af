"""Steps replaced by timed no-ops: real DAGs, states, rows and moved files, but no pixel is read and nothing is computed.

Tasks sleep where they would compute, so that two cores can carry as many of them as a site has: what is measured is the rest.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

DAGS = Path(__file__).resolve().parent.parent / "dags"
SETTINGS = "timed.json"
"""File of the home folder that says how long a quadrant takes, read by every task."""
LAST_LINES = "\n\nfrom benchmarks import timed\n\ntimed.replace_steps()\n"


def copy_dags(folder: Path) -> None:
    """Copy the real DAG files (drills apart), each with one call more at its end, which replaces the steps where tasks run."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in set(DAGS.glob("*.py")) - {DAGS / "drill.py"}:
        shutil.copy(path, folder / path.name)
        with (folder / path.name).open("a") as stream:
            stream.write(LAST_LINES)


def set_duration(home: Path, quadrant_s: float) -> None:
    """Let a quadrant take so long from the next task on [s]."""
    part = home / f"{SETTINGS}.part"
    part.write_text(json.dumps({"quadrant_s": quadrant_s}))
    part.replace(home / SETTINGS)


def replace_steps() -> None:
    """Put the no-ops in place of reading, verifying and computing, where the steps are loaded: in tasks, not in the parser."""
    if "ztfds.operations.realtime" not in sys.modules:
        return
    from ztfds.operations import realtime, receive

    receive._verified = lambda context, path: (read(path), None)  # type: ignore[assignment]
    realtime.read_raw = read  # type: ignore[assignment]
    realtime._quadrant = quadrant


def read(path: Path, shape: Any = None) -> Any:
    """What a raw file would say, from its name alone; four quadrants without pixels."""
    import numpy as np
    from astropy.io import fits

    from ztfds.formats.raw import RawCcd, RawQuadrant
    from ztfds.survey import ids
    from ztfds.survey.camera import rcid
    from ztfds.survey.fields import get
    from ztfds.survey.names import RawName

    name, none = RawName.parse(Path(path).name), np.zeros((0, 0), "u2")
    field = get(name.field)
    values = {
        "OBSJD": ids.jd_of_filefracday(name.ffd), "EXPTIME": 30.0, "PROGRMID": 1, "FIELDID": name.field, "FILTERID": name.fid,
        "CCD_ID": name.ccdid, "RAD": field.ra, "DECD": field.dec, "AIRMASS": 1.2,
    }  # fmt: skip
    header = fits.Header([("IMGTYPE", "object"), *values.items()])
    quadrants = tuple(RawQuadrant(q, rcid(name.ccdid, q), none, none, fits.Header()) for q in (1, 2, 3, 4))
    return RawCcd(header, name, quadrants)


def quadrant(context: Any, raw: Any, part: Any, row: Any, run_id: str | None, attempt: int) -> Any:
    """Sleep for as long as the quadrant takes, and note the stages that it reaches, each in a transaction of its own."""
    from ztfds.operations.realtime import Quadrant
    from ztfds.registry import exposures
    from ztfds.registry.database import transaction
    from ztfds.survey.states import CcdState

    length = json.loads((Path(context.places["home"]) / SETTINGS).read_text())["quadrant_s"]
    for stage in ("calibrated", "differenced"):
        time.sleep(length / 2)
        with transaction(context.dsn) as cursor:
            exposures.stamp(cursor, row["filename"], stage)
    return Quadrant(part.rcid, CcdState.processed)
