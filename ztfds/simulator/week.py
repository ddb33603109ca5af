"""A week of the tiny camera on the real services, unattended: no two nights alike, each report held against the mountain's log."""

from __future__ import annotations

import json
import math
import multiprocessing
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ztfds.config.closing import ClosingConfig
from ztfds.formats.atomic import sha256_of, write_atomic
from ztfds.operations import closing
from ztfds.operations.postgres import EmbeddedPostgres
from ztfds.operations.services import airflow, stack
from ztfds.operations.services.state import USERS, Settings, State, load
from ztfds.registry import database
from ztfds.simulator import night
from ztfds.simulator.rehearsal import DATE, context_of, read_topics, run_state, staging
from ztfds.simulator.schedule import Plan, make_plan
from ztfds.survey import ids, names
from ztfds.survey.camera import TINY
from ztfds.survey.errors import ServiceDown
from ztfds.survey.states import CcdState

Report = Callable[[str], None]
N_BIAS = N_FLAT = N_REFERENCE = 6
CADENCE_S = 2.0
LIMIT_S = 3600.0
"""Longest time that the week may take, s."""
PATIENCE = {"lost_s": 45.0, "silent_s": 60.0, "late_s": 10.0, "look_s": 5.0}
"""Patience of the services in a week whose days last a minute, s."""
WORK = ("exposure", "calibration", "end_of_night", "reference")
"""DAGs that do the survey's work: a day is over when none of them has an open run."""


@dataclass(frozen=True)
class Kind:
    """What is special about a night.

    Attributes
    ----------
    name, title : str
    exposures : int
        On-sky exposures; of the first night epochs for references.
    programs : tuple of int
    clouded : bool
        Six magnitudes of cloud before every exposure.
    manifest : bool
        False: it never comes.
    before_break : int or None
        The link breaks after so many exposures: all others and the manifest come during the next night, file by file in any order.
    straggler : bool
        The last file of the night comes during the next one, after its manifest and long after anybody waits for it.
    """

    name: str
    title: str
    exposures: int = 4
    programs: tuple[int, ...] = (1, 2, 3)
    clouded: bool = False
    manifest: bool = True
    before_break: int | None = None
    straggler: bool = False


WEEK = (
    Kind("first", "epochs for references", N_REFERENCE),
    Kind("ordinary", "science with references"),
    Kind("cloudy", "two exposures through cloud, then the dome is closed", 2, clouded=True),
    Kind("no manifest", "the manifest never comes", manifest=False),
    Kind("link down", "one exposure comes, all others and the manifest during the next night, in any order", before_break=1),
    Kind("back-log", "the night before arrives beside this one; one file comes a night late", straggler=True),
    Kind("engineering", "program 0", programs=(0,)),
)  # fmt: skip


@dataclass
class NightScore:
    """What came of one night.

    Attributes
    ----------
    date, kind : str
    sent, announced : int
        Files that the mountain sent, and those that its manifests name.
    states : dict of str to int
        Files by their named state.
    alerts : int
        Packets in the night's topics.
    verdict : str
        First line of the report, after the night.
    reports : int
        How often it was written.
    problems : list of str
        Everything that differs from the mountain's log; empty when the report is right to the unit.
    """

    date: str
    kind: str
    sent: int = 0
    announced: int = 0
    states: dict[str, int] = field(default_factory=dict)
    alerts: int = 0
    verdict: str = ""
    reports: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass
