"""The nightly report: numbers, latencies by stage, failures by class and plots, as HTML and text, kept as a product."""

from __future__ import annotations

import base64
import datetime as dt
import io
import logging
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

import ztfds
from ztfds.formats.atomic import write_atomic
from ztfds.operations.accountability import Account, account
from ztfds.operations.context import Context
from ztfds.registry import database, summaries, telemetry
from ztfds.survey import ids, names
from ztfds.survey.errors import FilesMissing

logger = logging.getLogger(__name__)

STAGES = ("ingested", "calibrated", "differenced", "published")
"""Stages of an exposure after its arrival, in order."""

_EXPOSURES = """
    select exposure, imgtype, field, filtercode, programid, obsjd, state, reason, late_stage, goal_stage, arrival,
           extract(epoch from ingested - arrival) as ingested, extract(epoch from calibrated - arrival) as calibrated,
           extract(epoch from differenced - arrival) as differenced, extract(epoch from published - arrival) as published,
           (select count(*) from alert_outbox o where o.exposure = e.exposure) as alerts
      from exposures e where nid = %s order by obsjd"""

_FAILURES = """
    select class, count(*) as n, min(detail) as example from (
        select 'file: ' || coalesce(error_code, verdict) as class, filename || ': ' || coalesce(reason, '') as detail
          from receipts where verdict = 'quarantined' and exposure like %(night)s
        union all
        select 'exposure: ' || coalesce(c.error_code, c.state), c.filename || ': ' || coalesce(c.reason, '')
          from ccdfiles c where c.exposure like %(night)s and c.state in ('bad', 'failed', 'missing')
        union all
        select 'attempt: ' || coalesce(error_class, state), step || ' ' || dataset || ': ' || coalesce(error_text, '')
          from jobs where state in ('error', 'killed') and exposure like %(night)s) f
     group by class order by n desc"""

_STEPS = """
    select step, count(*) filter (where state = 'done') as done, count(*) filter (where state = 'skipped') as skipped,
           count(*) filter (where state in ('error', 'killed')) as errors,
           percentile_cont(0.5) within group (order by cpu_s) filter (where state = 'done') as cpu_s,
           max(peak_mb) filter (where state = 'done') as peak_mb
      from jobs where (exposure like %(night)s or (exposure is null and started >= (select opened from nights where nid = %(nid)s)))
     group by step order by step"""

_METRICS = """
    select q.step, q.name, f.code, count(*) as n, min(value) as low, percentile_cont(0.5) within group (order by value) as median,
           max(value) as high
      from qa_metrics q left join (values (1, 'zg'), (2, 'zr'), (3, 'zi')) f(fid, code) on f.fid = q.fid
     where nid = %s and name = any(%s) and value is not null group by 1, 2, 3 order by 1, 2, 3"""

_SERIES = """
    select e.obsjd, q.rcid, q.fid, q.name, q.value from qa_metrics q join exposures e using (exposure)
     where q.nid = %s and q.name = any(%s) and q.value is not null order by e.obsjd"""

_REFERENCES = """
    select field, fid, count(*) filter (where status = 1) as good, count(*) filter (where status <> 1) as failed
      from references_ where vbest > 0 group by 1, 2 order by 1, 2"""

TRENDED = (
    "seeing_arcsec",
    "maglim_mag",
    "magzp",
    "median_background_dn",
    "astrom_predicted_worst_mas",
    "scorr_width_raw",
)
"""Quality metrics that are plotted through the night."""
SHOWN = (
    *TRENDED, "zp_rms_mag", "astrom_rms_ra_mas", "astrom_rms_dec_mas", "n_astrom_matches", "n_psfcat", "n_candidates",
    "calibration_age_d",
)  # fmt: skip


