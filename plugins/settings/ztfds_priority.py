"""Which exposure comes first: the newest. Airflow alone would share its slots among all of them, and finish none before the last."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

FIRST_DAY = date(2017, 1, 1).toordinal()
_NAMED = re.compile(r"ztf_(\d{8})(\d{6})(?:__.*)?")


def weight(dag_id: str, run_id: str) -> int | None:
    """Priority of the tasks of a run; None where it is that of its DAG.

    Airflow orders tasks of one weight by logical date, which runs of exposures do not have, and then by their place in the
    mapping: the first CCD of every exposure, then the second one of every exposure. With a back-log all exposures would be
    finished together, at its end. Here the weight grows by one every 0.86 s of the exposures' time, so that what was taken last is
    whole first; it is above that of all other work, and stays below 2^31 until 2075.
    """
    named = _NAMED.fullmatch(run_id) if dag_id == "exposure" else None
    if named is None:
        return None
    try:
        day = datetime.strptime(named[1], "%Y%m%d").replace(tzinfo=UTC).date().toordinal() - FIRST_DAY
    except ValueError:
        return None
    return min(2**31 - 1, max(1, day) * 100_000 + int(named[2]) // 10)
