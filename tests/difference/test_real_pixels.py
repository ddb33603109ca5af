"""Candidate metrics on the difference cutouts of real alerts, and a difference of real images."""

from __future__ import annotations

import gzip
import io
import warnings
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from analytic_sky import FlatSky, Science, empty_catalogs
from astropy.io import fits
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from ztfds.config.difference import CandidateConfig, DifferenceConfig, ReferenceConfig
from ztfds.config.photometry import PhotometryConfig
from ztfds.difference.candidates import edge_distance
from ztfds.difference.prepare import prepare
from ztfds.difference.products import DifferenceInputs
from ztfds.difference.run import run
from ztfds.difference.subtract import subtract
from ztfds.kernels import candidates as kernels
from ztfds.photometry import measure
from ztfds.reference.products import ReferenceInput, ReferenceProducts
from ztfds.reference.run import run as run_reference
from ztfds.survey import bits

pytestmark = pytest.mark.realdata


def read_stamp(content: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = fits.getdata(io.BytesIO(gzip.decompress(content))).astype(np.float32)
    return np.where(np.abs(data) > 1e30, np.float32(np.nan), data)


@pytest.fixture(scope="module")
def alerts(real_data: Path) -> list[dict[str, Any]]:
    """All real packets with whole 63 x 63 difference cutouts: candidate, stamp, position in the stamp."""
    out = []
    for path in sorted((real_data / "alerts").glob("*/*.avro")):
        with path.open("rb") as stream:
            for packet in fastavro.reader(stream):
                stamp = read_stamp(packet["cutoutDifference"]["stampData"])
                if stamp.shape == (63, 63):
                    out.append({"candidate": packet["candidate"], "stamp": stamp})
    if not out:
        pytest.skip("no real alerts")
    return out


def counts(alert: dict[str, Any]) -> np.ndarray:
    out = np.empty((1, 3))
    stamp = alert["stamp"]
    kernels.stamp_counts(stamp, np.zeros(stamp.shape, bool), np.array([31]), np.array([31]), np.ones(1), out)
    return out[0]


def test_negative_pixels_are_exact(alerts: list[dict[str, Any]]) -> None:
    assert [counts(a)[0] for a in alerts] == [a["candidate"]["nneg"] for a in alerts]
    assert len(alerts) >= 60


def test_sum_ratio_agrees(alerts: list[dict[str, Any]]) -> None:
    ours, theirs = (np.array(v) for v in zip(*[(counts(a)[2], a["candidate"]["sumrat"]) for a in alerts], strict=True))
    assert np.median(np.abs(ours - theirs)) < 0.02
    assert np.mean(np.abs(ours - theirs) < 0.15) > 0.9


def test_edge_distance_is_exact(alerts: list[dict[str, Any]]) -> None:
    x, y, edge = (np.array([a["candidate"][name] for a in alerts], float) for name in ("xpos", "ypos", "mindtoedge"))
    np.testing.assert_allclose(edge_distance(y - 1, x - 1, (3080, 3072)), edge, atol=1e-3)


def test_aperture_magnitudes_agree(alerts: list[dict[str, Any]]) -> None:
    """14 px and 18 px apertures, with the median of the cutout and with our annulus as sky, against the packet's errors."""
    config = CandidateConfig()
    pulls: dict[tuple[str, str], list[float]] = {}
    for alert in alerts:
        row, stamp = alert["candidate"], alert["stamp"]
        if row.get("magzpsci") is None or not np.isfinite(stamp).all():
            continue
        y, x = (np.array([31 + row[name] - round(row[name])]) for name in ("ypos", "xpos"))
        annulus = np.empty((1, 2))
        kernels.local_sky(stamp, y, x, config.sky_inner_px, config.sky_outer_px, annulus)
        for name, sky in (("median", float(np.median(stamp))), ("annulus", annulus[0, 0])):
            for suffix, diameter in (("", config.aperture_diameter_px), ("big", config.aperture_big_diameter_px)):
                sums = np.empty((1, 3))
                kernels.aperture_sums(stamp, np.ones_like(stamp), y, x, np.array([sky]), diameter / 2, sums)
                mag = row["magzpsci"] - 2.5 * np.log10(max(sums[0, 0], 1e-3))
                pulls.setdefault((name, suffix), []).append((mag - row[f"magap{suffix}"]) / row[f"sigmagap{suffix}"])
    within = {key: np.mean(np.abs(values) <= np.ones(1)) for key, values in pulls.items()}
    assert len(pulls["median", ""]) >= 20
    assert within["median", ""] >= 0.98
    assert within["annulus", ""] >= 0.98
    assert within["annulus", "big"] >= 0.98
    assert np.median(np.abs(pulls["annulus", ""])) < 0.25


def test_limit_minus_magnitude_is_exact(alerts: list[dict[str, Any]]) -> None:
    for alert in alerts:
        row = alert["candidate"]
        assert row["magfromlim"] == pytest.approx(row["diffmaglim"] - row["magap"], abs=2e-5)
        assert row["magdiff"] == pytest.approx(row["magap"] - row["magpsf"], abs=2e-5)


def test_shapes_agree_with_the_packets(alerts: list[dict[str, Any]]) -> None:
    """Windowed axes on the real cutouts follow those of the packets, without bias, for clean sources."""
    ratios = []
    for alert in alerts:
        row, stamp = alert["candidate"], alert["stamp"]
        if row["scorr"] is None or row["scorr"] < 8 or row["sumrat"] < 0.95 or not np.isfinite(stamp).all():
            continue
        y, x = (np.array([31 + row[name] - round(row[name])]) for name in ("ypos", "xpos"))
        out, sky = np.empty((1, 3)), np.array([float(np.median(stamp))])
        kernels.shapes(stamp, y, x, sky, np.ones(1), row["seeratio"] * row["fwhm"], out)
        ratios.append((out[0, 0] / row["aimage"], out[0, 1] / row["bimage"]))
    assert len(ratios) >= 20
    assert np.median(ratios) == pytest.approx(1.0, abs=0.15)


@pytest.fixture(scope="module")
def nights(real_data: Path) -> tuple[ReferenceProducts, ReferenceProducts]:
    """Co-adds of the five DECam exposures of each of two nights, at one zero point."""
    folder = real_data / "decam" / "sfft_dec_obs04_obs18" / "input_data"
    if not folder.is_dir():
        pytest.skip(f"no DECam images in {folder}")
    photometry = PhotometryConfig.tiny()
    first: np.ndarray | None = None
    out = []
    for night in ("04", "18"):
        inputs = []
        for letter in "abcde":
            with fits.open(folder / f"DEC-OBS{night}{letter}.mini.fits") as hdus:
                pixels, header = hdus[0].data.astype(np.float32), hdus[0].header.copy()
            mask = np.where(np.isfinite(pixels), 0, bits.NAN).astype(np.uint16)
            scene = measure.prepare(pixels, mask, header["GAIN"], None, header["SATURATE"], photometry)
            catalog = measure.fit_scene(scene, measure.model_psf(scene, photometry), photometry)[0].catalog
            first = catalog if first is None else first
            bright = catalog[catalog["snr"] > 20]
            distance, row = cKDTree(np.c_[first["xpos"], first["ypos"]]).query(np.c_[bright["xpos"], bright["ypos"]])
            ratio = np.median((bright["flux"] / first["flux"][row])[distance < 1])
            header["MAGZP"], header["READNOI"], header["OBSJD"] = (
                30 + 2.5 * np.log10(ratio),
                header["RDNOISE"],
                2458000.5,
            )
            inputs.append(ReferenceInput(pixels, mask, header))
        settings = {"reference_zeropoint_mag": 30.0, "overrides": {"fwhm_px": 8.0, "nsources": 5.0}}
        out.append(run_reference(inputs, ReferenceConfig.tiny().model_copy(update=settings)))
    return out[0], out[1]


DECAM = DifferenceConfig.tiny().model_copy(
    update={"min_matches": 3, "star_snr": 10.0, "star_bright_mag": 10.0, "star_faint_mag": 40.0}
)


def inputs_of(new: ReferenceProducts, ref: ReferenceProducts) -> DifferenceInputs:
    """One co-add in the place of the science image; its sky is out, so that its noise becomes the read noise."""
    header = new.header.copy()
    header["READNOI"] = header["GAIN"] * new.qa["sky_sigma_dn"]
    assert new.psf is not None
    science = Science(new.pixels, new.mask, header, new.psfcat, new.psf, FlatSky(np.zeros_like(new.pixels), 1.0))
    return DifferenceInputs(science, ref, *empty_catalogs())


def test_the_moved_source_of_the_decam_pair(nights: tuple[ReferenceProducts, ReferenceProducts]) -> None:
    """A bright star that moved by a third of a pixel between the nights is a candidate at (y, x) = (181, 60), and positive.

    With it come the other side of its dipole and little else; what the star is judged by is the shifts of the other stars.
    """
    inputs = inputs_of(nights[0], nights[1])
    prepared = prepare(inputs, DECAM)
    out = subtract(prepared.new, prepared.ref, prepared.var_new, prepared.var_ref, prepared.tiles)
    significance = out.score / np.sqrt(out.variance)
    j, i = np.unravel_index(np.argmax(significance), significance.shape)
    assert significance[j, i] > 50
    assert np.hypot(j - 181, i - 60) < 2.5
    assert not (np.hypot(prepared.match.y - 181, prepared.match.x - 58) < 4).any()
    made = run(inputs, DECAM)
    assert made.status == 1, made.reason
    assert (prepared.warp.scatter < 0.1).all()
    near = np.hypot(made.candidates["y"] - 181, made.candidates["x"] - 60) < 4
    found = made.candidates[near & (made.candidates["isdiffpos"] == "t")]
    assert found.size == 1
    assert found["scorr"][0] > 6
    assert len(made.candidates) <= 14


def best_limit(image: np.ndarray, blank: np.ndarray) -> float:
    """Noise of a point source's flux on blank sky in units of the transient's flux, with the best Gaussian filter."""
    limits = []
    values = np.nan_to_num(image - np.median(image[blank]))
    for sigma in np.arange(1.2, 2.6, 0.1):
        filtered = gaussian_filter(values, sigma)
        clean = gaussian_filter(blank.astype(float), sigma) > 0.97
        low, high = np.percentile(filtered[clean], [15.865, 84.135])
        limits.append(0.5 * (high - low) / filtered[123:134, 123:134].max())
    return min(limits)


def test_residual_noise_of_the_decam_pair(nights: tuple[ReferenceProducts, ReferenceProducts], real_data: Path) -> None:
    """The noise of a point source's flux is at most 3 % more than in the expected difference (decorrelated).

    Noise per pixel depends on the filter that a difference went through; noise per flux of the same source does not.
    """
    out = run(inputs_of(nights[0], nights[1]), DECAM)
    expected = fits.getdata(real_data / "decam" / "sfft_dec_obs04_obs18" / "4check" / "FinalDifference.DeCorr.fits")
    blank = np.isfinite(out.pixels) & ((out.mask & (bits.SOURCE_TEMPLATE | bits.BAD_TEMPLATE)) == 0)
    blank[:14] = blank[-14:] = blank[:, :14] = blank[:, -14:] = False
    assert best_limit(out.pixels, blank) <= 1.03 * best_limit(expected.astype(float), blank)


def test_the_transient_of_the_decam_pair(nights: tuple[ReferenceProducts, ReferenceProducts]) -> None:
    """The source at the centre of the field is there in one night only, and found with either sign."""
    for new, ref in (nights, nights[::-1]):
        out = run(inputs_of(new, ref), DECAM)
        assert out.status == 1, out.reason
        best = out.candidates[0]
        assert best["isdiffpos"] == ("t" if new is nights[0] else "f")
        assert np.hypot(best["y"] - 128, best["x"] - 128) < 2.5
        assert best["scorr"] > 9
        assert len(out.candidates) <= 12
