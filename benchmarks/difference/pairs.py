"""Full-size pairs with truth: reference epochs and one science exposure of a quadrant, made once and kept in var/bench/pairs.

A pair is named like a scene, ``<field>-<seed>``; its sky has the scene's density. Everything goes through the simulator and
then P2, P5 and P7, and is kept in the files that the archive would hold. The header of the science image is turned and shifted a
little afterwards, so that the two images are misregistered by 0.1 to 0.3 px, as after a poor astrometric solution.

All pixel positions are 0-based, (x, y) = (column, row).
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, overload

import numpy as np
from astropy.io import fits

from benchmarks.difference.inputs import JUDGES
from benchmarks.difference.inputs import ROOT as FOLDER
from benchmarks.scenes import CATALOG_MARGIN_DEG, DATE, DENSITIES, TRAILS_PER_CCD
from ztfds.calibration.bias import stack_bias
from ztfds.calibration.flat import stack_flat
from ztfds.calibration.products import CalibrationImage
from ztfds.config.sets import ConfigSet, set_for_camera
from ztfds.detrend.split import split
from ztfds.difference.products import DifferenceInputs
from ztfds.formats.catalogs import StaticCatalogs
from ztfds.formats.images import read_image, write_image
from ztfds.formats.raw import RawCcd, RawQuadrant, read_raw
from ztfds.operations import references, storage
from ztfds.operations.realtime import DIFFERENCE_STEP, SCIENCE_STEP
from ztfds.reference import run as reference
from ztfds.reference.products import ReferenceInput, ReferenceProducts
from ztfds.reference.select import select
from ztfds.science import run as science
from ztfds.science.pointing import centre_of, pointing
from ztfds.simulator.config import SimulatorConfig
from ztfds.simulator.exposure import make_scene, quadrant_wcs, render
from ztfds.simulator.headers import primary_header, quadrant_header
from ztfds.simulator.night import render_ccd
from ztfds.simulator.schedule import Plan, PlannedExposure, conditions, make_plan
from ztfds.simulator.truth import read_truth, write_catalogs
from ztfds.survey.camera import CCD, Camera, rcid

QID = 3
N_REFERENCE, N_BIAS, N_FLAT = 15, 8, 6
TRANSIENTS: dict[str, Any] = {
    "transients_per_quadrant": 240,
    "transient_snr": (4.5, 40.0),
    "transient_separation_px": 60.0,
}
"""So many that shares found can be told apart by a few per cent; they cover a hundredth of the image."""
FEW = 16
"""Transients in the exposure that costs are measured on: with what varies and what is false, some thirty candidates."""
SHIFT_PX, TURN_RAD = (0.17, -0.11), 5e-5
"""Error of the science image's WCS: 0.20 px, and 0.11 px more or less in the corners."""
BLANK_SIGMA = 0.3
"""Pixels with less light of sources than this, in sigmas of their noise, are blank."""
VERSIONS = {
    "science": SCIENCE_STEP.version,
    "reference": references.STEP.version,
    "difference": DIFFERENCE_STEP.version,
}
_OF_STEP = {
    "science": ("calibration", "epochs", "reference", "science", "few/science"),
    "reference": ("reference",),
    "difference": (),
}
"""What is made again when the version of a step has changed."""
_REFERENCE_KINDS = ("sciimg", "mskimg")


