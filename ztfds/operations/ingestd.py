"""The watcher of the inbox: groups complete files by exposure and creates Airflow runs with deterministic names.

It keeps no state of its own. The inbox says what has arrived, Airflow says what has been sent: after any interruption the
two are compared again, and a run that exists already is answered with a conflict, which is fine.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ztfds.config.triggers import BY_NAME, Trigger, TriggerRules
from ztfds.survey.errors import BadName, ConfigurationError, ServiceDown
from ztfds.survey.names import RawName, parse_manifest_filename, parse_telemetry_filename

logger = logging.getLogger(__name__)

UNFINISHED = (".part", ".tmp", ".partial")
LONGEST_BACKOFF_S = 30.0
"""Longest pause of the watcher while the inbox cannot be read [s]."""
LONGEST_AWAY_S = 5.0
"""Longest pause of the watcher while Airflow is away [s]; short, because other groups may well get through."""
PAUSES_S = {False: (1.0, 30.0), True: (30.0, 300.0)}
"""First and longest pause of a group that could not be sent (False) or was refused (True) [s]; each is twice the one before."""
IN_A_ROW = 3
"""So many groups that fail one after the other end a sweep: Airflow is probably away, and each may cost a timeout."""
STRANGE = (LookupError, TypeError, ValueError, AttributeError)
"""What comes of an answer that is not of the form that Airflow promises; it must not end the watcher."""

PARTITIONED = "exposure"
"""The DAG whose runs are partitioned by exposure."""

Key = tuple[str, str]
"""DAG and name of the run that a group of files belongs to."""


@dataclass(frozen=True, order=True)
class Arrival:
    """One file in the inbox.

    Attributes
    ----------
    name : str
        File name.
    bytes : int
        Size [bytes].
    mtime_ns, ctime_ns : int
        Times of the last change of content and of the last change of name or mode [ns since 1970].
    """

    name: str
    bytes: int
    mtime_ns: int
    ctime_ns: int

    @property
    def complete_by_rename(self) -> bool:
        """Whether the file got its name after its last byte, as a transfer under a temporary name leaves it."""
        return self.bytes > 0 and self.ctime_ns > self.mtime_ns

    def as_conf(self) -> dict[str, Any]:
        """Return the entry of this file in a run's configuration."""
        return {"name": self.name, "bytes": self.bytes, "mtime_ns": self.mtime_ns, "ctime_ns": self.ctime_ns}


@dataclass(frozen=True)
class Run:
    """One DAG run to be created.

    Attributes
    ----------
    dag_id, run_id : str
        Which DAG, and the deterministic name of the run.
    conf : dict
        Its configuration: ``arrival`` (ISO 8601 UTC), ``files`` (one entry for each file), and for manifests
        ``manifest`` and ``night``.
    partition_key : str or None
        The exposure, for the DAG whose runs are partitioned by it.
    """

    dag_id: str
    run_id: str
    conf: dict[str, Any]
    partition_key: str | None = None


class Api(Protocol):
    """What ingestd needs of Airflow."""

    def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any], *, partition_key: str | None = None) -> bool:
        """Create a run; False when it exists."""

    def runs(self, dag_id: str, prefix: str) -> list[dict[str, Any]]:
        """List runs by the beginning of their names."""


@dataclass
class Pause:
    """A group that could not be sent and waits for its next try.

    Attributes
    ----------
    until : float
        Unix time of the next try [s].
    length_s : float
        Length of this pause [s].
    refused : bool
        Whether Airflow refused the group; False when it did not answer or could not work.
    """

    until: float
    length_s: float
    refused: bool


