"""Alert packets as a quadrant makes them: arguments of our own builder, and the same packet made with common libraries."""

from __future__ import annotations

import gzip
import io
from typing import Any

import fastavro
import numpy as np
from astropy.io import fits

from ztfds.formats.alertschema import CANDIDATE, FP_HIST, PRV_CANDIDATE, fields
from ztfds.survey import ids

JD0 = 2458849.7
N_PAST, N_FORCED = 41, 20


def row(record: str, rng: np.random.Generator, **known: Any) -> dict[str, Any]:
    """A row with a value in every field of a record."""
    filler = {"float": 18.125 + rng.random(), "double": 150.5, "int": 3, "long": 1095302505615, "string": "text"}
    return {**{f.name: filler[f.kind] for f in fields()[record]}, **known}


def past(rng: np.random.Generator) -> list[dict[str, Any]]:
    """History of one alert: 41 rows."""
    return [row(PRV_CANDIDATE, rng, programid=1, jd=JD0 + 0.7 * j) for j in range(N_PAST)]


def arguments(number: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Arguments of `build_packet` as they come from a quadrant: 41 rows of history and 20 of forced photometry each."""
    made = []
    for k in range(number):
        pid = ids.pid(JD0 + 29.3, 20)
        stamps = tuple(rng.normal(150, 8, (63, 63)).astype(np.float32) for _ in range(3))
        facts = {"pid": pid, "candid": ids.candid(pid, True, k), "jd": JD0 + 29.3, "programid": 1, "isdiffpos": "t"}
        forced = [row(FP_HIST, rng, programid=1, jd=JD0 + 1.4 * j) for j in range(N_FORCED)]
        made.append({"candidate": row(CANDIDATE, rng), "facts": facts, "objectid": "ZTF20aaaaaaa",
                     "prv_candidates": past(rng), "fp_hists": forced, "cutouts": stamps})  # fmt: skip
    return made


def by_hand(alert: dict[str, Any], schema: Any) -> bytes:
    """The same packet by astropy's FITS, gzip of the standard library and fastavro."""
    record = {
        "schemavsn": "4.02",
        "publisher": "ztfds",
        "objectId": alert["objectid"],
        "candid": alert["facts"]["candid"],
    }
    record |= {"candidate": alert["candidate"] | alert["facts"], "prv_candidates": alert["prv_candidates"]}
    record["fp_hists"] = alert["fp_hists"]
    for key, pixels in zip(("cutoutScience", "cutoutTemplate", "cutoutDifference"), alert["cutouts"], strict=True):
        stamp = io.BytesIO()
        fits.PrimaryHDU(pixels, fits.Header({"BUNIT": "DN"})).writeto(stamp)
        record[key] = {"fileName": "x.fits.gz", "stampData": gzip.compress(stamp.getvalue())}
    content = io.BytesIO()
    fastavro.writer(content, schema, [record])
    return content.getvalue()