@dataclass(frozen=True)
class Pair:
    """One pair; what is large is read when it is asked for.

    Attributes
    ----------
    name : str
    folder : Path
        raw/, catalogs/, truth/, calibration/, epochs/<index>/, reference/, science/, facts.json; few/ with raw/, truth/ and
        science/ of the same exposure with few transients.
    plan : Plan
    """

    name: str
    folder: Path
    plan: Plan

    @property
    def camera(self) -> Camera:
        """The camera that took it."""
        return self.plan.camera

    @cached_property
    def config(self) -> ConfigSet:
        """Settings of the pipeline for this camera."""
        return set_for_camera(self.plan.camera)

    @property
    def rcid(self) -> int:
        """Readout channel."""
        return rcid(self.camera.ccdids[0], QID)

    @property
    def exposure(self) -> PlannedExposure:
        """The science exposure."""
        return self.plan.science()[0]

    @property
    def epochs(self) -> list[PlannedExposure]:
        """The exposures of the reference."""
        return [e for e in self.plan.exposures if e.purpose == "reference"]

    def raw_path(self, few: bool = False) -> Path:
        """The raw file of the science exposure's CCD."""
        return self.place(few) / "raw" / self.exposure.raw_name(self.camera.ccdids[0]).filename

    def place(self, few: bool) -> Path:
        """Folder of the science exposure, the full one or that with few transients."""
        return self.folder / "few" if few else self.folder

    @cached_property
    def facts(self) -> dict[str, Any]:
        """chosen (epochs that made the reference, by index), movers (ra, dec of moving things at those epochs), wcs_cards."""
        return json.loads((self.folder / "facts.json").read_text())

    @cached_property
    def truth(self) -> np.ndarray:
        """What is in the science image (dtype simulator.truth.TRUTH)."""
        rows, _ = read_truth(next((self.folder / "truth").glob("*.parquet")))
        return rows[rows["qid"] == QID]

    @cached_property
    def blank(self) -> np.ndarray:
        """(ny, nx) bool: science pixels that hold sky only."""
        return np.load(self.folder / "blank.npy")

    @property
    def steady(self) -> np.ndarray:
        """(ny, nx) float32: noiseless light of stars and galaxies in the science image, DN of a perfect detector."""
        return np.load(self.folder / "steady.npy")

    @property
    def movers(self) -> np.ndarray:
        """(n, 2) float64: x, y in the science image of things that moved through the reference epochs."""
        sky = np.array(self.facts["movers"]).reshape(-1, 2)
        wcs = quadrant_wcs(self.plan, conditions(self.plan, self.exposure), self.rcid)
        return np.column_stack(wcs.to_pixel(sky[:, 0], sky[:, 1]))

    def science(self, few: bool = False) -> science.ScienceProducts:
        """Products of P5, with the misregistered header."""
        folder = self.place(few) / "science"
        return storage.read_science(folder, products_of(folder), self.config.science.photometry)

    def right_header(self) -> fits.Header:
        """The science image's header as P5 made it."""
        header = fits.getheader(self.folder / "science" / products_of(self.folder / "science")["sciimg"]["path"])
        header.update(self.facts["wcs_cards"])
        return header

    def reference(self, *, whole: bool = True) -> ReferenceProducts:
        """Products of P7."""
        return storage.read_reference(self.folder / "reference", products_of(self.folder / "reference"), whole=whole)

    def inputs(self) -> ReferenceInputs:
        """What the reference was made of."""
        return ReferenceInputs([self.folder / "epochs" / str(k) for k in self.facts["chosen"]])

    def difference_inputs(self) -> DifferenceInputs:
        """What P6 needs, read from files."""
        made = self.science()
        return DifferenceInputs(made, self.reference(), *self.sky(made.header, made.pixels.shape))

    def sky(self, header: fits.Header, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Gaia- and PS1-like objects around the quadrant, as the real-time step asks for them."""
        catalogs, (ra, dec) = StaticCatalogs(self.folder / "catalogs"), centre_of(header, shape)
        radius = self.camera.radius_deg() + CATALOG_MARGIN_DEG
        return catalogs.gaia(ra, dec, radius, float(header["OBSJD"])), catalogs.ps1(ra, dec, radius)

    def calibration_paths(self, kind: str, night: int = 1) -> tuple[Path, Path]:
        """Image and mask of the bias ('bias') or flat ('flat') of the science night (1) or the reference's (0)."""
        folder = self.folder / "calibration"
        return folder / f"{kind}{night}.fits", folder / f"{kind}{night}cmask.fits"


class ReferenceInputs(Sequence[ReferenceInput]):
    """Calibrated images in folders, read when they are asked for."""

    def __init__(self, folders: list[Path]) -> None:
        self.folders = folders

    def __len__(self) -> int:
        return len(self.folders)

    @overload
    def __getitem__(self, k: int) -> ReferenceInput: ...

    @overload
    def __getitem__(self, k: slice) -> list[ReferenceInput]: ...

    def __getitem__(self, k: int | slice) -> ReferenceInput | list[ReferenceInput]:
        if isinstance(k, slice):
            return [_read_epoch(folder) for folder in self.folders[k]]
        return _read_epoch(self.folders[k])


def _read_epoch(folder: Path) -> ReferenceInput:
    rows = products_of(folder)
    pixels, header = read_image(folder / rows["sciimg"]["path"])
    return ReferenceInput(pixels, read_image(folder / rows["mskimg"]["path"])[0].astype(np.uint16), header)


def products_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Kinds of products in a folder, as rows of the database would name them."""
    return json.loads((folder / "products.json").read_text())


def load(name: str, root: Path = FOLDER, camera: Camera = CCD) -> Pair:
    """A pair; what is missing on disk is made first: a minute of CPU for a quiet field, four in the plane.

    Parameters
    ----------
    name : str
        ``quiet-<seed>`` or ``plane-<seed>``.
    root : Path
        Folder of all pairs.
    camera : Camera
        Of one CCD.
    """
    pair = Pair(name, root / name, plan_of(name, camera))
    facts = pair.folder / "facts.json"
    _forget_older(pair)
    if not facts.exists():
        _make(pair)
    return pair


def _forget_older(pair: Pair) -> None:
    """Remove what steps of other versions made; note the present versions."""
    facts, noted = pair.folder / "facts.json", pair.folder / "versions.json"
    made_by = json.loads(noted.read_text()) if noted.exists() else {}
    for step, folders in _OF_STEP.items():
        if made_by.get(step, VERSIONS[step]) != VERSIONS[step]:
            for folder in (*folders, "steps"):
                shutil.rmtree(pair.folder / folder, ignore_errors=True)
            facts.unlink(missing_ok=True)
    if made_by != VERSIONS:
        pair.folder.mkdir(parents=True, exist_ok=True)
        noted.write_text(json.dumps(VERSIONS))


def plan_of(name: str, camera: Camera = CCD) -> Plan:
    """The plan behind a pair: a night with the reference epochs, and one exposure three nights later, in r."""
    field, _, seed = name.partition("-")
    full = camera.area_fraction >= 0.05
    config = SimulatorConfig() if full else SimulatorConfig.tiny()
    if full:
        stars, galaxies = DENSITIES[field]
        update = {"star_density_per_deg2": stars, "galaxy_density_per_deg2": galaxies, **TRANSIENTS}
        config = config.model_copy(update={"sky": config.sky.model_copy(update=update)})
    optics = config.optics.model_copy(update={"trails_per_ccd": TRAILS_PER_CCD})
    config = config.model_copy(update={"optics": optics})
    return make_plan(
        camera, DATE, seed=int(seed), n_fields=1, filter_codes=("zr",), n_exposures=1, n_reference=N_REFERENCE,
        n_bias=N_BIAS, n_flat=N_FLAT, sky="quiet" if field == "quiet" else "plane", config=config,
    )  # fmt: skip


# -- making ------------------------------------------------------------------------------------------------------------


def _make(pair: Pair) -> None:
    """Everything of a pair, the facts last."""
    pair.folder.mkdir(parents=True, exist_ok=True)
    if not (pair.folder / "catalogs").exists():
        write_catalogs(pair.folder / "catalogs", pair.plan)
    for night in (0, 1):
        _calibrate(pair, night)
    movers: list[tuple[float, float]] = []
    for epoch in pair.epochs:
        rows = _make_epoch(pair, epoch)
        moving = rows[np.isin(rows["kind"], ("asteroid", "fast"))]
        movers += [(float(r["ra"]), float(r["dec"])) for r in moving]
    chosen = _make_reference(pair)
    cards = _make_science(pair, few=False)
    _make_science(pair, few=True)
    _save_blank(pair)
    facts = {"chosen": chosen, "movers": movers, "wcs_cards": cards}
    (pair.folder / "facts.json").write_text(json.dumps(facts))


def _calibrate(pair: Pair, night: int) -> None:
    """Bias and flat of one night, as files."""
    paths = {kind: pair.calibration_paths(kind, night) for kind in ("bias", "flat")}
    if paths["flat"][1].exists():
        return
    frames = {kind: [e for e in pair.plan.of_night(night) if e.purpose == kind] for kind in ("bias", "flat")}
    raws = {kind: [_rendered(pair, e)[0] for e in some] for kind, some in frames.items()}
    bias = stack_bias(raws["bias"], pair.config.bias)
    ccdid = pair.camera.ccdids[0]
    headers = [primary_header(pair.plan, e, ccdid, None) for e in frames["flat"]]
    flat = stack_flat(raws["flat"], bias, pair.config.flat, headers=headers)
    for kind, made in (("bias", bias), ("flat", flat)):
        for path, array in zip(paths[kind], (made.data, made.cmask), strict=True):
            path.parent.mkdir(exist_ok=True)
            write_image(path, array, made.header)


def _rendered(pair: Pair, exposure: PlannedExposure) -> tuple[RawQuadrant, np.ndarray]:
    """The raw quadrant of one exposure, and what is in it."""
    made = render(pair.plan, exposure, pair.rcid)
    header = quadrant_header(pair.plan, exposure, pair.rcid)
    return RawQuadrant(QID, pair.rcid, made.pixels, made.overscan, header), made.truth


def read_calibration(paths: tuple[Path, Path]) -> CalibrationImage:
    """A calibration image from its files, as in real time: without the uncertainty."""
    (data, header), (cmask, _) = (read_image(path) for path in paths)
    unknown = np.broadcast_to(np.float32(np.nan), data.shape)
    return CalibrationImage(data, unknown, cmask.astype(np.uint16, copy=False), {}, header)


def calibrated(pair: Pair, primary: fits.Header, quadrant: RawQuadrant, night: int = 1) -> science.ScienceProducts:
    """P2 and P5 of one quadrant, calibration products and catalogs read from files."""
    config, catalogs = pair.config, StaticCatalogs(pair.folder / "catalogs")
    view = pointing(primary, quadrant.header, pair.camera, pair.camera.ccdids[0], QID)
    return science.run(
        science.ScienceInputs(
            split=split(quadrant, primary, config.split),
            primary=primary,
            bias=read_calibration(pair.calibration_paths("bias", night)),
            flat=read_calibration(pair.calibration_paths("flat", night)),
            gaia=view.catalog(partial(catalogs.gaia, epoch_jd=float(primary["OBSJD"])), CATALOG_MARGIN_DEG),
            ps1=view.catalog(catalogs.ps1, CATALOG_MARGIN_DEG),
            camera=pair.camera,
        ),
        config.science,
    )


def taken_again(
    pair: Pair, plan: Plan, shift: tuple[float, float] = SHIFT_PX, turn: float = TURN_RAD
) -> tuple[DifferenceInputs, np.ndarray]:
    """The science exposure of another plan with the pair's reference, misregistered, ready for P6; and what is in it."""
    exposure = plan.science()[0]
    made = render(plan, exposure, pair.rcid)
    quadrant = RawQuadrant(QID, pair.rcid, made.pixels, made.overscan, quadrant_header(plan, exposure, pair.rcid))
    primary = primary_header(plan, exposure, pair.camera.ccdids[0], conditions(plan, exposure))
    science = calibrated(pair, primary, quadrant)
    misregister(science.header, shift, turn)
    return DifferenceInputs(science, pair.reference(), *pair.sky(science.header, science.pixels.shape)), made.truth


def _make_epoch(pair: Pair, exposure: PlannedExposure) -> np.ndarray:
    """One epoch of the reference; returns what is in it."""
    folder = pair.folder / "epochs" / str(exposure.index)
    if not (folder / "truth.npy").exists():
        quadrant, truth = _rendered(pair, exposure)
        primary = primary_header(pair.plan, exposure, pair.camera.ccdids[0], conditions(pair.plan, exposure))
        made = calibrated(pair, primary, quadrant, night=0)
        files = storage.science_files(made, storage.science_place(exposure.raw_name(pair.camera.ccdids[0]), QID))
        write_products(folder, [f for f in files if f.kind in _REFERENCE_KINDS], made.status, made.infobits)
        np.save(folder / "truth.npy", truth)
    return np.load(folder / "truth.npy")


def _make_reference(pair: Pair) -> list[int]:
    """The reference, of the epochs that pass its selection; returns which."""
    folders = {e.index: pair.folder / "epochs" / str(e.index) for e in pair.epochs}
    headers = [fits.getheader(f / products_of(f)["sciimg"]["path"]) for f in folders.values()]
    selection = select(headers, pair.config.reference)
    if not selection.chosen:
        raise RuntimeError(f"{pair.name}: no reference: {selection.reason} {selection.rejected}")
    chosen = [list(folders)[k] for k in selection.chosen]
    if not (pair.folder / "reference" / "products.json").exists():
        made = reference.run(ReferenceInputs([folders[k] for k in chosen]), pair.config.reference)
        if made.status != 1:
            raise RuntimeError(f"{pair.name}: the reference is not usable: {made.reason}")
        place = storage.reference_place(pair.exposure.fieldid, "zr", pair.camera.ccdids[0], QID)
        write_products(pair.folder / "reference", storage.reference_files(made, place), made.status)
    return chosen


def _make_science(pair: Pair, few: bool) -> dict[str, float]:
    """The science exposure from its raw file, misregistered; returns the cards that were changed, as they were."""
    plan, path, cards = pair.plan, pair.raw_path(few), pair.place(few) / "science" / "cards.json"
    if cards.exists():
        return json.loads(cards.read_text())
    if few:
        sky = plan.config.sky.model_copy(update={"transients_per_quadrant": FEW})
        plan = replace(plan, config=plan.config.model_copy(update={"sky": sky}))
    if not path.exists():
        render_ccd(path.parent, plan, pair.exposure.index, pair.camera.ccdids[0], pair.place(few) / "truth")
    raw = read_ccd(pair, few)
    made = calibrated(pair, raw.header, raw.quadrants[QID - 1])
    if made.status != 1:
        raise RuntimeError(f"{pair.name}: the science image is not usable: {made.reasons}")
    kept = misregister(made.header)
    files = storage.science_files(made, storage.science_place(raw.name, QID))
    write_products(pair.place(few) / "science", files, 1)
    cards.write_text(json.dumps(kept))
    return kept


def misregister(header: fits.Header, shift: tuple[float, float] = SHIFT_PX, turn: float = TURN_RAD) -> dict[str, float]:
    """Shift (px) and turn (rad, around CRPIX) the WCS of a header in place; returns the changed cards as they were."""
    names = ("CRPIX1", "CRPIX2", "CD1_1", "CD1_2", "CD2_1", "CD2_2")
    before = {name: float(header[name]) for name in names}
    header["CRPIX1"] += shift[0]
    header["CRPIX2"] += shift[1]
    matrix = np.array([[before["CD1_1"], before["CD1_2"]], [before["CD2_1"], before["CD2_2"]]])
    turned = matrix @ np.array([[1.0, turn], [-turn, 1.0]])
    for name, value in zip(names[2:], turned.ravel(), strict=True):
        header[name] = float(value)
    return before


def write_products(folder: Path, files: Sequence[Any], status: int, infobits: int = 0) -> None:
    """Write products into one folder, their list last."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {}
    for file in files:
        name = Path(file.path(1)).name
        file.write(folder / name)
        rows[file.kind] = {"path": name, "status": status, "infobits": infobits}
    (folder / "products.json").write_text(json.dumps(rows))


def _save_blank(pair: Pair) -> None:
    """Which pixels of the science image hold little light of sources, and the light of what does not change."""
    sky = _true_sky(pair)
    light = make_scene(pair.plan, pair.exposure, pair.rcid).image
    np.save(pair.folder / "blank.npy", light - sky < BLANK_SIGMA * sky_sigma(pair))
    steady = make_scene(pair.plan, pair.exposure, pair.rcid, with_events=False).image
    np.save(pair.folder / "steady.npy", (steady - sky).astype(np.float32))


def _true_sky(pair: Pair) -> np.ndarray:
    """(ny, nx) float64: the sky of the science exposure as the simulator paints it, DN of a perfect detector."""
    state, (ny, nx) = conditions(pair.plan, pair.exposure), pair.camera.quadrant_shape
    gx, gy = state.gradient
    rows = state.sky_dn * (1 + gy * np.linspace(-1, 1, ny))
    return np.multiply.outer(rows, 1 + gx * np.linspace(-1, 1, nx))


def sky_sigma(pair: Pair, exposure: PlannedExposure | None = None) -> float:
    """Noise of a sky pixel of an exposure, DN: photons and read noise."""
    from ztfds.simulator.exposure import detector_of
    from ztfds.survey.detector import READ_NOISE_E

    gain = detector_of(pair.plan, pair.rcid).gain
    sky = conditions(pair.plan, exposure or pair.exposure).sky_dn
    return float(np.sqrt(sky / gain + (READ_NOISE_E / gain) ** 2))


def read_ccd(pair: Pair, few: bool = False) -> RawCcd:
    """The raw file of the science exposure, verified."""
    return read_raw(pair.raw_path(few), pair.camera.quadrant_shape)


def main(names: tuple[str, ...]) -> None:
    """Make pairs and say what is in them."""
    for name in names:
        began = time.perf_counter()
        pair = load(name)
        kinds, counts = np.unique(pair.truth["kind"], return_counts=True)
        found = ", ".join(f"{n} {kind}" for kind, n in zip(kinds, counts, strict=True))
        print(
            f"{name}: {found}; {len(pair.facts['chosen'])} epochs in the reference, {100 * pair.blank.mean():.0f} % of the pixels "
            f"blank; {time.perf_counter() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or tuple(JUDGES.values()))
