"""Sample alert packets made of synthetic numbers and stamps: what a reader of the stream can be tried on, without data of anyone."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from ztfds.alerts.forced import OFF_IMAGE, OK, SOME_BAD
from ztfds.alerts.packet import Packet, Stamps, build_packet, identify
from ztfds.formats.alertschema import SCHEMA_VERSION, schema_files
from ztfds.survey import ids

JD, FIELD, RCID = 2458559.807662, 712, 30
RA, DEC, ZEROPOINT = 157.1, 40.2, 26.275
_SIZE, _FWHM_PX, _SKY_DN, _NOISE_DN = 63, 2.2, 150.0, 6.5


def schema_folder() -> dict[str, bytes]:
    """Files of one version's folder: the schema, record by record, and the sample packets; by path."""
    found = {
        f"{SCHEMA_VERSION}/{name}": (json.dumps(document, indent=2) + "\n").encode()
        for name, document in schema_files().items()
    }
    for name, packet in sample_packets().items():
        found[f"{SCHEMA_VERSION}/samples/{name}.avro"] = packet.content
    return found


def sample_packets() -> dict[str, Packet]:
    """One packet of each kind that a reader must understand, always the same."""
    return {
        "new_source": _packet(1, True, days=()),
        "supernova_with_history": _packet(2, True, days=(21.0, 15.9, 12.0, 9.1, 6.0, 3.0, 0.03)),
        "negative_at_the_edge": _packet(3, False, days=(2.0,), cut=20),
        "partnership": _packet(4, True, days=(5.0, 4.0), program=2),
    }


def _packet(number: int, positive: bool, days: tuple[float, ...], program: int = 1, cut: int = 0) -> Packet:
    """A packet with images `days` before it; `cut` columns of its stamps lie off the image."""
    rng = np.random.default_rng(number)
    pid, candid = identify(JD, RCID, positive, number)
    flux = 5000.0 if positive else -2500.0
    measured = {
        **_detection(flux, rng),
        "isdiffpos": "t" if positive else "f",
        "tblid": number,
        "neargaia": 12.5,
        "maggaia": 18.25,
        "nmtchps": 1,
        "distpsnr1": 1.5,
        "sgscore1": 0.02,
        "objectidps1": 156881570987654321,
        "nmatches": 345,
    }
    known = {
        **_image(0.0, program),
        "pid": pid,
        "candid": candid,
        "rfid": ids.rfid(FIELD, 2, RCID),
        "jdstartref": JD - 400,
        "jdendref": JD - 300,
        "nframesref": 15,
        "ndethist": 1 + sum(day < 14 for day in days),
        "ncovhist": 1 + len(days),
        "jdstarthist": JD - max((day for day in days if day < 14), default=0.0),
        "jdendhist": JD,
    }
    return build_packet(
        measured,
        known,
        objectid=ids.object_name(number, 2019),
        prv_candidates=[_earlier(day, flux, program, rng) for day in days] or None,
        fp_hists=[_forced(k, day, flux, program, rng) for k, day in enumerate(days)] or None,
        cutouts=_stamps(flux, cut, rng),
    )


def _image(days: float, program: int) -> dict[str, Any]:
    """What is known of an image `days` before the present one."""
    jd = JD - days
    return {
        "jd": jd, "fid": 2, "pid": ids.pid(jd, RCID), "programid": program, "programpi": "Sample", "nid": ids.nid(jd),
        "rcid": RCID, "field": FIELD, "diffmaglim": 20.5, "exptime": 30.0, "magzpsci": ZEROPOINT, "magzpsciunc": 1e-4,
        "magzpscirms": 0.03, "clrcoeff": 0.09, "clrcounc": 1e-4, "rbversion": "sample", "drbversion": "sample",
        "pdiffimfilename": f"ztf_{ids.filefracday(jd)}_{FIELD:06d}_zr_c08_o_q3_scimrefdiffimg.fits.fz",
    }  # fmt: skip


