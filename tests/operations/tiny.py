"""A simulated pair of tiny nights, rendered once per session, and a context to process it in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from embedded import Database

from ztfds.operations.context import Context
from ztfds.simulator.night import write_catalogs, write_events, write_exposure
from ztfds.simulator.schedule import Plan, make_plan
from ztfds.survey.camera import get_camera

N_REFERENCE, N_SCIENCE, N_BIAS, N_FLAT = 6, 2, 5, 5


@dataclass(frozen=True)
class Mountain:
    """What was simulated: the plan, and the folders with each exposure's files, the catalogs and the truth."""

    plan: Plan
    root: Path

    def files(self, index: int, ccdid: int | None = None) -> list[Path]:
        """Raw files of one exposure."""
        found = sorted((self.root / "raw" / f"{index:03d}").glob("*.fits.fz"))
        return [path for path in found if ccdid is None or f"_c{ccdid:02d}_" in path.name]

    def of_kind(self, kind: str, night: int | None = None) -> list[int]:
        """Indices of exposures of an image type (and night)."""
        return [i for i, e in enumerate(self.plan.exposures) if e.kind == kind and (night is None or e.night == night)]


@pytest.fixture(scope="session")
def mountain(tmp_path_factory: pytest.TempPathFactory) -> Mountain:
    """Reference night and science night of the tiny camera in one filter."""
    plan = make_plan(
        get_camera("tiny"),
        "20181203",
        seed=3,
        n_fields=1,
        filter_codes=("zr",),
        n_exposures=N_SCIENCE,
        n_reference=N_REFERENCE,
        n_bias=N_BIAS,
        n_flat=N_FLAT,
    )
    root = tmp_path_factory.mktemp("mountain")
    write_catalogs(root / "catalogs", plan)
    write_events(root / "truth", plan)
    for index in range(len(plan.exposures)):
        write_exposure(root / "raw" / f"{index:03d}", plan, index, truth=root / "truth")
    return Mountain(plan, root)


@pytest.fixture
def context(database: Database, mountain: Mountain, tmp_path: Path) -> Iterator[Context]:
    """An empty archive and inbox on a fresh database."""
    places = {"archive": tmp_path / "archive", "inbox": tmp_path / "inbox", "catalogs": mountain.root / "catalogs"}
    for folder in places.values():
        folder.mkdir(exist_ok=True)
    yield Context.build(database.pipeline, {**places, "camera": "tiny"})


def deliver(context: Context, *paths: Path) -> list[str]:
    """Put files into the inbox as the transfer does: under a temporary name, then renamed; returns their names."""
    for path in paths:
        part = context.inbox / f"{path.name}.part"
        shutil.copyfile(path, part)
        part.rename(context.inbox / path.name)
    return [path.name for path in paths]
