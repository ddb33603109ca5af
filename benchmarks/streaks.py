"""Completeness and purity of the search for streaks, end to end: fast movers painted by the simulator, then P2, P5 and P6.

    python -m benchmarks.streaks quiet-1011 plane-1012
    python -m benchmarks.streaks --plot docs/images/streaks.png

Each pair of `benchmarks.difference.pairs` is rendered again with many fast movers in its science exposure; sky, detector, noise
and reference stay. The matched-filter S/N of a streak is its true flux through the trailed PSF of the difference on blank sky:
what an ideal search could see. Streaks are found where the middle of a table row lies within half their length (at least 4 px) of
theirs. False ones are rows whose middle lies on no fast mover, in the ordinary exposure (satellites and artefacts included) and in
those with many painted streaks.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.difference import pairs
from benchmarks.difference.pairs import Pair
from ztfds.difference import run as difference
from ztfds.difference.products import DifferenceProducts
from ztfds.simulator.schedule import Plan

OUT = Path(__file__).resolve().parents[1] / "var" / "bench" / "streaks.json"
N_MOVERS = 80
RUNS = (
    ((8.0, 150.0), (5.0, 9.0)),
    ((10.0, 70.0), (6.5, 9.5)),
    ((8.0, 150.0), (8.0, 30.0)),
    ((12.0, 60.0), (5.0, 6.2)),
    ((12.0, 60.0), (5.3, 6.6)),
)
"""Ranges of length, px, and S/N (under nominal conditions: the exposure is better) of the painted streaks, one rendering each."""
LENGTHS = (8.0, 12.0, 20.0, 35.0, 60.0, 150.0)
SNRS = (5.0, 6.0, 7.0, 7.5, 8.5, 10.0, 15.0, 100.0)
PLOTTED, PLOT_SNRS = ((8.0, 12.0), (12.0, 60.0), (60.0, 150.0)), (4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 11.0, 14.0, 20.0)
LEAST_PX = 4.0


def with_movers(plan: Plan, number: float, lengths: tuple[float, float], snr: tuple[float, float]) -> Plan:
    """The same plan with more fast movers."""
    update = {"fast_movers_per_quadrant": number, "fast_mover_length_px": lengths, "fast_mover_snr": snr}
    sky = plan.config.sky.model_copy(update=update)
    return replace(plan, config=plan.config.model_copy(update={"sky": sky}))


def rendered(pair: Pair, plan: Plan) -> tuple[DifferenceProducts, np.ndarray]:
    """Difference of the science exposure of a plan against the reference of the pair, and what was painted."""
    inputs, truth = pairs.taken_again(pair, plan)
    config = pair.config.difference
    many = config.model_copy(update={"streaks": config.streaks.model_copy(update={"max_streaks": 10 * N_MOVERS})})
    return difference.run(inputs, many), truth


def ideal_snr(made: DifferenceProducts, row: np.void) -> float:
    """Matched-filter S/N of a streak on blank sky: flux times the root of the summed squares of its profile over the noise."""
    length = float(np.hypot(row["x2"] - row["x"], row["y2"] - row["y"]))
    n = max(int(3 * length), 1)
    t = ((np.arange(n) + 0.5) / n - 0.5) * length
    size = 2 ** int(np.ceil(np.log2(length + 2 * made.psf.shape[0])))
    frequency = np.fft.fftfreq(size)
    angle = np.arctan2(row["y2"] - row["y"], row["x2"] - row["x"])
    shift = frequency[None, :] * np.cos(angle) + frequency[:, None] * np.sin(angle)
    line = np.mean([np.exp(-2j * np.pi * shift * s) for s in t], axis=0)
    profile = np.fft.ifft2(np.fft.fft2(made.psf.astype(float), (size, size)) * line).real
    noise = made.qa["diff_sigma_dn"] / made.qa["diff_sigma_ratio"]
    return float(row["flux"] * np.sqrt(np.sum(profile**2)) / noise)


def injected(
    pair: Pair, lengths: tuple[float, float], snr: tuple[float, float]
) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    """One row per painted streak whose middle is on the image: length, S/N, whether found and with what errors; false ones."""
    made, truth = rendered(pair, with_movers(pair.plan, N_MOVERS, lengths, snr))
    table, (ny, nx) = made.streaks.table, made.pixels.shape
    out = []
    for row in truth[truth["kind"] == "fast"]:
        x, y = 0.5 * (row["x"] + row["x2"]), 0.5 * (row["y"] + row["y2"])
        if not (0 <= x < nx and 0 <= y < ny):
            continue
        length = float(np.hypot(row["x2"] - row["x"], row["y2"] - row["y"]))
        near = np.hypot(table["x"] - x, table["y"] - y) < max(0.5 * length, LEAST_PX)
        facts: dict[str, Any] = {"length": length, "snr": ideal_snr(made, row), "found": bool(near.any())}
        facts["inside"] = bool(min(row["x"], row["x2"]) >= 0 and max(row["x"], row["x2"]) < nx) and bool(
            min(row["y"], row["y2"]) >= 0 and max(row["y"], row["y2"]) < ny
        )
        if near.any():
            facts.update(_errors(table[near][0], row, length))
        out.append(facts)
    return out, not_real(table, truth)


def not_real(table: np.ndarray, truth: np.ndarray) -> list[dict[str, float]]:
    """Rows of a streak table whose middle lies on no fast mover."""
    fast = truth[truth["kind"] == "fast"]
    angle = np.arctan2(fast["y2"] - fast["y"], fast["x2"] - fast["x"])
    half = 0.5 * np.hypot(fast["x2"] - fast["x"], fast["y2"] - fast["y"])
    out = []
    for row in table:
        dx, dy = row["x"] - 0.5 * (fast["x"] + fast["x2"]), row["y"] - 0.5 * (fast["y"] + fast["y2"])
        along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        if not np.any((np.abs(along) < half + LEAST_PX) & (np.abs(across) < LEAST_PX)):
            out.append({k: float(row[k]) for k in ("x", "y", "length", "snr", "prob", "pointdrop")})
    return out


def _errors(found: np.void, row: np.void, length: float) -> dict[str, float]:
    """Deviations from truth and their errors."""
    turn = np.arctan2(found["y2"] - found["y1"], found["x2"] - found["x1"])
    turn -= np.arctan2(row["y2"] - row["y"], row["x2"] - row["x"])
    first = np.hypot(found["x1"] - row["x"], found["y1"] - row["y"])
    other = np.hypot(found["x1"] - row["x2"], found["y1"] - row["y2"])
    return {
        "prob": float(found["prob"]),
        "fit_snr": float(found["snr"]),
        "end_px": float(min(first, other)),
        "length_pull": float((found["length"] - length) / found["lengtherr"]),
        "flux_ratio": float(found["flux"] / row["flux"]),
        "flux_pull": float((found["flux"] - row["flux"]) / found["fluxerr"]),
        "turn_pull": float(np.degrees((turn + np.pi / 2) % np.pi - np.pi / 2) / found["paerr"]),
    }


def ordinary(pair: Pair) -> dict[str, Any]:
    """The exposure as it is: its fast movers, how many were found, satellites, and false streaks."""
    made, truth = rendered(pair, pair.plan)
    false, fast = not_real(made.streaks.table, truth), truth[truth["kind"] == "fast"]
    return {
        "false": false,
        "fast": int(fast.size),
        "fast_found": len(made.streaks.table) - len(false),
        "trails": int(np.count_nonzero(truth["kind"] == "trail")),
        "tried": made.streaks.tried,
    }


def completeness(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Found of painted by length and S/N."""
    out = []
    for low, high in pairwise(LENGTHS):
        line = [f"{low:.0f}-{high:.0f} px"]
        for s0, s1 in pairwise(SNRS):
            part = [r for r in rows if low <= r["length"] < high and s0 <= r["snr"] < s1]
            line.append(f"{sum(r['found'] for r in part)}/{len(part)}")
        out.append(line)
    return out


