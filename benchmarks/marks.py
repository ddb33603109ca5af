"""The marks that the pipeline sets itself, each held against the results of one run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Entry = dict[str, Any]
CHAIN = "SExtractor + PSFEx + SCAMP + astroscrappy (4)"
PHOTOMETRY, HITS, PSFEX, SCRAPPY = "PSF photometry", "cosmic rays", "SExtractor + PSFEx", "astroscrappy, 4 iterations"
CATALOGS = ("detection", PHOTOMETRY)
CLEAR = 0.005
"""Completeness differs clearly from here on: one source in 200."""


class Results:
    """Entries of one field by step and tool."""

    def __init__(self, entries: Sequence[Entry], field: str) -> None:
        self.field = field
        self._entries = {(e["step"], e["tool"]): e for e in entries if e["field"] == field and "cpu_s" in e}

    def cost(self, step: str, tool: str = "ours", what: str = "cpu_s") -> float:
        """cpu_s, wall_s or peak_mb; NaN where not measured."""
        return float(self._entries.get((step, tool), {}).get(what, math.nan))

    def number(self, step: str, name: str, tool: str = "ours") -> float:
        """One of the numbers of accuracy; NaN where not measured."""
        return float(self._entries.get((step, tool), {}).get("accuracy", {}).get(name, math.nan))

    def ratio(self, step: str, tool: str) -> float:
        """CPU of a tool over ours."""
        return self.cost(step, tool) / self.cost(step)

    def chain_ratio(self) -> float:
        """CPU of the other tools' chain over ours: of the chain or of its steps measured one by one, whichever is less.

        In the chain SExtractor also works on the satellite trails, which may take it longer than all the rest; in the
        steps they are masked beforehand.
        """
        steps = ((HITS, SCRAPPY), (PHOTOMETRY, PSFEX), ("astrometry", "SCAMP"))
        separate = sum(self.cost(step, tool) for step, tool in steps)
        return min(self.cost("whole chain", CHAIN), separate) / self.cost("whole chain")

    def beaten_at(self) -> list[str]:
        """Magnitude bins where another tool's catalog is clearly more complete than ours."""
        ours = self._entries.get(("PSF photometry", "ours"), {}).get("accuracy", {}).get("complete_by_mag", {})
        worse = set()
        for (step, tool), entry in self._entries.items():
            if step in CATALOGS and tool != "ours":
                theirs = entry["accuracy"]["complete_by_mag"]
                worse |= {b for b, value in ours.items() if theirs.get(b, 0.0) > value + CLEAR}
        return sorted(worse, key=float)


@dataclass(frozen=True)
class Mark:
    """One mark.

    Attributes
    ----------
    text : str
        What is measured.
    value : callable
        From the results to the number.
    good : callable
        From results and number to whether it is reached.
    limits : tuple of str
        In words, quiet field and plane; empty where there is none.
    shown : str
        Format of the number.
    """

    text: str
    value: Callable[[Results], float]
    good: Callable[[Results, float], bool]
    limits: tuple[str, str]
    shown: str = "{:.2f}"


def most(quiet: float, plane: float) -> Callable[[Results, float], bool]:
    """At most so much, of either sign."""
    return lambda r, v: abs(v) <= (quiet if r.field == "quiet" else plane)


def least(quiet: float, plane: float) -> Callable[[Results, float], bool]:
    """At least so much."""
    return lambda r, v: v >= (quiet if r.field == "quiet" else plane)


def within(quiet: tuple[float, float], plane: tuple[float, float]) -> Callable[[Results, float], bool]:
    """Between two numbers."""
    return lambda r, v: (quiet if r.field == "quiet" else plane)[0] <= v <= (quiet if r.field == "quiet" else plane)[1]


def accuracy_of(step: str, name: str) -> Callable[[Results], float]:
    """One of our numbers of accuracy."""
    return lambda r: r.number(step, name)