@dataclass
class Watcher:
    """Decides, scan by scan, which runs the content of the inbox calls for.

    Parameters
    ----------
    inbox : Path
        Folder that is watched (flat).
    expected : int
        Number of CCD files that a whole exposure has.
    patience_s : float
        An incomplete exposure is sent this long after its first file [s].
    settle_s : float
        A file that was not renamed into place is complete when it did not change for so long [s].
    sent : set of Arrival
        Files in the inbox whose runs exist.
    begun : set of str
        Runs created since this watcher began, so that what comes later for them need not wait.
    pauses : dict of (dag_id, run_id) to Pause
        Groups in the inbox whose last try failed.
    away : bool
        Whether the last tries have all failed, so that the next success ends an interruption.
    held : callable
        Tells whether a downtime holds new work: then nothing is sent, and files wait in the inbox.
    rules : callable
        Tells the trigger rules in force: which DAG takes what, in which order.
    """

    inbox: Path
    expected: int
    patience_s: float = 60.0
    settle_s: float = 2.0
    sent: set[Arrival] = field(default_factory=set)
    begun: set[str] = field(default_factory=set)
    pauses: dict[Key, Pause] = field(default_factory=dict)
    away: bool = False
    held: Callable[[], bool] = lambda: False
    rules: Callable[[], TriggerRules] = TriggerRules

    def scan(self, now: float) -> list[Arrival]:
        """List the complete files that have not been sent, and forget what has left the inbox.

        Parameters
        ----------
        now : float
            Unix time [s].
        """
        present = list(self._entries())
        self.sent.intersection_update(present)
        return sorted(entry for entry in present if entry not in self.sent and self._complete(entry, now))

    def _entries(self) -> Iterable[Arrival]:
        """Look at every regular file that is not marked as unfinished."""
        with os.scandir(self.inbox) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.endswith(UNFINISHED):
                    continue
                try:
                    if entry.is_file(follow_symlinks=False):
                        info = entry.stat(follow_symlinks=False)
                        yield Arrival(entry.name, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
                except FileNotFoundError:  # taken away since the folder was listed
                    continue

    def _complete(self, entry: Arrival, now: float) -> bool:
        """Whether a file will not change any more."""
        return entry.complete_by_rename or now - entry.ctime_ns * 1e-9 >= self.settle_s

    def due(self, now: float) -> list[tuple[Key, list[Arrival]]]:
        """Groups that are ready to be sent, in the order in which they should be.

        First what has not failed before; then by the order of the trigger rules; of each kind the newest first, or the oldest
        where the rule says so.
        """
        rules = self.rules()
        groups: dict[Key, list[tuple[Trigger, Arrival]]] = {}
        for entry in self.scan(now):
            event, base = destination(entry)
            rule = rules.of(event)
            if rule.enabled:
                groups.setdefault((rule.dag, base), []).append((rule, entry))
        self.pauses = {key: pause for key, pause in self.pauses.items() if key in groups}
        ready = [(key, _last(group), [entry for _, entry in group]) for key, group in groups.items()]
        ready = [item for item in ready if self._ready(*item, now)]
        newest_first = sorted(ready, key=lambda item: item[0][1], reverse=True)
        in_time = [item for item in newest_first if item[1].newest_first]
        in_time += [item for item in reversed(newest_first) if not item[1].newest_first]
        in_order = sorted(in_time, key=lambda item: (item[0] in self.pauses, item[1].order))
        return [(key, files) for key, _, files in in_order]

    def _ready(self, key: Key, rule: Trigger, files: list[Arrival], now: float) -> bool:
        """Whether a group waits neither for its next try nor for files: whole, or out of patience, or a latecomer."""
        if key in self.pauses and now < self.pauses[key].until:
            return False
        if not BY_NAME[rule.event].grouped or key[1] in self.begun or len(files) >= self.expected:
            return True
        patience_s = self.patience_s if rule.patience_s is None else rule.patience_s
        return now - min(entry.ctime_ns for entry in files) * 1e-9 >= patience_s

    def done(self, key: Key, files: Iterable[Arrival]) -> None:
        """Note that Airflow has a group; after an interruption the others need not wait any longer."""
        self.sent.update(files)
        self.begun.add(key[1])
        self.pauses.pop(key, None)
        if self.away:
            self.away = False
            for pause in self.pauses.values():
                pause.until = pause.until if pause.refused else 0.0

    def put_off(self, key: Key, refused: bool, now: float) -> Pause:
        """Let a group that could not be sent wait, twice as long as the last time; it stays in the inbox."""
        first, longest = PAUSES_S[refused]
        before = self.pauses.get(key)
        length = min(longest, 2.0 * before.length_s) if before and before.refused is refused else first
        self.pauses[key] = Pause(now + length, length, refused)
        return self.pauses[key]


def _last(group: list[tuple[Trigger, Arrival]]) -> Trigger:
    """The rule of a group: of several the one that is sent last, as for an exposure with a calibration frame in it."""
    return max((rule for rule, _ in group), key=lambda rule: rule.order)


def destination(entry: Arrival) -> tuple[str, str]:
    """Tell what event a file is, and the name of the run that it belongs to."""
    with suppress(BadName):
        night, part = parse_manifest_filename(entry.name)
        return ("calibration_manifest", f"cal_{night}") if part == "calibration" else ("night_manifest", f"eon_{night}")
    with suppress(BadName):
        name = RawName.parse(entry.name)
        return "calibration_frame" if name.is_calibration else "sky_exposure", name.exposure
    with suppress(BadName):
        return "telemetry_file", "tel_{}_{}".format(*parse_telemetry_filename(entry.name))
    return "other_file", f"unnamed__{digest([entry])}"


def digest(files: Iterable[Arrival]) -> str:
    """Hash of names, sizes and times: another content, or another copy, has another one."""
    content = json.dumps(sorted((entry.name, entry.bytes, entry.mtime_ns, entry.ctime_ns) for entry in files))
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def build_run(dag_id: str, run_id: str, base: str, files: list[Arrival]) -> Run:
    """Describe the run of a group of files; its arrival is that of the first of them."""
    arrival = datetime.fromtimestamp(min(entry.ctime_ns for entry in files) * 1e-9, UTC).isoformat()
    conf: dict[str, Any] = {"arrival": arrival, "files": [entry.as_conf() for entry in files]}
    if base.startswith(("cal_", "eon_", "tel_")):
        return Run(dag_id, run_id, {**conf, "manifest": files[-1].name, "night": base.split("_")[1]})
    return Run(dag_id, run_id, {**conf, "exposure": base}, partition_key=base if dag_id == PARTITIONED else None)


def send(api: Api, key: Key, files: list[Arrival]) -> Run | None:
    """Create the run of a group; files that its run does not cover (late, re-sent) get a run of their own.

    Returns
    -------
    Run or None
        What was created; None when every file had been sent before.

    Raises
    ------
    ServiceDown
        Airflow does not answer: nothing is lost, the files stay in the inbox.
    ConfigurationError
        Airflow refuses the run or the account.
    """
    dag_id, base = key
    run = build_run(dag_id, base, base, files)
    if api.trigger(run.dag_id, run.run_id, run.conf, partition_key=run.partition_key):
        return run
    covered = {identity for other in api.runs(dag_id, base) for identity in named_in(other.get("conf"))}
    rest = [e for e in files if (e.name, e.bytes, e.mtime_ns, e.ctime_ns) not in covered]
    if not rest:
        return None
    run = build_run(dag_id, f"{base}__{digest(rest)}", base, rest)
    created = api.trigger(run.dag_id, run.run_id, run.conf, partition_key=run.partition_key)
    return run if created else None


def named_in(conf: Any) -> Iterator[tuple[Any, ...]]:
    """Name, size and times of the files of a run; what somebody wrote by hand in another form names none."""
    files = conf.get("files") if isinstance(conf, dict) else None
    for entry in files if isinstance(files, list) else ():
        if isinstance(entry, dict):
            identity = tuple(entry.get(name) for name in ("name", "bytes", "mtime_ns", "ctime_ns"))
            if all(isinstance(value, str | int) for value in identity):
                yield identity


def sweep(watcher: Watcher, api: Api, now: float) -> int:
    """Send everything that is due; a group that cannot be sent does not hold up the others and is tried again later.

    Returns
    -------
    int
        Number of runs created.

    Raises
    ------
    ServiceDown
        Airflow did not take at least one group (raised when the others have been tried). Refused groups are only logged.
    """
    if watcher.held():
        return 0
    created = taken = in_a_row = 0
    failures: list[tuple[Key, Exception]] = []
    for key, files in watcher.due(now):
        try:
            run = send(api, key, files)
        except (ServiceDown, ConfigurationError, *STRANGE) as error:
            watcher.put_off(key, not isinstance(error, ServiceDown), now)
            failures.append((key, error))
            in_a_row += 1
            if in_a_row == IN_A_ROW:
                break
            continue
        taken, in_a_row = taken + 1, 0
        watcher.done(key, files)
        if run is not None:
            created += 1
            waited = now - min(entry.ctime_ns for entry in files) * 1e-9
            logger.info("sent dag=%s run=%s files=%d waited_s=%.2f", run.dag_id, run.run_id, len(files), waited)
    watcher.away = watcher.away or (bool(failures) and not taken)
    _tell(watcher, failures)
    return created


def _tell(watcher: Watcher, failures: list[tuple[Key, Exception]]) -> None:
    """Log what could not be sent, one line for each kind of failure; raise the first one that says that Airflow is down."""
    for refused, level, word in ((True, logging.ERROR, "refused"), (False, logging.WARNING, "airflow away")):
        of_kind = [(key, error) for key, error in failures if isinstance(error, ServiceDown) is not refused]
        if of_kind:
            (key, error), pause_s = of_kind[0], max(watcher.pauses[key].length_s for key, _ in of_kind)
            text = "%s groups=%d first dag=%s run=%s error=%s: %s next_try_s=%.0f"
            logger.log(level, text, word, len(of_kind), *key, type(error).__name__, error, pause_s)
    for _, error in failures:
        if isinstance(error, ServiceDown):
            raise error


def watch(watcher: Watcher, api: Api, stopped: threading.Event, interval_s: float = 0.5) -> None:
    """Sweep the inbox until told to stop; wait longer and longer while Airflow is away or the inbox cannot be read."""
    logger.info("watching inbox=%s expected=%d patience_s=%.1f", watcher.inbox, watcher.expected, watcher.patience_s)
    pause = interval_s
    while not stopped.wait(pause):
        try:
            sweep(watcher, api, time.time())
            pause = interval_s
        except ServiceDown:  # the sweep has logged it
            pause = min(LONGEST_AWAY_S, pause * 2)
        except OSError as error:
            pause = min(LONGEST_BACKOFF_S, pause * 2)
            logger.error("inbox unreadable, next try in %.1f s: %s", pause, error)
    logger.info("stopped")


def main(home: Path, camera: str, patience_s: float) -> None:
    """Watch the inbox of a home folder with the account that `ztfds services start` made, until SIGTERM or Ctrl-C.

    Two threads beside it watch the survey's figures, and close nights that no manifest closes.
    """
    from ztfds.operations.closing import Closer
    from ztfds.operations.context import Context
    from ztfds.operations.control.changes import in_force
    from ztfds.operations.control.triggers import FILE, Source
    from ztfds.operations.day.downtime import Hold
    from ztfds.operations.postgres import EmbeddedPostgres
    from ztfds.operations.services.rest import AirflowApi
    from ztfds.operations.services.state import load
    from ztfds.operations.watch.home import watch_of
    from ztfds.survey.camera import get_camera

    state = load(home)
    if state is None:
        raise ConfigurationError(f"no services were ever started in {home}")
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    threading.Thread(target=watch_of(state).run, args=(stopped,), name="watch", daemon=True).start()
    api, database = AirflowApi(state.api_url, "ingestd", state.passwords["ingestd"]), EmbeddedPostgres(home)
    hold, rules = Hold(database.dsn("ztf_reader")), Source(database.dsn("ztf_reader"), state.home / FILE, keeps=True)
    context = Context.build(database.dsn("ztf_pipeline"), state.places)
    closer = Closer(context.dsn, api, lambda: in_force(context).config.closing, held=hold)
    threading.Thread(target=closer.run, args=(stopped,), name="closer", daemon=True).start()
    watcher = Watcher(Path(state.roots["inbox"]), len(get_camera(camera).ccdids), patience_s, held=hold, rules=rules)
    watch(watcher, api, stopped)