class WeekScore:
    """The whole week: its nights, what people had to do, alarms raised, and everything that is wrong."""

    nights: list[NightScore] = field(default_factory=list)
    human_actions: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    wall_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every report is right and nobody had to do anything."""
        return not self.problems and not self.human_actions and not any(one.problems for one in self.nights)


def plans() -> list[Plan]:
    """One plan for each night, all on the same sky, on seven dates in a row."""
    first = make_plan(
        TINY, DATE, filter_codes=("zr",), n_exposures=0, n_reference=N_REFERENCE, n_bias=N_BIAS, n_flat=N_FLAT
    )
    start, found = datetime.strptime(first.dates[0], "%Y%m%d"), [first]
    for k, kind in enumerate(WEEK[1:], 1):
        date = (start + timedelta(days=k)).strftime("%Y%m%d")
        found.append(
            make_plan(
                TINY, date, fields=first.fields, filter_codes=("zr",), n_exposures=kind.exposures, n_reference=0,
                n_bias=N_BIAS, n_flat=N_FLAT, programs=kind.programs,
            )
        )  # fmt: skip
    return found


def render_week(mountain: Path) -> None:
    """Render every part of every night into its folder on the mountain, in order; its manifest is the last file of each."""
    for k, (kind, plan) in enumerate(zip(WEEK, plans(), strict=True)):
        clouds = [f"clouded@{e.index}" for e in plan.of_night(0) if e.kind == "o" and kind.clouded]
        for part in (night.CALIBRATION, night.NIGHT):
            folder = staging(mountain, k, part)
            night.simulate(folder, None, None, plan, 0, accelerate=math.inf, faults=clouds, parts=(part,))


@dataclass
class Mountain:
    """Sends what is rendered, and keeps a log of it that knows nothing of the data system.

    Attributes
    ----------
    folder, inbox : Path
    sent : dict of str to str
        Checksums of the files that were sent, by name.
    announced : dict of str to set of str
        Names in the manifests that were sent, by night.
    """

    folder: Path
    inbox: Path
    sent: dict[str, str] = field(default_factory=dict)
    announced: dict[str, set[str]] = field(default_factory=dict)

    def ready(self, k: int, part: str) -> bool:
        """Whether a part of a night is rendered."""
        return any(staging(self.folder, k, part).glob("*manifest.json"))

    def staged(self, k: int, part: str) -> tuple[list[list[Path]], Path]:
        """Files of a part by exposure, and its manifest."""
        groups: dict[str, list[Path]] = {}
        for path in sorted(staging(self.folder, k, part).glob("*.fits.fz")):
            groups.setdefault(path.name[:18], []).append(path)
        (manifest,) = staging(self.folder, k, part).glob("*manifest.json")
        return list(groups.values()), manifest

    def send(self, *paths: Path) -> None:
        """Move files into the inbox, after writing them into the log."""
        for path in paths:
            if path.suffix == ".json":
                content = json.loads(path.read_text())
                listed = {entry["name"] for entry in content["files"]}
                self.announced.setdefault(content["night"], set()).update(listed)
            else:
                self.sent[path.name] = sha256_of(path)
            path.rename(self.inbox / path.name)

    def of_night(self, date: str) -> dict[str, str]:
        """Files of a night in the log, with their checksums."""
        return {name: checksum for name, checksum in self.sent.items() if name.startswith(f"ztf_{date}")}


class Week:
    """One week in a home folder: services, mountain, seven nights and days, scores.

    Parameters
    ----------
    home : Path
        Folder that keeps everything; what an earlier week left in it is removed.
    report : callable
        Called with each line of progress.
    """

    def __init__(self, home: Path, report: Report) -> None:
        self.home, self._report, self.began = Path(home).resolve(), report, time.monotonic()
        self.plans, self.score = plans(), WeekScore()
        self.dates = [plan.dates[0] for plan in self.plans]
        self.held_back: list[Path] = []

    def say(self, line: str) -> None:
        """One line of progress with the time since the start."""
        elapsed = int(time.monotonic() - self.began)
        self._report(f"[{elapsed // 60:2d}:{elapsed % 60:02d}] {line}")

    def run(self) -> WeekScore:
        """Do it all; services stay up at the end, also when something fails."""
        if load(self.home) is not None:
            stack.stop(self.home)
        shutil.rmtree(self.home, ignore_errors=True)
        self.mountain = Mountain(self.home / "mountain", self.home / "inbox")
        night.write_catalogs(self.home / "catalogs", self.plans[0])
        renderer = multiprocessing.get_context("spawn").Process(
            target=render_week, args=(self.mountain.folder,), daemon=True
        )
        renderer.start()
        try:
            self.state = self._start()
            for k in range(len(WEEK)):
                self._night(k, renderer)
                self._day(k)
        finally:
            renderer.terminate()
            renderer.join()
        self._judge()
        write_atomic(self.home / "week.json", (json.dumps(asdict(self.score), indent=1) + "\n").encode())
        return self.score

    def _start(self) -> State:
        """Start the services, then look at the clock: from here on nobody does anything."""
        self.say("starting PostgreSQL, Kafka and Airflow")
        settings = Settings(
            TINY.name.upper(), "tiny", str(self.home / "catalogs"), patience_s=5.0, changes={"closing": PATIENCE}
        )
        state = stack.start(self.home, settings=settings, report=self.say)
        self.context = context_of(state)
        self.unattended = database.fetch_all(self.context.dsn, "select now() as at")[0]["at"]
        return state

    # -- nights and days -----------------------------------------------------------------------------------------------

    def _night(self, k: int, renderer: multiprocessing.process.BaseProcess) -> None:
        """The afternoon's frames, then the exposures one after the other, with what was held back of the night before."""
        kind, date = WEEK[k], self.dates[k]
        self.say(f"night {k + 1} of {len(WEEK)}, {date}, {kind.name}: {kind.title}")

        def rendered() -> bool:
            parts = (night.CALIBRATION, night.NIGHT)
            return all(self.mountain.ready(k, part) for part in parts) or not renderer.is_alive()

        self._wait(rendered, f"{date} is rendered")
        frames, manifest = self.mountain.staged(k, night.CALIBRATION)
        self.mountain.send(*(path for files in frames for path in files), manifest)
        client = airflow.api(self.state)
        ended = ("success", "failed")
        self._wait(lambda: run_state(client, "calibration", f"cal_{date}") in ended, f"cal_{date} ends")
        client.close()
        self._exposures(kind, *self.mountain.staged(k, night.NIGHT))

    def _exposures(self, kind: Kind, exposures: list[list[Path]], manifest: Path) -> None:
        """Send the exposures of a night, with a share of the late files after each, and the manifest, as its kind says."""
        late, self.held_back = self.held_back, []
        live = exposures[: kind.before_break]
        for number, files in enumerate(live):
            keep = files[-1:] if kind.straggler and number == len(live) - 1 else []
            self.held_back += keep
            self.mountain.send(*(path for path in files if path not in keep))
            share = math.ceil(len(late) / (len(live) - number))
            self.mountain.send(*late[:share])
            late = late[share:]
            time.sleep(CADENCE_S)
        if kind.before_break is not None:
            self.held_back = [path for files in exposures[kind.before_break :] for path in files] + [manifest]
            random.Random(manifest.name).shuffle(self.held_back)
        elif kind.manifest:
            self.mountain.send(manifest)

    def _day(self, k: int) -> None:
        """Wait, as a day does, until nothing is left to do for anybody."""
        client = airflow.api(self.state)

        def over() -> bool:
            return not any((self.home / "inbox").iterdir()) and not self._open(client) and not self._unclosed(k)

        self._wait(over, f"the day after {self.dates[k]} is over")
        client.close()
        self.say(f"  {self._first_line(self.dates[k])}")

    def _open(self, client: airflow.AirflowApi) -> int:
        """Runs of the survey's DAGs that have not ended."""
        total = 0
        for dag in WORK:
            _, answer = client.call("GET", f"/api/v2/dags/{dag}/dagRuns?state=queued&state=running&limit=1")
            total += int((answer or {}).get("total_entries", 1))
        return total

    def _unclosed(self, k: int) -> bool:
        """Whether a night until now has no report yet, or has changed since."""
        impatient = ClosingConfig(lost_s=1e-3, silent_s=1e-3, late_s=1e-3)
        written = all(self._path(date).is_file() for date in self.dates[: k + 1])
        return not written or bool(closing.unclosed(self.context.dsn, impatient))

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until something is so; raises `ServiceDown` when the week takes too long."""
        while not condition():
            if time.monotonic() - self.began > LIMIT_S:
                raise ServiceDown(f"not within {LIMIT_S:.0f} s of the start: {what}")
            time.sleep(1.0)

    def _path(self, date: str) -> Path:
        """The text of a night's report."""
        return self.home / "archive" / names.depot_path(date, f"ztf_{date}_nightreport.txt")

    def _first_line(self, date: str) -> str:
        """What the report says first."""
        return self._path(date).read_text().splitlines()[0]

    # -- judging -------------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Hold every report, and the registry, against the mountain's log."""
        self.say("holding the reports against the mountain's log")
        for kind, date in zip(WEEK, self.dates, strict=True):
            self.score.nights.append(self._judge_night(kind, date))
        if left := sorted(path.name for path in (self.home / "inbox").iterdir()):
            self.score.problems.append(f"{len(left)} files are left in the inbox: {left[:3]}")
        known = database.fetch_all(self.context.dsn, "select filename from ccdfiles")
        if strange := {row["filename"] for row in known} - self.mountain.sent.keys():
            self.score.problems.append(f"{len(strange)} files are registered that nobody sent")
        self.score.human_actions = self._human_actions()
        alarms = database.fetch_all(
            self.context.dsn, "select distinct rule from alarms where raised > %s order by 1", (self.unattended,)
        )
        self.score.alarms = [row["rule"] for row in alarms]
        self.score.wall_s = round(time.monotonic() - self.began, 1)

    def _judge_night(self, kind: Kind, date: str) -> NightScore:
        """One night."""
        sent, listed = self.mountain.of_night(date), self.mountain.announced.get(date, set())
        score = NightScore(date, kind.name, len(sent), len(listed))
        rows = database.fetch_all(
            self.context.dsn, "select filename, state, path from ccdfiles where exposure like %s", (f"ztf_{date}%",)
        )
        score.states = dict(sorted(Counter(row["state"] for row in rows).items()))
        score.problems += self._files_wrong(sent, rows)
        packets = self._packets(kind, date, score)
        score.alerts = len(packets)
        score.verdict = self._first_line(date).partition(": ")[2]
        versions = database.fetch_all(
            self.context.dsn, "select count(*)::int as n from products where kind = 'nightreport_txt' and nid = %s",
            (ids.nid_of_date(date),),
        )  # fmt: skip
        score.reports = versions[0]["n"]
        expected = self._expected(sent, listed, score)
        found = numbers(self._path(date).read_text())
        score.problems += [
            f"the report says {found.get(name)} {name}, the mountain {value}"
            for name, value in expected.items()
            if found.get(name) != value
        ]
        wanted = "every file accounted for" if kind.manifest else f"manifest missing, {len(sent)} files here"
        if score.verdict != wanted:
            score.problems.append(f"the report's verdict is {score.verdict!r}, {wanted!r} is due")
        return score

    def _files_wrong(self, sent: dict[str, str], rows: Sequence[dict[str, Any]]) -> list[str]:
        """Files that are not in exactly one final state, or not in the archive as they were sent."""
        found, count = [], Counter(row["filename"] for row in rows)
        found += [f"{name} is registered {count[name]} times" for name in sent if count[name] != 1]
        for row in rows:
            calibration = not row["filename"].endswith("_o.fits.fz")
            done = CcdState(row["state"]).final or (calibration and row["state"] == CcdState.ingested)
            if not done:
                found.append(f"{row['filename']} is still {row['state']}")
            path = self.home / "archive" / (row["path"] or "nowhere")
            if not path.is_file() or sha256_of(path) != sent.get(row["filename"]):
                found.append(f"{row['filename']} is not in the archive as it was sent")
        return found

    def _packets(self, kind: Kind, date: str, score: NightScore) -> list[int]:
        """Candidate numbers in the topics of a night, each once, and in no topic of another program."""
        topics = {program: names.topic_name(date, program) for program in (0, 1, 2, 3)}
        found = read_topics(self.state.bootstrap_servers, list(topics.values()))
        if len(found) != len(set(found)):
            score.problems.append(f"{len(found) - len(set(found))} alerts are in the topics more than once")
        others = [topics[program] for program in topics.keys() - set(kind.programs)]
        if strangers := read_topics(self.state.bootstrap_servers, others):
            score.problems.append(f"{len(strangers)} alerts are in topics of other programs")
        return found

    def _expected(self, sent: dict[str, str], listed: set[str], score: NightScore) -> dict[str, int]:
        """What a report must say, by the mountain's log and the topics."""
        on_sky = {name[:18] for name in sent if name.endswith("_o.fits.fz")}
        whole = dict.fromkeys(("received", "ingested", "processed", "archived"), len(sent))
        none = dict.fromkeys(("quarantined", "lost", "duplicated", "second copies recognised"), 0)
        states = {f"files {state}": count for state, count in score.states.items()}
        return {
            "exposures on sky": len(on_sky), "files sent": len(listed), "files archived": len(sent), "sent": len(listed), **whole,
            **none, **states, "alerts": score.alerts, "acknowledged": score.alerts,
        }  # fmt: skip

    def _human_actions(self) -> list[str]:
        """What any account but ingestd's changed in Airflow since the services were up."""
        query = """
            select owner, event, dag_id from log where dttm > %(at)s and owner = any(%(people)s)
            union all select coalesce(triggering_user_name, 'nobody'), 'started a run by hand', dag_id from dag_run
             where start_date > %(at)s and run_type = 'manual' and triggered_by::text not in ('OPERATOR', 'operator')
               and coalesce(triggering_user_name, '') <> 'ingestd'"""
        people = [user for user in USERS if user != "ingestd"]
        rows = database.fetch_all(
            EmbeddedPostgres(self.home).dsn("airflow"), query, {"at": self.unattended, "people": people}
        )
        return sorted(f"{row['owner']}: {row['event']} {row['dag_id'] or ''}".strip() for row in rows)


