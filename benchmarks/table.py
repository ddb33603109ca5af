"""The results as Markdown, between two marks in docs/performance.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import marks
from benchmarks.difference import marks as difference

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
Entry = dict[str, Any]

WORDS: dict[str, tuple[tuple[str, str], ...]] = {
    "detrend": (("noise_ratio", "noise {:.3f} of expected"),),
    "bias of 20": (
        ("noise_over_ideal", "noise {:.3f} of ideal"),
        ("got_through", "planted outliers let through {:.0f}"),
    ),
    "flat of 20": (
        ("noise_over_ideal", "noise {:.3f} of ideal"),
        ("got_through", "planted outliers let through {:.0f}"),
    ),
    "cosmic rays": (
        ("tracks_found", "tracks found {:.1%}"),
        ("false_px_on_stars", "false pixels on stars {:.0f}"),
        ("stars_hurt", "stars hurt {:.0f}"),
    ),
    "sky": (("sky_bias_dn", "bias {:+.3f} DN"), ("sky_scatter_dn", "scatter {:.3f} DN")),
    "detection": (
        ("complete_snr5", "complete at S/N 5 {:.1%}"),
        ("complete_snr10", "at 10 {:.1%}"),
        ("spurious", "spurious {:.1%}"),
    ),
    "aperture catalog": (
        ("bright_scatter_percent", "bright scatter {:.2f} %"),
        ("complete_snr10", "complete at S/N 10 {:.1%}"),
    ),
    "PSF photometry": (
        ("complete_snr5", "complete at S/N 5 {:.1%}"),
        ("complete_snr10", "at 10 {:.1%}"),
        ("spurious", "spurious {:.1%}"),
        ("bright_scatter_percent", "bright scatter {:.2f} %"),
        ("flux_bias_mmag", "bias {:+.1f} mmag"),
        ("pull_width", "pulls {:.2f}"),
    ),
    "astrometry": (("floor_mas", "{:.1f} mas RMS per axis"), ("floor_max_mas", "worst place {:.0f} mas")),
    "zero point": (("zp_error_mmag", "error {:+.1f} mmag"),),
}
WORDS["whole chain"] = (
    *WORDS["PSF photometry"],
    ("tracks_found", "tracks {:.1%}"),
    ("false_px_on_stars", "false pixels on stars {:.0f}"),
    ("floor_mas", "WCS {:.1f} mas"),
    ("calibrated_error_mmag", "calibrated magnitudes {:+.1f} mmag"),
)
WORDS |= difference.WORDS


def accuracy(entry: Entry) -> str:
    """The numbers of one entry in words."""
    numbers = entry.get("accuracy", {})
    parts = [
        words.format(numbers[name])
        for name, words in WORDS.get(entry["step"], ())
        if name in numbers and math.isfinite(numbers[name])
    ]
    return "; ".join(parts + ([entry["note"]] if entry.get("note") else []))


def rows(entries: Sequence[Entry], field: str) -> list[str]:
    """Lines of one field's table."""
    out = ["| step | tool | CPU s | wall s | peak MB | times ours | accuracy |", "|---|---|---|---|---|---|---|"]
    ours = {e["step"]: e["cpu_s"] for e in entries if e["field"] == field and e["tool"] == "ours" and "cpu_s" in e}
    for entry in entries:
        if entry["field"] != field:
            continue
        if "skipped" in entry:
            out.append(f"| {entry['step']} | {entry['tool']} | – | – | – | – | {one_line(entry['skipped'])} |")
            continue
        times = entry["cpu_s"] / ours[entry["step"]] if ours.get(entry["step"]) else math.nan
        compared = "" if entry["tool"] == "ours" or math.isnan(times) else f"{times:.1f}"
        name = f"**{entry['tool']}**" if entry["tool"] == "ours" else entry["tool"]
        out.append(
            f"| {entry['step']} | {name} | {_seconds(entry['cpu_s'])} | {_seconds(entry['wall_s'])} | {entry['peak_mb']:.0f} "
            f"| {compared} | {accuracy(entry)} |"
        )
    return out


def one_line(text: str, length: int = 120) -> str:
    """A text without line breaks and bars, cut."""
    return " ".join(text.replace("|", "/").split())[-length:]


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def completeness(entries: Sequence[Entry], field: str) -> list[str]:
    """Completeness by magnitude of everything that makes a catalog of point sources."""
    made = [
        e for e in entries if e["field"] == field and e["step"] in ("detection", "PSF photometry") and "accuracy" in e
    ]
    if not made:
        return []
    bins = [
        b for b in made[0]["accuracy"]["complete_by_mag"] if all(b in e["accuracy"]["complete_by_mag"] for e in made)
    ]
    out = ["| completeness by magnitude | " + " | ".join(bins) + " |", "|---" * (len(bins) + 1) + "|"]
    for e in made:
        values = (f"{100 * e['accuracy']['complete_by_mag'][b]:.1f}" for b in bins)
        out.append(f"| {e['step']}, {e['tool']} | " + " | ".join(values) + " |")
    return out


def text(entries: Sequence[Entry]) -> str:
    """The whole section."""
    timed = [e for e in entries if "date" in e]
    if not timed:
        return "No results yet.\n"
    dates = sorted(e["date"][:10] for e in timed)
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    busy = max(e["load"] for e in timed)
    state = (
        "an otherwise idle machine" if busy < 1.5 else f"a **busy machine** (load up to {busy:.1f}): trust ratios only"
    )
    lines = [f"Measured {when} on {timed[-1]['machine']}, {state}.", "", "### Marks", "", *marks.lines(entries)]
    lines += ["", "### Marks of references, differences and alerts", "", *marks.lines(entries, difference.MARKS)]
    for field, title in (
        ("quiet", "Quiet field, some 3,000 sources"),
        ("plane", "Galactic plane, some 60,000 sources"),
    ):
        lines += ["", f"### {title}", "", *rows(entries, field), "", *completeness(entries, field)]
    return "\n".join(lines) + "\n"


def place(entries: Sequence[Entry], page: Path = PAGE) -> None:
    """Put the section between the marks of a page; raise `ValueError` if the page has none."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the marks {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{text(entries)}{END}{after}", encoding="utf-8")