def plot(path: Path) -> None:
    """Completeness against S/N for short, middle and long streaks of every pair measured."""
    from matplotlib.figure import Figure

    known = json.loads(OUT.read_text())
    figure = Figure(figsize=(3.4 * len(known), 2.8), layout="constrained")
    for k, (name, made) in enumerate(sorted(known.items(), reverse=True)):
        axes = figure.add_subplot(1, len(known), k + 1, title=name, xlabel="matched-filter S/N", ylim=(0, 1.05))
        for low, high in PLOTTED:
            part = [r for r in made["rows"] if low <= r["length"] < high]
            shares = [[r["found"] for r in part if a <= r["snr"] < b] for a, b in pairwise(PLOT_SNRS)]
            middles = [0.5 * (a + b) for a, b in pairwise(PLOT_SNRS)]
            seen = [
                (m, np.mean(s), np.sqrt(np.mean(s) * (1 - np.mean(s)) / len(s)))
                for m, s in zip(middles, shares, strict=True)
                if s
            ]
            snr, share, error = np.array(seen).T
            axes.errorbar(snr, share, error, fmt="o-", ms=3, capsize=2, label=f"{low:.0f}-{high:.0f} px")
        axes.axhline(0.9, color="0.7", lw=0.8)
        axes.set_ylabel("found" if k == 0 else "")
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=90)


def main(names: list[str]) -> None:
    """Measure, print tables, and keep everything in var/bench/streaks.json."""
    known = json.loads(OUT.read_text()) if OUT.exists() else {}
    for name in names:
        pair, start = pairs.load(name), time.process_time()
        runs = [injected(pair, *run) for run in RUNS]
        rows = [row for painted, _ in runs for row in painted]
        known[name] = {"rows": rows, **ordinary(pair), "false_beside": [row for _, false in runs for row in false]}
        OUT.write_text(json.dumps(known))
        print(name, f"{time.process_time() - start:.0f} CPU-s; S/N", *SNRS)
        for line in completeness(rows):
            print("  ", *line)
        marked = [r for r in rows if 12 <= r["length"] <= 60 and 7.5 <= r["snr"] < 8.5]
        print(f"   12-60 px at S/N 7.5-8.5: {np.mean([r['found'] for r in marked]):.2f} of {len(marked)}")
        good = [r for r in rows if r["found"] and r["inside"]]
        for key in ("length_pull", "flux_pull", "flux_ratio", "turn_pull", "end_px"):
            values = np.array([r[key] for r in good])
            print(
                f"   {key}: median {np.median(values):.2f}, 16-84 % {np.subtract(*np.percentile(values, [84, 16])) / 2:.2f}"
            )
        print("   ordinary:", {k: v for k, v in known[name].items() if k not in ("rows", "false_beside")})
        print(f"   false among the painted, {len(RUNS)} images:", known[name]["false_beside"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plot"]:
        plot(Path(sys.argv[2]))
    else:
        main(sys.argv[1:] or ["quiet-1011", "plane-1012"])