def numbers(text: str) -> dict[str, int]:
    """Whole numbers of a report's cards and of its account of files, by their names."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, _, number = line.strip().rpartition("  ")
        if number.isdecimal() and name.strip() and "  " not in name.strip():
            found.setdefault(name.strip(), int(number))
    return found


def table(score: WeekScore) -> list[str]:
    """The week for people."""
    lines = [f"{'night':<10}{'':<13}{'sent':>5}{'listed':>7}{'alerts':>7}{'reports':>8}  states; the report's verdict"]
    for one in score.nights:
        states = ", ".join(f"{n} {state}" for state, n in one.states.items())
        lines.append(
            f"{one.date:<10}{one.kind:<13}{one.sent:>5}{one.announced:>7}{one.alerts:>7}{one.reports:>8}  {states}; {one.verdict}"
        )
        lines += [f"  WRONG: {line}" for line in one.problems]
    lines += [f"WRONG: {line}" for line in score.problems]
    lines += [f"a person did something: {line}" for line in score.human_actions]
    lines.append(
        f"human actions: {len(score.human_actions)}; alarms raised: {', '.join(score.alarms) or 'none'}; {score.wall_s:.0f} s"
    )
    lines.append("every report is right to the unit" if score.passed else "NOT as it must be")
    return lines


def main(home: Path, report: Report) -> int:
    """Let a week pass, print its table, stop the services, and say by the exit status whether all was right."""
    week = Week(home, report)
    try:
        score = week.run()
    finally:
        stack.stop(home)
    report("")
    for line in table(score):
        report(line)
    return int(not score.passed)
