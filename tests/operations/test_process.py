"""`ztfds process` on raw files and catalogs that somebody else made, and what may be wrong with such folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import stranger
from astropy.io import fits

from ztfds.formats.alerts import read_packets
from ztfds.operations import process
from ztfds.operations.epochs import first_epochs
from ztfds.survey.errors import ConfigurationError

pytestmark = pytest.mark.services


@dataclass(frozen=True)
class Processed:
    """A stranger's folders, and what the first run over them said."""

    raw: Path
    catalogs: Path
    out: Path
    status: int
    lines: list[str]
    summary: dict


@pytest.fixture(scope="module")
def processed(tmp_path_factory: pytest.TempPathFactory) -> Processed:
    root = tmp_path_factory.mktemp("stranger")
    maker = stranger.Maker(root / "raw")
    maker.calibrations()
    for k in range(stranger.N_EPOCHS):
        maker.epoch(k)
    stranger.write_catalogs(root / "catalogs", maker.sky, maker.rng)
    lines: list[str] = []
    status = process.main(root / "raw", root / "catalogs", root / "out", lines.append, workers=2)
    summary = json.loads((root / "out" / "summary.json").read_text())
    return Processed(root / "raw", root / "catalogs", root / "out", status, lines, summary)


def alerts(out: Path) -> list[dict]:
    """All packets below a folder."""
    return [read_packets(path)[0] for path in sorted((out / "alerts").rglob("*.avro"))]