MARKS = (
    Mark("P2 + P5, reading and writing, CPU s", lambda r: r.cost("whole chain"), most(2.0, 12.0), ("≤ 2.0", "≤ 12")),
    Mark("peak memory, MB", lambda r: r.cost("whole chain", what="peak_mb"), most(1000, 1300), ("≤ 1000", "≤ 1300"), "{:.0f}"),
    Mark(f"times faster than {CHAIN}, trails masked", Results.chain_ratio, least(14, 8), ("≥ 14", "≥ 8"), "{:.1f}"),
    Mark("bright-star scatter, S/N > 300, %", accuracy_of(PHOTOMETRY, "bright_scatter_percent"),
         lambda r, v: most(0.41, 0.69)(r, v) and v <= r.number(PHOTOMETRY, "bright_scatter_percent", PSFEX),
         ("≤ PSFEx's, ≤ 0.41", "≤ PSFEx's, ≤ 0.69")),
    Mark("radiation-hit tracks found, %", lambda r: 100 * r.number(HITS, "tracks_found"),
         lambda r, v: v >= 100 * r.number(HITS, "tracks_found", SCRAPPY), ("≥ astroscrappy's", "≥ astroscrappy's"), "{:.1f}"),
    Mark("false pixels on stars", accuracy_of(HITS, "false_px_on_stars"),
         lambda r, v: v <= r.number(HITS, "false_px_on_stars", SCRAPPY), ("≤ astroscrappy's", "≤ astroscrappy's"), "{:.0f}"),
    Mark("astrometry, systematic floor per axis, mas", accuracy_of("astrometry", "floor_mas"), most(15, 20), ("≤ 15", "≤ 20"), "{:.1f}"),
    Mark("PSF photometry, bias at S/N > 50, mmag", accuracy_of(PHOTOMETRY, "flux_bias_mmag"), most(3, 10), ("< 3", "< 10 isolated"),
         "{:+.1f}"),
    Mark("PSF photometry, pull width", accuracy_of(PHOTOMETRY, "pull_width"), within((0.95, 1.10), (0.9, 1.3)),
         ("0.95 to 1.10", "0.9 to 1.3")),
    Mark("completeness at S/N 5, %", lambda r: 100 * r.number(PHOTOMETRY, "complete_snr5"), least(90, 0), ("≥ 90", ""), "{:.1f}"),
    Mark("completeness at S/N 10, %", lambda r: 100 * r.number(PHOTOMETRY, "complete_snr10"), least(99, 0), ("≥ 99", ""), "{:.1f}"),
    Mark("spurious at S/N > 5, %", lambda r: 100 * r.number(PHOTOMETRY, "spurious"), most(2, 100), ("≤ 2", ""), "{:.1f}"),
    Mark("magnitude bins in which another tool is more complete", lambda r: float(len(r.beaten_at())), most(100, 0), ("", "none"),
         "{:.0f}"),
    Mark("zero point, error, mmag", accuracy_of("whole chain", "zp_error_mmag"), most(3, 6), ("≤ 3", "≤ 6"), "{:+.1f}"),
    Mark("bias of 20, times faster than ccdproc", lambda r: r.ratio("bias of 20", "ccdproc"), least(10, 10), ("≥ 10", ""), "{:.1f}"),
    Mark("bias of 20, noise over ideal", accuracy_of("bias of 20", "noise_over_ideal"), most(1.02, 1.02), ("≤ 1.02", ""), "{:.3f}"),
    Mark("bias of 20, planted outliers let through", accuracy_of("bias of 20", "got_through"), most(0, 0), ("none", ""), "{:.0f}"),
    Mark("flat of 20, times faster than ccdproc", lambda r: r.ratio("flat of 20", "ccdproc"), least(10, 10), ("≥ 10", ""), "{:.1f}"),
    Mark("flat of 20, noise over ideal", accuracy_of("flat of 20", "noise_over_ideal"), most(1.02, 1.02), ("≤ 1.02", ""), "{:.3f}"),
    Mark("flat of 20, planted outliers let through", accuracy_of("flat of 20", "got_through"), most(0, 0), ("none", ""), "{:.0f}"),
)  # fmt: skip


def lines(entries: Sequence[Entry], wanted: Sequence[Mark] = MARKS) -> list[str]:
    """A Markdown table of marks."""
    results = [Results(entries, field) for field in ("quiet", "plane")]
    out = ["| mark | quiet | | plane | |", "|---|---|---|---|---|"]
    for mark in wanted:
        cells = [
            cell for result, limit in zip(results, mark.limits, strict=True) for cell in _cells(mark, result, limit)
        ]
        out.append(f"| {mark.text} | " + " | ".join(cells) + " |")
    return out


def _cells(mark: Mark, result: Results, limit: str) -> tuple[str, str]:
    """Number and verdict of one field."""
    value = mark.value(result)
    if math.isnan(value):
        return "", limit
    verdict = f"{limit}: {'reached' if mark.good(result, value) else '**missed**'}" if limit else ""
    return mark.shown.format(value), verdict
