"""The marks of references, differences and alerts, each held against the results of one run."""

from __future__ import annotations

import math

from benchmarks.difference.rows import CHAIN, COADD, DIFFERENCE, N_PACKETS, PACKETS, SUBTRACTION
from benchmarks.marks import Mark, Results, accuracy_of, least, most, within

TOOLS = ("PyZOGY", "ZOGY", "hotpants", "sfft (CPU), a quarter of the image")
_BINS = (("5", "S/N 5 to 7", 0.70), ("7", "S/N 7 to 10", 0.93), ("10", "S/N > 10", 0.99))


def best_of_tools(results: Results, name: str) -> float:
    """The largest number of its kind that another tool reaches; NaN where none is measured."""
    return max((v for tool in TOOLS if not math.isnan(v := results.number(SUBTRACTION, name, tool))), default=math.nan)


def _found(snr: str, text: str, quiet: float) -> Mark:
    """Share of transients found: by number in the quiet field, against the best tool in the plane."""
    name = f"candidates_found_snr{snr}"

    def good(results: Results, value: float) -> bool:
        best = best_of_tools(results, f"found_snr{snr}")
        return value >= (quiet if results.field == "quiet" else best)

    return Mark(
        f"transients found, {text}",
        accuracy_of(DIFFERENCE, name),
        good,
        (f"≥ {quiet:.2f}", "best of all tools"),
        "{:.3f}",
    )


MARKS = (
    Mark("P6 complete, CPU s", lambda r: r.cost(DIFFERENCE), most(1.5, 4.0), ("≤ 1.5", "≤ 4")),
    Mark("P2 + P5 + P6, all products, CPU s", lambda r: r.cost(CHAIN), most(3.0, 16.0), ("≤ 3", "≤ 16")),
    Mark("peak memory of P2 + P5 + P6, MB", lambda r: r.cost(CHAIN, what="peak_mb"), most(1200, 1300), ("≤ 1200", "≤ 1300"), "{:.0f}"),
    Mark("times faster than PyZOGY", lambda r: r.ratio(SUBTRACTION, "PyZOGY"), least(25, 25), ("≥ 25", "≥ 25"), "{:.1f}"),
    Mark("times faster than ZOGY", lambda r: r.ratio(SUBTRACTION, "ZOGY"), least(2, 2), ("≥ 2", "≥ 2"), "{:.1f}"),
    Mark("times faster than hotpants", lambda r: r.ratio(SUBTRACTION, "hotpants"), least(4, 4), ("≥ 4", "≥ 4"), "{:.1f}"),
    Mark("width of Scorr on blank sky", accuracy_of(DIFFERENCE, "sky_width"), within((0.97, 1.03), (0.95, 1.05)),
         ("0.97 to 1.03", "0.95 to 1.05"), "{:.3f}"),
    Mark("width of Scorr on stars", accuracy_of(DIFFERENCE, "star_width"), most(1.3, 1.4), ("≤ 1.3", "≤ 1.4")),
    *(_found(*entry) for entry in _BINS),
    Mark("false above 5 sigma in a quadrant", accuracy_of(DIFFERENCE, "false_candidates"), most(20, 500), ("≤ 20", "≤ 500"), "{:.0f}"),
    Mark("false after the packets' criteria", accuracy_of(DIFFERENCE, "false_alerts"), most(10, 100), ("≤ 10", "≤ 100"), "{:.0f}"),
    Mark("false after a score cut at 99 % completeness", accuracy_of(DIFFERENCE, "false_after_score"), most(0.3, 2), ("≤ 0.3", "≤ 2"),
         "{:.0f}"),
    Mark("co-add of 15, noise over ideal", accuracy_of(COADD, "noise_over_ideal"), most(1.03, 1.03), ("≤ 1.03", "≤ 1.03"), "{:.3f}"),
    Mark("co-add of 15, flux conserved, mmag", accuracy_of(COADD, "flux_mmag"), most(1, 1), ("≤ 1", "≤ 1"), "{:+.2f}"),
    Mark("co-add of 15, times faster than SWarp clipped", lambda r: r.ratio(COADD, "SWarp clipped"), least(5, 5), ("≥ 5", "≥ 5"), "{:.1f}"),
    Mark("packets a second and core", lambda r: N_PACKETS / r.cost(PACKETS), least(300, 0), ("≥ 300", ""), "{:.0f}"),
)  # fmt: skip

_RECOVERY = (
    ("found_snr5", "found at S/N 5–7 {:.0%}"),
    ("found_snr7", "7–10 {:.0%}"),
    ("found_snr10", "> 10 {:.1%}"),
    ("false_peaks", "false peaks {:.0f}"),
    ("sky_width", "width on sky {:.3f}"),
    ("star_width", "on stars {:.2f}"),
)
_CANDIDATES = (
    ("candidates_found_snr5", "candidates found at S/N 5–7 {:.0%}"),
    ("candidates_found_snr7", "7–10 {:.0%}"),
    ("candidates_found_snr10", "> 10 {:.1%}"),
    ("candidates_found_on_galaxies", "on galaxies {:.0%}"),
    ("false_candidates", "false {:.0f}"),
    ("false_alerts", "false past the packets' criteria {:.0f}"),
    ("sky_width", "width on sky {:.3f}"),
    ("star_width", "on stars {:.2f}"),
)
_COUNTS = (("n_measured", "timed with {:.0f} candidates"), ("n_packets", "{:.0f} packets"))
WORDS = {
    "resample reference": (
        ("flux_mmag", "flux {:+.2f} mmag"),
        ("flux_scatter_mmag", "scatter {:.2f} mmag"),
        ("star_residual_percent", "left of stars {:.2f} %"),
    ),
    COADD: (
        ("noise_over_ideal", "noise {:.3f} of ideal"),
        ("flux_mmag", "flux {:+.2f} mmag"),
        ("flux_scatter_mmag", "scatter {:.2f} mmag"),
    ),
    SUBTRACTION: _RECOVERY,
    DIFFERENCE: (*_CANDIDATES, *_COUNTS),
    CHAIN: _COUNTS,
    PACKETS: (("packet_bytes", "{:.0f} bytes each"),),
}
WORDS["reference (P7)"] = WORDS[COADD]