def snapshot(out: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything that was made for good."""
    return {
        str(path.relative_to(out)): (path.stat().st_size, path.stat().st_mtime_ns)
        for folder in ("archive/raw", "archive/sci", "archive/cal", "archive/ref", "alerts")
        for path in (out / folder).rglob("*")
        if path.is_file()
    }


def test_everything_comes_to_a_good_end(processed: Processed) -> None:
    files = stranger.N_BIAS + stranger.N_FLAT + stranger.N_EPOCHS
    assert processed.summary["problems"] == []
    assert processed.status == 0
    assert {name: processed.summary[name] for name in ("sent", "received", "processed", "archived")} == dict.fromkeys(
        ("sent", "received", "processed", "archived"), files
    )
    assert (processed.summary["quarantined"], processed.summary["lost"]) == (0, 0)
    assert processed.summary["exposures"] == files
    assert Path(processed.summary["report"]).is_file()
    assert processed.summary["cpu_s_per_quadrant"] > 0


def test_the_transient_is_alerted_in_both_epochs(processed: Processed) -> None:
    sky = stranger.wcs_of(stranger.TRANSIENT_QUADRANT)
    ra, dec = sky.all_pix2world(*stranger.TRANSIENT_XY, 0)
    found = []
    for packet in alerts(processed.out):
        row = packet["candidate"]
        off = np.hypot((row["ra"] - ra) * np.cos(np.radians(dec)), row["dec"] - dec) * 3600
        if off < 1.0:
            found.append(packet)
    assert len(found) == stranger.N_NEW
    assert len({packet["objectId"] for packet in found}) == 1
    assert len({packet["candidate"]["jd"] for packet in found}) == stranger.N_NEW
    for packet in found:
        assert packet["candidate"]["magpsf"] == pytest.approx(stranger.TRANSIENT_MAG, abs=0.15)
        assert packet["candidate"]["isdiffpos"] == "t"
    assert processed.summary["alerts"] == len(alerts(processed.out))


def test_nearly_nothing_else_is_alerted(processed: Processed) -> None:
    assert len(alerts(processed.out)) <= 2 * stranger.N_NEW + 2


def test_running_again_changes_nothing(processed: Processed) -> None:
    before = snapshot(processed.out)
    division = (processed.out / "epochs.json").read_text()
    status = process.main(processed.raw, processed.catalogs, processed.out, lambda _: None, workers=1)
    assert status == 0
    assert snapshot(processed.out) == before
    assert (processed.out / "epochs.json").read_text() == division
    again = json.loads((processed.out / "summary.json").read_text())
    for name in (
        "exposures",
        "sent",
        "received",
        "processed",
        "archived",
        "quarantined",
        "duplicated",
        "alerts",
        "problems",
    ):
        assert again[name] == processed.summary[name], name


def test_damaged_and_foreign_files_are_named_and_hold_up_nothing(processed: Processed, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    (raw / "copies").mkdir(parents=True)
    biases = sorted(processed.raw.glob("*_b.fits*"))[:3]
    for path in biases:
        shutil.copy(path, raw)
    shutil.copy(biases[0], raw / "copies")
    changing = raw / biases[1].name
    changing.write_bytes(biases[1].read_bytes()[:50_000])
    (raw / "holiday.fits").write_bytes(b"not FITS at all")
    assert process.main(raw, processed.catalogs, out, lambda _: None, workers=1) == 1
    summary = json.loads((out / "summary.json").read_text())
    problems = "\n".join(summary["problems"])
    assert f"{changing.name}: quarantined" in problems and "ends at byte 50000" in problems
    assert "holiday.fits: quarantined: not a raw file name" in problems
    assert f"{raw / 'copies' / biases[0].name}: a copy of {raw / biases[0].name}: not used" in problems
    assert biases[2].name not in problems
    assert (summary["sent"], summary["processed"], summary["quarantined"], summary["lost"]) == (4, 2, 2, 0)

    shutil.copy(biases[1], raw)  # the good file under the name of the damaged one
    (raw / "holiday.fits").unlink()
    shutil.rmtree(raw / "copies")
    assert process.main(raw, processed.catalogs, out, lambda _: None, workers=1) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["sent"], summary["processed"], summary["quarantined"]) == (3, 3, 0)


def test_an_unexpected_error_is_a_line_and_not_the_end() -> None:
    def explode() -> None:
        raise RuntimeError("two\nlines")

    done = process._timed("file", explode)
    assert (done.label, done.problem, done.settled) == ("file", "RuntimeError: two lines", False)


def spoiled(catalogs: Path, target: Path, change: Callable[[Path], None]) -> Path:
    """A copy of the catalogs with something wrong."""
    shutil.copytree(catalogs, target)
    change(target)
    return target


def _without_magnitudes(folder: Path) -> None:
    table = pq.read_table(folder / "gaia.parquet")
    pq.write_table(table.drop_columns(["phot_g_mean_mag"]), folder / "gaia.parquet")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_without_magnitudes, "gaia.parquet has no column gmag"),
        (lambda folder: (folder / "ps1.parquet").unlink(), "holds no ps1"),
        (lambda folder: (folder / "ps1.parquet").write_bytes(b"x"), "ps1.parquet is not a parquet table"),
    ],
)
def test_unusable_catalogs_end_the_run_before_it_begins(
    processed: Processed, tmp_path: Path, change: Callable[[Path], None], reason: str
) -> None:
    catalogs = spoiled(processed.catalogs, tmp_path / "catalogs", change)
    with pytest.raises(ConfigurationError, match=reason):
        process.main(processed.raw, catalogs, tmp_path / "out", lambda _: None)
    assert not (tmp_path / "out").exists()


def test_the_camera_is_that_of_most_files(processed: Processed, tmp_path: Path) -> None:
    files = process.find_raw_files(processed.raw)
    camera = process.camera_of(files)
    assert (camera.quadrant_shape, camera.ccdids) == ((stranger.NY, stranger.NX), (stranger.CCD,))
    with pytest.raises(ConfigurationError, match=r"no \*\.fits\.fz files"):
        process.find_raw_files(processed.raw, (processed.raw,))
    fits.PrimaryHDU().writeto(tmp_path / files[0].path.name)
    with pytest.raises(ConfigurationError, match="none of the files"):
        process.camera_of(process.find_raw_files(tmp_path))


@pytest.mark.parametrize(("n", "early"), [(1, 1), (6, 6), (8, 6), (13, 6), (20, 10), (40, 15)])
def test_the_earliest_epochs_make_the_references(n: int, early: int) -> None:
    names = [f"20180410{k:06d}" for k in range(n)]
    assert first_epochs(names[::-1]) == names[:early]