@dataclass
class Table:
    """One table of the report: a title, column names, rows of text, and what to say when there are no rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    empty: str = "None."


@dataclass
class Report:
    """Everything that the templates show."""

    nid: int
    night: str
    account: Account
    exposures: list[dict[str, Any]]
    tables: list[Table]
    cards: list[tuple[str, str]]
    plots: list[tuple[str, str]] = field(default_factory=list)
    written: str = ""
    version: str = ztfds.__version__

    @property
    def clean(self) -> bool:
        """Whether everything is accounted for."""
        return self.account.clean

    @property
    def verdict(self) -> str:
        """One line for the operator."""
        count = len(self.account.differences)
        if not self.account.announced:
            return f"manifest missing, {self.account.received} files here" + (
                f"; {count} lines to look at" if count > 1 else ""
            )
        return "every file accounted for" if self.clean else f"{count} difference{'s' if count > 1 else ''} to look at"


def write_report(context: Context, nid: int) -> Path:
    """Write the report of a night as HTML and text and register both as products; the night's summaries of quality are renewed first.

    Parameters
    ----------
    context : Context
        Where the registry and the archive are.
    nid : int
        Night number.

    Returns
    -------
    Path
        The HTML file; the text is beside it.
    """
    from ztfds.registry.products import register_document

    summaries.renew_night(context.dsn, nid)
    report = gather(context, nid)
    folder = Path(context.archive) / names.depot_path(report.night, "")
    html, text = render_html(report).encode(), render_text(report).encode()
    for suffix, content in (("txt", text), ("html", html)):
        path = folder / f"ztf_{report.night}_nightreport.{suffix}"
        written = write_atomic(path, content)
        register_document(
            context.dsn,
            kind=f"nightreport_{suffix}",
            dataset=f"night/{nid}",
            nid=nid,
            written=written,
            archive=context.archive,
        )
    logger.info("nightly report of %s: %s", report.night, path)
    return path


def send_report(context: Context, nid: int) -> bool:
    """Tell people of the report of a night: the text and, by mail, the page.

    Returns
    -------
    bool
        False where the settings name nobody.

    Raises
    ------
    FilesMissing
        The report has not been written.
    ServiceDown
        Mail server or webhook do not answer; try again.
    """
    night = ids.night_date(nid)
    page = Path(context.archive) / names.depot_path(night, f"ztf_{night}_nightreport.html")
    try:
        html, text = page.read_text(), page.with_suffix(".txt").read_text()
    except OSError as error:
        raise FilesMissing(f"the report of night {night} is not there: {error}") from error
    return context.notifier.tell(text.splitlines()[0], {"report": text}, html)


def gather(context: Context, nid: int) -> Report:
    """Read everything that the report of a night shows."""
    result = account(context, nid)
    night = ids.night_date(nid)
    pattern = {"night": f"ztf_{night}%", "nid": nid}
    with database.transaction(context.dsn) as cursor:
        exposures = database.rows(cursor, _EXPOSURES, (nid,))
        failures = database.rows(cursor, _FAILURES, pattern)
        steps = database.rows(cursor, _STEPS, pattern)
        metrics = database.rows(cursor, _METRICS, (nid, list(SHOWN)))
        series = database.rows(cursor, _SERIES, (nid, list(TRENDED)))
        references = database.rows(cursor, _REFERENCES)
        measured = telemetry.of_night(cursor, nid)
    tables = [
        _account_table(result),
        Table(
            "To look at", ("what",), [(line,) for line in result.differences], "Nothing: every file is accounted for."
        ),
        _states_table(exposures),
        _latency_table(exposures),
        _punctuality_table(exposures),
        Table(
            "Failures by class",
            ("class", "number", "example"),
            [(f["class"], str(f["n"]), f["example"]) for f in failures],
        ),
        _steps_table(steps),
        _metrics_table(metrics),
        _telemetry_table(measured),
        Table(
            "References",
            ("field", "filter", "usable", "failed"),
            [(str(r["field"]), str(r["fid"]), str(r["good"]), str(r["failed"])) for r in references],
            "None yet.",
        ),
        Table("Notes", ("what",), [(line,) for line in result.notes]),
    ]
    report = Report(nid, night, result, exposures, tables, _cards(result, exposures))
    report.written = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
    report.plots = _plots(exposures, series)
    return report


def latencies(exposures: Sequence[dict[str, Any]], stage: str = "published") -> list[float]:
    """Seconds from arrival to a stage of the on-sky exposures that reached it; without alerts, publication is the end of differencing."""
    values = []
    for row in exposures:
        value = row[stage]
        if value is None and stage == "published" and not row["alerts"]:
            value = row["differenced"]
        if row["imgtype"] == "o" and value is not None:
            values.append(float(value))
    return values


GOALS_S = {"late_stage": 600.0, "goal_stage": 300.0}
"""Deadline and goal of alerts after arrival, s, by the column that keeps the stage of those that missed it."""
REQUIRED_PERCENT = 95.0


def percent_within(exposures: Sequence[dict[str, Any]], column: str = "late_stage") -> float | None:
    """Share of the on-sky exposures that have arrived whose alerts were published in time, percent; None without any.

    Parameters
    ----------
    exposures : sequence of dict
        ``imgtype arrival published differenced alerts`` and the columns of `GOALS_S`; times in s since the arrival.
    column : str
        Which limit.
    """
    arrived = [row for row in exposures if row["imgtype"] == "o" and row["arrival"] is not None]
    late = sum(row[column] is not None or any(v > GOALS_S[column] for v in latencies([row])) for row in arrived)
    return 100.0 * (len(arrived) - late) / len(arrived) if arrived else None


def share_in_words(exposures: Sequence[dict[str, Any]], column: str = "late_stage") -> str:
    """`percent_within` for people."""
    share = percent_within(exposures, column)
    return "–" if share is None else f"{share:.1f} %"


def missed_stages(exposures: Sequence[dict[str, Any]], column: str) -> str:
    """In which stages the exposures were that missed a limit, the most frequent first."""
    counts = Counter(row[column] for row in exposures if row["imgtype"] == "o" and row[column] is not None)
    return ", ".join(f"{stage} {n}" for stage, n in counts.most_common()) or "none"


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Percentile of some values, None without any."""
    return float(np.percentile(values, percent)) if values else None


