"""A small step for tests of the runner; run as a program it kills itself at a named point."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from pydantic import Field

from ztfds.config.base import NON_CRITICAL, StepConfig
from ztfds.registry import database as db
from ztfds.registry import exposures
from ztfds.registry.products import Parent, Step, Subject
from ztfds.registry.runner import Executed, OutputFile, Outputs, Runner

STEP = Step("double", "1")
EXPOSURE = "ztf_20181202300000"
SUBJECT = Subject("double/ztf_20181202300000/rcid20", exposure=EXPOSURE, nid=700, field=600, fid=1, rcid=20)


class DoubleConfig(StepConfig):
    """Settings of the step."""

    factor: float = Field(2.0, description="what to multiply by")
    words: str = Field("", description="for the log", json_schema_extra=NON_CRITICAL)


def prepare(dsn: str) -> None:
    """The exposure that the products are of."""
    values = {"exposure": EXPOSURE, "nid": 700, "field": 600, "filtercode": "zg", "imgtype": "o", "obsjd": 2458454.8}
    with db.transaction(dsn) as cursor:
        exposures.register_exposure(cursor, {**values, "fid": 1, "expected": 1})


def outputs(value: float) -> Outputs:
    """Two files, a metric, and a row of another table."""

    def register(cursor, made):
        cursor.execute("insert into object_names values (%s, 0, 0, 0, 0, %s, 2018)", (f"v{made.version}", made.version))

    return Outputs(
        files=[
            OutputFile("number", lambda v: _place("number.txt", v), lambda path: path.write_text(str(value))),
            OutputFile("square", lambda v: _place("square.txt", v), lambda path: path.write_text(str(value**2))),
        ],
        qa={"value": value, "unknown": float("nan")},
        meta={"seeing": 2.0},
        register=register,
    )


def _place(name: str, version: int) -> str:
    return f"sci/{name}" if version == 1 else f"sci/v{version:03d}/{name}"


def run(
    dsn: str, archive: Path, *, factor: float = 2.0, words: str = "", parents: tuple[Parent, ...] = (), fault=None
) -> Executed[float]:
    """Execute the step on the number 21."""
    runner = Runner(dsn, archive, run_id="test", attempt=2, **({"fault": fault} if fault else {}))
    config = DoubleConfig(factor=factor, words=words)
    return runner.execute(STEP, SUBJECT, parents, config, lambda: 21 * config.factor, outputs)


def killer(point: str):
    """A fault injector that kills this process at one point."""

    def fault(reached: str) -> None:
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    return fault


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), fault=killer(f"double:{sys.argv[3]}"))
