"""Every bit of the mask against simulated truth on full-size quadrants; radiation hits and their cost beside astroscrappy.

Run ``python -m benchmarks.masks [SCENE ...] [--trails N] [--focal-plane N] [--no-astroscrappy]``; without names, the scenes for
judging.

*Completeness* is the share of the pixels that deserve a bit and carry it, *purity* the share of the pixels with a bit that
deserve it or lie within the margin that the mask declares around such pixels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
from scipy import ndimage

from benchmarks.rows import JUDGES
from benchmarks.scenes import CATALOG_MARGIN_DEG, BenchScene, Truth, load, plan_of
from ztfds.config.detrend import MaskConfig
from ztfds.detrend.apply import detrend
from ztfds.kernels import lines
from ztfds.photometry import measure
from ztfds.science import masks, run
from ztfds.science.pointing import boresight
from ztfds.science.tracks import Track, find_tracks
from ztfds.simulator import kernels as simulator_kernels
from ztfds.simulator.camera import READOUT_S, radiation
from ztfds.simulator.exposure import detector_of, quadrant_wcs, reflections
from ztfds.simulator.schedule import Plan, PlannedExposure, conditions
from ztfds.simulator.sky import propagate, sky_patch
from ztfds.survey import bits
from ztfds.survey.camera import ZTF, ccd_qid

REFLECTION_SIGMA = 0.25
"""Light of a ghost or halo per pixel, in sigmas of the sky, from which it deserves its bit: a star's flux at the limit of
detection (noise area 12 px) is then off by as much as its error."""
HOT_SIGMA = 5.0
STAR_SIGMA = 3.0
TRAIL_SIGMA = 0.25


@dataclass(frozen=True)
class Prepared:
    """One quadrant as the masking step gets it.

    `arguments` are those of `mask_artifacts` in front of its configuration, `rest` those behind it.
    """

    scene: BenchScene
    truth: Truth
    photometric: measure.Scene
    arguments: tuple[Any, ...]
    rest: tuple[Any, ...]
    noise: float


@dataclass(frozen=True)
class Score:
    """Completeness and purity of one bit: pixels that deserve it, pixels that carry it, and both shares (NaN of none)."""

    name: str
    deserve: int
    carry: int
    completeness: float
    purity: float


def prepare(scene: BenchScene) -> Prepared:
    """Detrend a quadrant, measure its sky and seeing, and find the stars that throw ghosts."""
    inputs, settings = scene.inputs(), scene.config.science
    header = inputs.split.header
    gain, readnoise = float(header["GAIN"]), float(header["READNOI"])
    pixels, mask = detrend(inputs.split, inputs.bias, inputs.flat, settings.detrend)
    photometric = measure.prepare(pixels, mask, gain, readnoise, inputs.split.saturation_dn, settings.photometry)
    ra, dec = boresight(inputs.primary)
    axis = inputs.camera.approximate_wcs(ra, dec, *ccd_qid(scene.rcid)).world_to_pixel_values(ra, dec)
    faintest = max(ghost.max_mag for ghost in settings.masks.ghosts)
    stars = inputs.gaia[inputs.gaia["gmag"] <= faintest]
    x, y = scene.truth.wcs.to_pixel(stars["ra"], stars["dec"])
    level = photometric.background.level
    return Prepared(
        scene, scene.truth, photometric, (pixels, mask, level, gain, readnoise, photometric.fwhm_px),
        (np.column_stack([x, y, stars["gmag"]]), tuple(float(v) for v in axis), inputs.camera.pixel_scale_arcsec),
        float(np.sqrt(np.median(level) / gain + (readnoise / gain) ** 2)),
    )  # fmt: skip


def artifacts(prepared: Prepared, config: MaskConfig) -> masks.Artifacts:
    """The masking step."""
    return masks.mask_artifacts(*prepared.arguments, config, *prepared.rest)


def cpu_seconds(action: Callable[[], Any], times: int = 3) -> float:
    """Least CPU time of some calls, s."""
    spent = []
    for _ in range(times):
        began = time.process_time()
        action()
        spent.append(time.process_time() - began)
    return min(spent)


# --- what deserves which bit -------------------------------------------------------------------------------------------------


def response(scene: BenchScene) -> np.ndarray:
    """True response of the detector to even light, defects included; (ny, nx) float32."""
    ones = np.ones(scene.camera.quadrant_shape, np.float32)
    detector = detector_of(scene.plan, scene.rcid)
    with mock.patch.object(detector, "heat"):
        detector.respond(ones, scene.exposure.fid, scene.exposure.exptime)
    return ones / np.float32(np.median(ones))


def hot_dn(scene: BenchScene, seconds: float) -> np.ndarray:
    """Charge of hot pixels after some seconds; (ny, nx) float32, DN."""
    image = np.zeros(scene.camera.quadrant_shape, np.float32)
    detector = detector_of(scene.plan, scene.rcid)
    detector.heat(image, seconds - 0.5 * READOUT_S)
    return image


def noisy(scene: BenchScene, truth: Truth) -> np.ndarray:
    """Pixels at least 1.85 times as noisy as others in biases: by their nature, or because they are hot."""
    read = truth.read_noise_e / truth.gain
    out = hot_dn(scene, 0.5 * READOUT_S) / truth.gain > (scene.config.bias.noisy_factor**2 - 1) * read**2
    rows, columns = detector_of(scene.plan, scene.rcid).defects.noisy.T
    out[rows, columns] = True
    return out


Ring = tuple[float, float, float, float, float]
"""x, y, inner and outer radius (pixels), light (DN per pixel)."""


def rings(plan: Plan, exposure: PlannedExposure, rcid: int) -> list[Ring]:
    """All halos (inner radius 0) and pupil ghosts that the simulator paints on a quadrant."""
    found: list[Ring] = []

    def note(_: np.ndarray, x: float, y: float, inner: float, outer: float, total: float) -> None:
        found.append((x, y, inner, outer, total / (np.pi * (outer**2 - inner**2))))

    with mock.patch.object(simulator_kernels, "paint_ring", note):
        reflections(plan, exposure, rcid)
    return found


def lit(found: list[Ring], shape: tuple[int, int], halo: bool, least_dn: float) -> np.ndarray:
    """Pixels in which the halo (or ghost) of a single star leaves more than `least_dn`; (ny, nx) bool."""
    out = np.zeros(shape, bool)
    for x, y, inner, outer, level in found:
        if (inner == 0.0) == halo and level > least_dn:
            paint = np.zeros(shape, np.uint16)
            lines.paint_annulus(paint, 1, x, y, inner, outer)
            out |= paint != 0
    return out


def trail_light(truth: Truth) -> np.ndarray:
    """Light of the satellite trails, the line-spread function of the true PSF along each; (ny, nx) float32, DN."""
    ny, nx = truth.shape
    out = np.zeros((ny, nx), np.float32)
    y, x = np.arange(ny, dtype=np.float32)[:, None], np.arange(nx, dtype=np.float32)
    spread = truth.psf.stamp(nx // 2, ny // 2, 40).sum(axis=0)[40:]
    for x0, y0, x1, y1, per_px in truth.trails:
        span = np.hypot(x1 - x0, y1 - y0)
        distance = np.abs((x - x0) * ((y1 - y0) / span) - (y - y0) * ((x1 - x0) / span))
        out += per_px * np.interp(distance, np.arange(spread.size), spread, right=0.0)
    return out


def grown(region: np.ndarray, by: int) -> np.ndarray:
    """A region and all pixels within `by` of it in both directions."""
    return np.asarray(ndimage.maximum_filter(region.view(np.uint8), 2 * by + 1)).astype(bool)


def star_noise(prepared: Prepared) -> np.ndarray:
    """True noise of each pixel without radiation, DN."""
    truth = prepared.truth
    return np.sqrt(np.maximum(truth.light, 0) / truth.gain + (truth.read_noise_e / truth.gain) ** 2)


def deserving(prepared: Prepared) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Bit, pixels that deserve it, and pixels that may carry it, for each bit of the detector, of radiation and of optics."""
    scene, truth = prepared.scene, prepared.truth
    flat, in_bias, in_image = response(scene), hot_dn(scene, 0.5 * READOUT_S), hot_dn(scene, 30 + 0.5 * READOUT_S)
    limits = scene.config.flat
    yield bits.LOW_RESPONSE, flat < limits.low_response, flat < limits.low_response + 0.02
    yield bits.HIGH_RESPONSE, flat > limits.high_response, flat > limits.high_response - 0.02
    loud = noisy(scene, truth)
    # The flats' shot noise grows where the response is low, and with the charge of hot pixels.
    yield bits.NOISY, loud, loud | (flat < 0.35) | (in_bias > 5)
    stuck = scene.config.bias.hot_dn
    yield bits.DEAD, (flat < limits.dead_response) | (in_bias > stuck), (flat < 0.012) | (in_bias > 0.97 * stuck)
    yield bits.SATURATED, truth.saturated, grown(truth.saturated, scene.config.science.detrend.bleed_margin_px + 1)
    hits = truth.hits
    strong = (hits > HOT_SIGMA * star_noise(prepared)) & ~grown(truth.saturated, 3)
    spiked = (in_image > HOT_SIGMA * prepared.noise) | loud
    yield bits.SPIKE, strong, grown(hits > 0, 1) | spiked
    trail = trail_light(truth)
    yield bits.TRACK, trail > TRAIL_SIGMA * prepared.noise, grown(trail > 0.05 * prepared.noise, 3)
    found, least = rings(scene.plan, scene.exposure, scene.rcid), REFLECTION_SIGMA * prepared.noise
    for bit, halo in ((bits.GHOST, False), (bits.HALO, True)):
        # Magnitudes of Gaia and of the band differ by some tenths: half the light is still right.
        yield bit, lit(found, truth.shape, halo, least), grown(lit(found, truth.shape, halo, 0.5 * least), 4)