def _cards(result: Account, exposures: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The figures at the top."""
    on_sky = [row for row in exposures if row["imgtype"] == "o"]
    late = latencies(exposures)
    return [
        ("exposures on sky", str(len(on_sky))),
        ("files sent", str(result.sent)),
        ("files archived", str(result.archived)),
        ("alerts", str(result.alerts)),
        ("acknowledged", str(result.alerts_acknowledged)),
        ("median latency", _seconds(percentile(late, 50))),
        ("95 % latency", _seconds(percentile(late, 95))),
        ("missed 10 min", str(sum(row["late_stage"] is not None for row in on_sky))),
        ("missed 5 min", str(sum(row["goal_stage"] is not None for row in on_sky))),
        ("within 10 min", share_in_words(exposures)),
    ]


def _seconds(value: float | None) -> str:
    """A duration for people."""
    return "–" if value is None else f"{value:.1f} s"


def _number(value: float | None, digits: int = 3) -> str:
    """A figure for people."""
    return "–" if value is None else f"{value:.{digits}f}"


def _account_table(result: Account) -> Table:
    """Sent, received, ingested, processed, archived."""
    rows = [
        (name, str(getattr(result, name)))
        for name in ("sent", "received", "ingested", "processed", "archived", "quarantined", "lost", "duplicated")
    ]
    rows.append(("second copies recognised", str(result.duplicates_received)))
    rows += [(f"files {state}", str(count)) for state, count in sorted(result.states.items())]
    return Table("Accountability of files", ("what", "number"), rows)


def _states_table(exposures: Sequence[dict[str, Any]]) -> Table:
    """Exposures by state and filter."""
    counts: dict[tuple[str, str, str], int] = {}
    for row in exposures:
        key = (row["state"], row["imgtype"], row["filtercode"])
        counts[key] = counts.get(key, 0) + 1
    return Table(
        "Exposures by state",
        ("state", "type", "filter", "number"),
        [(*key, str(n)) for key, n in sorted(counts.items())],
    )


def _latency_table(exposures: Sequence[dict[str, Any]]) -> Table:
    """Latency from arrival to each stage."""
    rows: list[Sequence[str]] = []
    for stage in STAGES:
        values = latencies(exposures, stage)
        if values:
            high = _seconds(percentile(values, 95))
            rows.append((stage, str(len(values)), _seconds(statistics.median(values)), high, _seconds(max(values))))
    return Table(
        "Latency from arrival", ("until", "exposures", "median", "95 %", "longest"), rows, "No exposure got that far."
    )


def _punctuality_table(exposures: Sequence[dict[str, Any]]) -> Table:
    """Alerts in time against the requirement and the goal, and where those were that missed them."""
    rows = [
        (f"{limit / 60:.0f} min", share_in_words(exposures, column), required, missed_stages(exposures, column))
        for (column, limit), required in zip(GOALS_S.items(), (f"{REQUIRED_PERCENT:.0f} %", "goal"), strict=True)
    ]
    return Table("Alerts in time", ("within", "exposures", "required", "stage of those that missed it"), rows)


def _steps_table(steps: Sequence[dict[str, Any]]) -> Table:
    """Cost of every step."""
    rows = [
        (
            s["step"],
            str(s["done"]),
            str(s["skipped"]),
            str(s["errors"]),
            _number(s["cpu_s"], 2),
            _number(s["peak_mb"], 0),
        )
        for s in steps
    ]
    return Table("Work", ("step", "done", "skipped", "errors", "median CPU-s", "largest MB"), rows)


def _metrics_table(metrics: Sequence[dict[str, Any]]) -> Table:
    """Quality metrics by filter."""
    rows = [
        (
            m["step"],
            m["name"],
            m["code"] or "",
            str(m["n"]),
            _number(m["low"]),
            _number(m["median"]),
            _number(m["high"]),
        )
        for m in metrics
    ]
    return Table("Quality", ("step", "metric", "filter", "number", "lowest", "median", "highest"), rows)


def _telemetry_table(measured: Sequence[dict[str, Any]]) -> Table:
    """What telescope and weather measured, and where it left its limits."""
    rows = [
        (
            m["name"],
            m["unit"],
            f"{_figure(m['low'])} to {_figure(m['high'])}",
            str(m["readings"]),
            *(_figure(m[name]) for name in ("median", "least", "most")),
            str(m["departures"]),
            m["worst"].strftime("%H:%M:%S") if m["worst"] else "–",
        )
        for m in measured
    ]
    columns = ("quantity", "unit", "limits", "readings", "median", "least", "most", "outside", "worst at")
    return Table("Telemetry", columns, rows, "No reading of telescope or weather.")


def _figure(value: float | None) -> str:
    """A measured value for people."""
    return "–" if value is None else f"{value:.4g}"


def _plots(exposures: Sequence[dict[str, Any]], series: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The plots as base64 PNG, each with its caption."""
    from matplotlib.figure import Figure

    plots = []
    on_sky = [row for row in exposures if row["imgtype"] == "o"]
    if on_sky:
        figure = Figure(figsize=(9, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        hours = _hours([row["obsjd"] for row in on_sky])
        for stage in STAGES:
            points = [(h, row[stage]) for h, row in zip(hours, on_sky, strict=True) if row[stage] is not None]
            if points:
                left.plot(*zip(*points, strict=True), ".", label=stage)
        left.axhline(600, color="tab:red", lw=0.8)
        left.set(xlabel="exposure start [h UT]", ylabel="since arrival [s]", yscale="log")
        if left.get_legend_handles_labels()[0]:  # else no exposure came to any stage
            left.legend(fontsize=7)
        right.bar(hours, [row["alerts"] for row in on_sky], width=0.01)
        right.set(xlabel="exposure start [h UT]", ylabel="alerts")
        plots.append(("Latency by stage, with the 10-minute requirement; alerts per exposure", _png(figure)))
    present = [name for name in TRENDED if any(row["name"] == name for row in series)]
    if present:
        figure = Figure(figsize=(9, 1.9 * len(present)), layout="constrained")
        axes = np.atleast_1d(figure.subplots(len(present), 1, sharex=True))
        for axis, name in zip(axes, present, strict=True):
            for fid, colour in ((1, "tab:green"), (2, "tab:red"), (3, "tab:brown")):
                chosen = [row for row in series if row["name"] == name and row["fid"] == fid]
                axis.plot(_hours([r["obsjd"] for r in chosen]), [r["value"] for r in chosen], ".", color=colour, ms=4)
            axis.set_ylabel(name)
        axes[-1].set_xlabel("exposure start [h UT]")
        plots.append(("Quality through the night (green g, red r, brown i)", _png(figure)))
    return plots


def _hours(jds: Sequence[float]) -> list[float]:
    """Hours UT of Julian dates."""
    return [((jd + 0.5) % 1.0) * 24.0 for jd in jds]


def _png(figure: Any) -> str:
    """A figure as base64 PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return base64.b64encode(stream.getvalue()).decode()


def render_html(report: Report) -> str:
    """The report as one HTML page without outside references."""
    loader = jinja2.PackageLoader("ztfds.operations", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("night_report.html.j2").render(r=report)


def render_text(report: Report) -> str:
    """The report as plain text."""
    lines = [f"Night {report.night} (nid {report.nid}): {report.verdict}", ""]
    lines += [f"  {label:<20}{value:>12}" for label, value in report.cards]
    for table in report.tables:
        lines += ["", table.title, "-" * len(table.title)]
        lines += _text_rows(table) if table.rows else [table.empty]
    return "\n".join(lines) + f"\n\nWritten {report.written} UTC by ztfds {report.version}\n"


def _text_rows(table: Table) -> list[str]:
    """Rows of a table in aligned columns."""
    cells = [[str(value) for value in row] for row in [table.columns, *table.rows]]
    widths = [max(len(row[k]) for row in cells) for k in range(len(table.columns))]
    return ["  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() for row in cells]