def _detection(flux: float, rng: np.random.Generator) -> dict[str, Any]:
    """Measurements of a source of this flux, DN; positions 1-based as packets give them."""
    error = 25.0
    mag = ZEROPOINT - 2.5 * math.log10(abs(flux))
    return {
        "xpos": 1500.5, "ypos": 1600.25, "ra": RA + rng.normal(0, 2e-5), "dec": DEC + rng.normal(0, 2e-5),
        "magpsf": mag, "sigmapsf": 1.0857 * error / abs(flux), "chipsf": 1.1, "magap": mag + 0.02, "sigmagap": 0.05,
        "magapbig": mag + 0.01, "sigmagapbig": 0.06, "magdiff": 0.02, "sky": 0.25, "fwhm": _FWHM_PX, "classtar": 0.98,
        "elong": 1.05, "nneg": 1, "nbad": 0, "sumrat": 0.97, "scorr": abs(flux) / error, "rb": 0.9, "drb": 0.99,
        "distnr": 1.2, "magnr": 19.5, "sigmagnr": 0.03, "chinr": 0.8, "sharpnr": 0.01, "ranr": RA, "decnr": DEC,
        "mindtoedge": 1470.0, "magfromlim": 20.5 - mag, "seeratio": 1.0,
    }  # fmt: skip


def _earlier(days: float, flux: float, program: int, rng: np.random.Generator) -> dict[str, Any]:
    """A row of history: an upper limit before day 14, then a detection that gets brighter."""
    image = _image(days, program)
    if days >= 14:
        return {**image, "candid": None}
    found = {**_detection(flux * (1 - days / 15), rng), "isdiffpos": "t" if flux > 0 else "f", "tblid": 1}
    return {**image, **found, "candid": ids.candid(image["pid"], flux > 0, 1)}


def _forced(k: int, days: float, flux: float, program: int, rng: np.random.Generator) -> dict[str, Any]:
    """A row of forced photometry; the second has a bad pixel, the third lies at an edge."""
    image = {
        **_image(days, program), "rfid": ids.rfid(FIELD, 2, RCID), "sciinpseeing": _FWHM_PX, "scibckgnd": _SKY_DN,
        "scisigpix": _NOISE_DN, "adpctdif1": 0.07, "adpctdif2": 0.08, "distnr": 1.21, "ranr": RA, "decnr": DEC,
        "magnr": 19.5, "sigmagnr": 0.03, "chinr": 0.8, "sharpnr": 0.01,
    }  # fmt: skip
    if k == 2:
        return {**image, "procstatus": OFF_IMAGE}
    true = flux * max(0.0, 1 - days / 15) if days < 14 else 0.0
    measured = {"forcediffimflux": true + rng.normal(0, 25.0), "forcediffimfluxunc": 25.0}
    return {**image, **measured, "procstatus": SOME_BAD if k == 1 else OK}


def _stamps(flux: float, cut: int, rng: np.random.Generator) -> Stamps:
    """Science, template and difference of a point source beside a faint one."""
    y, x = np.indices((_SIZE, _SIZE)) - _SIZE // 2

    def star(dy: float, dx: float) -> np.ndarray:
        s2 = 2 * (_FWHM_PX / 2.3548) ** 2
        return np.exp(-((y - dy) ** 2 + (x - dx) ** 2) / s2) / (np.pi * s2)

    template = _SKY_DN + 3000 * star(0.2, 1.0) + 6000 * star(-12, 17) + rng.normal(0, _NOISE_DN / 4, y.shape)
    science = template + flux * star(0, 0) + rng.normal(0, _NOISE_DN, y.shape)
    stamps = [stamp.astype(np.float32) for stamp in (science, template, np.sign(flux) * (science - template))]
    for stamp in stamps:
        stamp[:, _SIZE - cut :] = np.nan
    return stamps[0], stamps[1], stamps[2]
