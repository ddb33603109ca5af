"""A database and an archive in which one CCD of the tiny camera has calibrations, reference epochs and references."""

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from embedded import administer
from tiny import deliver

from ztfds.operations import afternoon, realtime, references
from ztfds.operations.context import Context
from ztfds.survey.camera import rcid
from ztfds.survey.states import CcdState, ExposureState

CCD = 6


@dataclass(frozen=True)
class Prepared:
    """A database and an archive with calibrations, reference epochs and references of one CCD."""

    name: str
    archive: Path


def make_context(dsn, mountain, root):
    places = {"archive": root / "archive", "inbox": root / "inbox", "catalogs": mountain.root / "catalogs"}
    for folder in places.values():
        folder.mkdir(exist_ok=True, parents=True)
    context = Context.build(dsn, {**places, "camera": "tiny"})
    return replace(context, camera=replace(context.camera, ccdids=(CCD,)))


def process(context, mountain, index, **more):
    (path,) = mountain.files(index, CCD)
    deliver(context, path)
    return realtime.process_ccd(context, path.name, None, "run", **more)


@pytest.fixture(scope="session")
def prepared(postgres, mountain, tmp_path_factory):
    """Afternoon, reference epochs and references of the reference night, processed once."""
    name = "prepared_realtime"
    administer(postgres, f"create database {name} template ztfds owner ztf_owner")
    root = tmp_path_factory.mktemp("prepared")
    context = make_context(postgres.dsn("ztf_pipeline", name), mountain, root)
    for index in [i for i, e in enumerate(mountain.plan.exposures) if e.night == 0 and e.kind in "bf"]:
        assert process(context, mountain, index).state is CcdState.ingested
    made = afternoon.calibrate_ccd(context, mountain.plan.dates[0], CCD)
    assert all(m.accepted for m in made)
    for index in mountain.of_kind("o", 0):
        outcome = process(context, mountain, index)
        assert outcome.state is CcdState.calibrated and "no reference" in outcome.reason
        assert realtime.close_exposure(context, outcome.exposure) is ExposureState.calibrated
    wanted = references.wanted(context, mountain.plan.dates[0])
    assert [w["rcid"] for w in wanted] == [rcid(CCD, q) for q in (1, 2, 3, 4)]
    assert all(references.build(context, **w).status == 1 for w in wanted)
    return Prepared(name, context.archive)  # the database goes with the server


@pytest.fixture
def ready(prepared, postgres, mountain, tmp_path):
    """A copy of the prepared state, to be used up by one test."""
    name = f"ready_{next(tempfile._get_candidate_names()).lower()}"
    administer(postgres, f"create database {name} template {prepared.name} owner ztf_owner")
    shutil.copytree(prepared.archive, tmp_path / "archive")
    yield make_context(postgres.dsn("ztf_pipeline", name), mountain, tmp_path)
    administer(postgres, f"drop database {name} with (force)")
