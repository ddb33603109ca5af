"""False alerts and false streaks per quadrant, counted over many exposures of the pairs.

    python -m benchmarks.difference.repeats 30 quiet-1011 plane-1012

One exposure has few false ones, too few to compare with a mark. The science exposure of each pair is taken again and again, two
minutes apart, with its own noise, radiation hits, trails, fast movers, asteroids and conditions, misregistered by 0.1 to 0.3 px,
through P2, P5 and P6 against the reference of the pair. Stars, galaxies, reference and transients stay, so that what is false
because of one of these is counted in every exposure: errors are those of counts if nothing were so.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from benchmarks.difference import judge, pairs
from benchmarks.difference.pairs import Pair
from benchmarks.streaks import not_real
from ztfds.difference import run as difference
from ztfds.difference.candidates import passes_trigger
from ztfds.difference.products import DifferenceProducts
from ztfds.simulator.schedule import Plan

OUT = Path(__file__).resolve().parents[2] / "var" / "bench" / "repeats.json"
SPACING_S = 120.0
SHIFT_PX, TURN_RAD = (0.1, 0.3), 5e-5
COMPLETENESS = 0.99
FACTS = ("x", "y", "drb", "rb", "scorr", "magpsf", "fwhm", "nbad", "elong", "distnr")

Row = dict[str, Any]


def plan_again(pair: Pair, k: int) -> Plan:
    """The plan of the pair with its science exposure so many times two minutes later."""
    later = replace(pair.exposure, jd=pair.exposure.jd + k * SPACING_S / 86400)
    return replace(pair.plan, exposures=tuple(later if e is pair.exposure else e for e in pair.plan.exposures))


def taken(pair: Pair, k: int) -> tuple[DifferenceProducts, np.ndarray, np.ndarray]:
    """Difference of the exposure taken again, what is in it, and (n, 2) px where something moved through the reference."""
    plan, rng = plan_again(pair, k), np.random.default_rng([pair.plan.seed, k])
    size, angle = rng.uniform(*SHIFT_PX), rng.uniform(0, 2 * np.pi)
    shift = float(size * np.cos(angle)), float(size * np.sin(angle))
    inputs, truth = pairs.taken_again(pair, plan, shift, float(rng.uniform(-TURN_RAD, TURN_RAD)))
    movers = replace(pair, plan=plan).movers
    return difference.run(inputs, pair.config.difference), truth, movers


def counted(pair: Pair, k: int) -> Row:
    """Candidates and streaks of one exposure, the false ones among them, and scores of real and false alerts."""
    made, truth, movers = taken(pair, k)
    table = made.candidates
    places = np.column_stack([table["x"], table["y"]]).astype(float)
    alerted = np.array([passes_trigger(row, pair.config.difference.candidates) for row in table], bool)
    false = _far(places, judge.changing_places(truth, movers), judge.FALSE_PX)
    transients = truth[(truth["kind"] == "transient") & ~truth["near_saturated"]]
    real = ~_far(places, np.column_stack([transients["x"], transients["y"]]), judge.FOUND_PX)
    streaks = not_real(made.streaks.table, truth)
    return {
        "status": made.status, "reason": made.reason, "candidates": len(table), "false": int(false.sum()),
        "real_alerts": _facts(table[real & alerted]), "false_alerts": _facts(table[false & alerted]),
        "streaks": len(made.streaks.table), "false_streaks": streaks, "fast": int(np.count_nonzero(truth["kind"] == "fast")),
        "trails": int(np.count_nonzero(truth["kind"] == "trail")),
    }  # fmt: skip


def _facts(rows: np.ndarray) -> dict[str, list[float]]:
    """What is worth knowing of some alerts."""
    return {name: rows[name].astype(float).tolist() for name in FACTS}


def _far(places: np.ndarray, others: np.ndarray, limit_px: float) -> np.ndarray:
    """(n,) bool: positions with none of the others so near."""
    if not len(places) or not len(others):
        return np.ones(len(places), bool)
    return cKDTree(others).query(places)[0] > limit_px


def in_words(name: str, rows: list[Row]) -> list[str]:
    """Means per exposure with the errors of the counts."""
    good = [row for row in rows if row["status"] == 1]
    n = max(1, len(good))
    scores = np.array([score for row in good for score in row["real_alerts"]["drb"]])
    cut = float(np.quantile(scores, 1 - COMPLETENESS)) if scores.size else float("nan")
    false = [score for row in good for score in row["false_alerts"]["drb"]]
    fast, found = sum(row["fast"] for row in good), sum(row["streaks"] - len(row["false_streaks"]) for row in good)

    def mean(total: int) -> str:
        return f"{total / n:.2f} +- {np.sqrt(total) / n:.2f}"

    return [
        f"{name}: {len(rows)} exposures, {len(good)} good; {scores.size} real alerts, cut {cut:.3f}",
        f"  false candidates {mean(sum(row['false'] for row in good))}, past the packets' criteria {mean(len(false))},"
        f" past the cut too {mean(sum(score >= cut for score in false))}",
        f"  false streaks {mean(sum(len(row['false_streaks']) for row in good))}; {found} rows on {fast} fast movers;"
        f" {sum(row['trails'] for row in good)} trails",
    ]


def main(arguments: list[str]) -> None:
    """Count, print, and keep everything in var/bench/repeats.json."""
    number, names = int(arguments[0]), arguments[1:]
    known = json.loads(OUT.read_text()) if OUT.exists() else {}
    for name in names:
        pair, rows = pairs.load(name), known.setdefault(name, [])
        for k in range(len(rows) + 1, number + 1):
            rows.append(counted(pair, k))
            OUT.write_text(json.dumps(known))
        print(*in_words(name, rows), sep="\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