def deserving_sources(prepared: Prepared) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The same for the two source bits."""
    truth = prepared.truth
    shape, rows = truth.shape, truth.sources
    centres = [np.zeros(shape, bool) for _ in range(2)]
    for image, least in zip(centres, (10.0, 3.0), strict=True):
        some = rows[(rows["snr"] > least) & ~rows["near_saturated"]] if least > 3 else rows
        ix, iy = np.rint(some["x"]).astype(int), np.rint(some["y"]).astype(int)
        inside = (
            (ix >= 5) & (iy >= 5) & (ix < shape[1] - 5) & (iy < shape[0] - 5) if least > 3 else (ix >= 0) & (iy >= 0)
        )
        inside &= (ix < shape[1]) & (iy < shape[0])
        image[iy[inside], ix[inside]] = True
    yield bits.PSF_SOURCE, centres[0], grown(centres[1], 2)
    bright = truth.light - truth.sky > prepared.noise
    yield bits.SEXTRACTED, centres[0], bright | grown(centres[1], 2)


def score(bit: int, mask: np.ndarray, deserve: np.ndarray, may: np.ndarray) -> Score:
    """Judge one bit."""
    carry = (mask & np.uint16(bit)) != 0
    name = next(item.name for item in bits.MASK_BITS if item.value == bit)
    found = grown(carry, 1) if bit == bits.PSF_SOURCE else carry
    return Score(
        name, int(deserve.sum()), int(carry.sum()), float(found[deserve].mean()) if deserve.any() else np.nan,
        float(may[carry].mean()) if carry.any() else np.nan,
    )  # fmt: skip


def judge(prepared: Prepared, mask: np.ndarray, pixels: np.ndarray) -> list[Score]:
    """All bits of one mask."""
    cases = [*deserving(prepared), (bits.NAN, ~np.isfinite(pixels), ~np.isfinite(pixels)), *deserving_sources(prepared)]
    return sorted(
        (score(bit, mask, *maps) for bit, *maps in cases), key=lambda s: [b.name for b in bits.MASK_BITS].index(s.name)
    )


# --- radiation hits ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HitScore:
    """What one way of finding radiation hits finds.

    Attributes
    ----------
    tracks : float
        Share of the tracks of radiation of which at least one pixel is marked; all tracks that leave 5 sigma of the sky in
        one pixel and do not lie on saturated or dead ones.
    visible : float
        The same of those that stand out by 5 sigma from what lies below them.
    pixels : float
        Share marked of the pixels with 5 sigma of their own noise.
    false_stars, false_sky : int
        Marked pixels that nothing hit, nor a neighbour, and that are neither hot nor noisy: on light of more than 3 sigma and
        elsewhere.
    cpu_s : float
    """

    tracks: float
    visible: float
    pixels: float
    false_stars: int
    false_sky: int
    cpu_s: float


def score_hits(prepared: Prepared, marked: np.ndarray, cpu_s: float) -> HitScore:
    """Judge marked pixels, (ny, nx) bool."""
    scene, truth = prepared.scene, prepared.truth
    bad = (prepared.photometric.mask & np.uint16(bits.HARD_BAD)) != 0
    marked = marked & ~bad
    hits, noise = truth.hits, star_noise(prepared)
    index, track = truth.hit_index, truth.hit_track
    usable = ~bad.flat[index]
    on_sky = (truth.hit_dn > HOT_SIGMA * prepared.noise) & usable
    visible = (truth.hit_dn > HOT_SIGMA * noise.flat[index]) & usable
    found = set(track[marked.flat[index]])
    shares = [np.mean([t in found for t in np.unique(track[some])]) for some in (on_sky, visible)]
    spiked = (hot_dn(scene, 30 + 0.5 * READOUT_S) > 2.0 * prepared.noise) | noisy(scene, truth)
    false = marked & ~grown(hits > 0, 1) & ~grown(spiked, 1)
    star = truth.light - truth.sky > STAR_SIGMA * prepared.noise
    return HitScore(
        float(shares[0]), float(shares[1]), float(marked.flat[index[visible]].mean()),
        int((false & star).sum()), int((false & ~star).sum()), cpu_s,
    )  # fmt: skip


def with_more_hits(prepared: Prepared, per_mpx: float = 150.0) -> Prepared:
    """The same quadrant with twenty times as many hits, so that a share of them is known to half a per cent."""
    scene, truth = prepared.scene, prepared.truth
    settings = scene.plan.config.detector.model_copy(update={"radiation_per_mpx": per_mpx})
    more, pixels = np.zeros(truth.shape, np.float32), prepared.arguments[0].copy()
    radiation(more, np.random.default_rng([scene.plan.seed, 3]), settings, 30.0, truth.gain)
    pixels += more
    hits = more + truth.hits
    labels, _ = ndimage.label(hits > 0, np.ones((3, 3), int))
    index = np.flatnonzero(hits)
    truth = replace(truth, hit_index=index, hit_dn=hits.flat[index], hit_track=labels.flat[index])
    return replace(prepared, truth=truth, arguments=(pixels, *prepared.arguments[1:]))


def our_hits(prepared: Prepared, config: MaskConfig) -> HitScore:
    """Ours, timed with everything that only this search needs."""
    pixels, mask, level, gain, readnoise, fwhm = prepared.arguments
    state = np.zeros(pixels.shape, np.uint8)

    def search() -> None:
        state[:] = masks._state(pixels, mask, config)
        noise = masks.sky_noise(pixels, level, state, gain, readnoise)
        read_variance = noise**2 - max(float(np.median(level)), 0.0) / gain
        masks.find_hits(pixels, level, state, gain, read_variance, fwhm, config)

    cpu = cpu_seconds(search)
    return score_hits(prepared, state == 1, cpu)


def their_hits(prepared: Prepared) -> HitScore:
    """L.A.Cosmic by astroscrappy, four iterations, one thread."""
    import astroscrappy

    pixels, mask, _, gain, readnoise, fwhm = prepared.arguments
    bad = (mask & np.uint16(bits.HARD_BAD)) != 0
    data = np.where(np.isfinite(pixels), pixels, np.float32(np.nanmedian(pixels[::7, ::7])))
    began = time.process_time()
    found, _ = astroscrappy.detect_cosmics(
        data, inmask=bad, sigclip=4.5, sigfrac=0.3, objlim=5.0, gain=gain, readnoise=readnoise, satlevel=48000.0, niter=4,
        cleantype="meanmask", fsmode="median", psffwhm=fwhm, sepmed=True,
    )  # fmt: skip
    return score_hits(prepared, found, time.process_time() - began)


# --- ghosts and halos over the focal plane -----------------------------------------------------------------------------------


def focal_plane(name: str, noise: float, every: int = 1) -> list[Score]:
    """Ghosts and halos of all quadrants of the real camera (or of every n-th), positions from the nominal geometry."""
    plan = plan_of(name, ZTF)
    exposure = next(e for e in plan.exposures if e.kind == "o")
    config, state, shape = MaskConfig(), conditions(plan, exposure), ZTF.quadrant_shape
    counts = {bits.GHOST: np.zeros(4), bits.HALO: np.zeros(4)}
    for rcid in ZTF.rcids[::every]:
        wcs = quadrant_wcs(plan, state, rcid)
        stars, _ = sky_patch(plan.seed, wcs.ra0, wcs.dec0, ZTF.radius_deg() + CATALOG_MARGIN_DEG, plan.config.sky)
        x, y = wcs.to_pixel(*propagate(stars, exposure.jd))
        axis = ZTF.approximate_wcs(exposure.ra, exposure.dec, *ccd_qid(rcid)).world_to_pixel_values(
            exposure.ra, exposure.dec
        )
        mask = np.zeros(shape, np.uint16)
        masks.paint_ghosts(
            mask,
            np.column_stack([x, y, stars["gaia"]]),
            config.ghosts,
            (float(axis[0]), float(axis[1])),
            ZTF.pixel_scale_arcsec,
        )
        found = rings(plan, exposure, rcid)
        for bit, sums in counts.items():
            deserve, carry = lit(found, shape, bit == bits.HALO, REFLECTION_SIGMA * noise), (mask & np.uint16(bit)) != 0
            may = lit(found, shape, bit == bits.HALO, 0.5 * REFLECTION_SIGMA * noise)
            sums += deserve.sum(), carry.sum(), (deserve & carry).sum(), (grown(may, 4) & carry).sum()
    return [
        Score(name, int(n), int(m), float(both / n) if n else np.nan, float(right / m) if m else np.nan)
        for name, (n, m, both, right) in (("GHOST", counts[bits.GHOST]), ("HALO", counts[bits.HALO]))
    ]


# --- tracks ------------------------------------------------------------------------------------------------------------------


def trail_ends(truth: Truth) -> list[tuple[float, float, float, float]]:
    """Where each satellite trail enters and leaves the quadrant."""
    ny, nx = truth.shape
    out = []
    for x0, y0, x1, y1, _ in truth.trails:
        t = np.linspace(0, 1, 200_001)
        x, y = x0 + t * (x1 - x0), y0 + t * (y1 - y0)
        inside = np.flatnonzero((x > -0.5) & (y > -0.5) & (x < nx - 0.5) & (y < ny - 0.5))
        if inside.size:
            i, j = inside[0], inside[-1]
            out.append((x[i], y[i], x[j], y[j]))
    return out


def end_error(track: Track, truth: tuple[float, float, float, float]) -> float:
    """Larger distance of the two ends from the true ones, pixels."""
    a, b = np.array(truth[:2]), np.array(truth[2:])
    p, q = np.array([track.x0, track.y0]), np.array([track.x1, track.y1])
    straight = max(np.hypot(*(p - a)), np.hypot(*(q - b)))
    return float(min(straight, max(np.hypot(*(p - b)), np.hypot(*(q - a)))))


def draw_trail(
    rng: np.random.Generator, shape: tuple[int, int], least_px: float = 600.0
) -> tuple[np.ndarray, np.ndarray]:
    """A random chord at least so long, as its two points on the border: (2,), (2,) float64."""
    ny, nx = shape
    while True:
        angle, at = rng.uniform(0, np.pi), rng.uniform(0, 1, 2) * (nx - 1, ny - 1)
        step = np.array([np.cos(angle), np.sin(angle)])
        with np.errstate(divide="ignore"):
            reach = np.sort(np.stack([(0 - at) / step, (np.array([nx - 1, ny - 1]) - at) / step]), axis=0)
        low, high = reach[0].max(), reach[1].min()
        if high - low > least_px:
            return at + low * step, at + high * step


def add_trail(
    pixels: np.ndarray, a: np.ndarray, b: np.ndarray, peak: float, fwhm: float, gain: float, rng: np.random.Generator
) -> None:
    """Paint a trail of Gaussian profile with its photon noise, in place."""
    ny, nx = pixels.shape
    span = np.hypot(*(b - a))
    sigma = fwhm / 2.3548
    n = int(span)
    t = np.arange(n) / n
    ix, iy = (np.rint(a[k] + t * (b[k] - a[k])).astype(int) for k in (0, 1))
    steep = abs(b[1] - a[1]) > abs(b[0] - a[0])
    rows, columns = [], []
    for d in range(-10, 11):
        rows.append(iy if steep else iy + d)
        columns.append(ix + d if steep else ix)
    flat = np.unique(
        np.concatenate([np.clip(r, 0, ny - 1) * nx + np.clip(c, 0, nx - 1) for r, c in zip(rows, columns, strict=True)])
    )
    y, x = np.divmod(flat, nx)
    distance = ((x - a[0]) * (b[1] - a[1]) - (y - a[1]) * (b[0] - a[0])) / span
    light = peak * np.exp(-0.5 * (distance / sigma) ** 2)
    pixels.flat[flat] += (light + rng.normal(size=flat.size) * np.sqrt(light / gain)).astype(np.float32)


def trail_table(
    prepared: Prepared, config: MaskConfig, n: int, peaks: tuple[float, ...] = (0.3, 0.5, 1.0, 2.0, 10.0)
) -> list[tuple[float, ...]]:
    """Planted trails by peak brightness in sigmas of the sky: share found, median error of their ends (px), false tracks each."""
    pixels, mask, level, gain, readnoise, fwhm = prepared.arguments
    state = masks._state(pixels, mask, config)
    noise = masks.sky_noise(pixels, level, state, gain, readnoise)
    before = len(find_tracks(pixels, level, state, noise, config))
    out = []
    for peak in peaks:
        rng, errors, others = np.random.default_rng(2000), [], 0
        for _ in range(n):
            image = pixels.copy()
            a, b = draw_trail(rng, pixels.shape)
            add_trail(image, a, b, peak * prepared.noise, fwhm, gain, rng)
            tracks = find_tracks(image, level, state, noise, config)
            best = min((end_error(track, (*a, *b)) for track in tracks), default=np.inf)
            errors.append(best)
            others += len(tracks) - (best < 100) - before
        near = np.array(errors) < 100
        out.append(
            (peak, float(near.mean()), float(np.median(np.array(errors)[near])) if near.any() else np.nan, others / n)
        )
    return out


# --- tables ------------------------------------------------------------------------------------------------------------------


def steps(prepared: Prepared, config: MaskConfig) -> dict[str, float]:
    """CPU seconds of the whole step and of its parts."""
    pixels, mask, level, gain, readnoise, fwhm = prepared.arguments
    state = masks._state(pixels, mask, config)
    noise = masks.sky_noise(pixels, level, state, gain, readnoise)
    quiet = config.model_copy(update={"ghosts": (), "track_max": 0})
    return {
        "whole step": cpu_seconds(lambda: artifacts(prepared, config)),
        "hits": cpu_seconds(lambda: masks.find_hits(pixels, level, state.copy(), gain, noise**2, fwhm, config)),
        "tracks": cpu_seconds(lambda: find_tracks(pixels, level, state, noise, config)),
        "all but tracks and ghosts": cpu_seconds(lambda: artifacts(prepared, quiet)),
    }


def show(prepared: Prepared, trails: int, astroscrappy: bool) -> None:
    """Print everything about one scene."""
    scene, config = prepared.scene, prepared.scene.config.science.masks
    made = run.run(scene.inputs(), scene.config.science)
    print(
        f"\n{scene.name} quadrant {scene.qid}: FWHM {prepared.photometric.fwhm_px:.2f} px, sky noise {prepared.noise:.2f} DN"
    )
    print(f"{'bit':<15}{'deserve it':>11}{'carry it':>10}{'completeness':>14}{'purity':>9}")
    for row in judge(prepared, made.mask, made.pixels):
        print(f"{row.name:<15}{row.deserve:>11}{row.carry:>10}{row.completeness:>14.4f}{row.purity:>9.4f}")
    print(f"{'radiation':<24}{'tracks':>8}{'visible':>9}{'pixels':>8}{'false on stars':>16}{'on sky':>8}{'CPU-s':>8}")
    for label, case in (("", prepared), (", 20 x hits", with_more_hits(prepared))):
        rivals = {"ours": our_hits(case, config)} | ({"astroscrappy": their_hits(case)} if astroscrappy else {})
        for name, hit in rivals.items():
            print(
                f"{name + label:<24}{hit.tracks:>8.4f}{hit.visible:>9.4f}{hit.pixels:>8.4f}{hit.false_stars:>16}{hit.false_sky:>8}"
                f"{hit.cpu_s:>8.3f}"
            )
    for ends in trail_ends(prepared.truth):
        errors = [end_error(track, ends) for track in artifacts(prepared, config).tracks]
        print(f"trail {np.round(ends)}: " + (f"ends off by {min(errors):.1f} px" if errors else "not found"))
    if trails:
        print(f"planted trails{'':6}{'found':>8}{'ends off, px':>14}{'false':>8}")
        for peak, share, error, false in trail_table(prepared, config, trails):
            print(f"{peak:>8.1f} sigma{'':6}{share:>8.2f}{error:>14.1f}{false:>8.2f}")
    print("CPU-s: " + ", ".join(f"{name} {value:.3f}" for name, value in steps(prepared, config).items()))


def main() -> None:
    """Print the tables of all scenes asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", nargs="*", default=list(JUDGES.values()))
    parser.add_argument("--trails", type=int, default=0, help="planted trails of each brightness")
    parser.add_argument("--focal-plane", type=int, default=0, help="ghosts and halos of every n-th of the 64 quadrants")
    parser.add_argument("--no-astroscrappy", action="store_true")
    arguments = parser.parse_args()
    for name in arguments.scenes:
        prepared = prepare(load(name))
        show(prepared, arguments.trails, not arguments.no_astroscrappy)
        if arguments.focal_plane:
            for row in focal_plane(name, prepared.noise, arguments.focal_plane):
                print(
                    f"focal plane, {row.name:<8}{row.deserve:>12}{row.carry:>12}{row.completeness:>10.4f}{row.purity:>9.4f}"
                )


if __name__ == "__main__":
    main()
