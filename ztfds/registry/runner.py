"""The one runner of all steps: skip what exists, compute, write, and register everything in one transaction.

A step itself is a pure function. The runner looks whether products of the same provenance exist; if not it computes without
any database connection, writes all files under a working folder, and then, in a single transaction, moves them to their
places and registers products, parents, quality metrics, the job, and whatever rows the step's wiring adds (candidates, alerts).
Whoever is killed at any moment leaves nothing registered, and files that nobody sees and the next attempt replaces.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, TypeVar

from ztfds.formats.atomic import Written, describe
from ztfds.registry import messages, products
from ztfds.registry.database import Cursor, insert, rows, transaction
from ztfds.registry.products import Config, Parent, Step, Subject
from ztfds.survey.errors import DatabaseDown, StoreDown, ZtfdsError

log = logging.getLogger(__name__)

T = TypeVar("T")

FAULT_POINTS = ("opened", "computed", "before_write", "after_write", "moved", "before_commit", "committed")
"""Named moments of an execution at which a fault can be injected, in order."""

WORK = ".work"
"""Folder below the archive root for files that are being written; on the same file system, so that moving is renaming."""


def no_fault(point: str) -> None:
    """The fault injector of normal operation: nothing happens at any point."""


@dataclass(frozen=True)
class OutputFile:
    """One file that an execution makes.

    Attributes
    ----------
    kind : str
        Kind of the product, e.g. ``sciimg``; each once per execution.
    path : callable
        From the version (1, 2, ...) to the place below the archive root.
    write : callable
        Writes the file to the path it is given (its name is the final one); what it returns is not used unless it is a
        `Written`, which saves reading the file again for its checksum.
    """

    kind: str
    path: Callable[[int], str]
    write: Callable[[Path], object]


@dataclass(frozen=True)
class Registered:
    """What was just registered, for rows that refer to it: the products by kind, inside the open transaction."""

    provenance_id: str
    version: int
    products: Mapping[str, Mapping[str, Any]]
    job_id: int


@dataclass(frozen=True)
class Outputs:
    """What an execution leaves behind.

    Attributes
    ----------
    files : sequence of OutputFile
    status : int
        1 usable, 0 not.
    infobits : int
    qa : mapping of name to number
        Quality metrics; NaN means not measured.
    meta : mapping
        JSON kept with every product row (header values worth searching).
    register : callable or None
        Adds further rows in the registering transaction.
    """

    files: Sequence[OutputFile]
    status: int = 1
    infobits: int = 0
    qa: Mapping[str, float] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    register: Callable[[Cursor, Registered], None] | None = None


@dataclass(frozen=True)
class Executed(Generic[T]):
    """The result of `Runner.execute`.

    Attributes
    ----------
    provenance_id : str
    products : mapping of kind to row of `products`
    skipped : bool
        True when the products existed before and nothing was computed.
    value : T or None
        What the step returned; None when skipped.
    """

    provenance_id: str
    products: Mapping[str, Mapping[str, Any]]
    skipped: bool
    value: T | None

    @property
    def parents(self) -> list[Parent]:
        """The products as parents of the next step: one per execution suffices, as they share the provenance."""
        return [Parent.of(row) for row in list(self.products.values())[:1]]


def provenance_id(step: Step, dataset: str, config: Config | None, parents: Sequence[Parent]) -> str:
    """Hash that identifies what an execution makes.

    Parameters
    ----------
    step : Step
        Name and code version.
    dataset : str
        What is made: four quadrants have the same raw file as their parent.
    config : Config or None
        Only its critical part counts (`critical_hash`).
    parents : sequence of Parent
        Their order does not matter.

    Returns
    -------
    str
        64 hexadecimal digits (SHA-256 of canonical JSON).
    """
    content = {
        "step": step.name,
        "version": step.version,
        "dataset": dataset,
        "config": config.critical_hash() if config is not None else None,
        "parents": sorted({parent.provenance_id for parent in parents}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def package_version() -> str:
    """Version of this package, ``0+unknown`` where it runs uninstalled."""
    try:
        return version("ztfds")
    except PackageNotFoundError:
        return "0+unknown"


def software_of(step: Step) -> str:
    """Package release, step and version of its code."""
    return f"{package_version()}/{step.name}/{step.version}"


class Meter:
    """CPU seconds, wall seconds and peak memory of this process from now on."""

    def __init__(self) -> None:
        self._reset_peak()
        self._cpu, self._wall = self._cpu_now(), time.monotonic()

    @staticmethod
    def _reset_peak() -> None:
        """Forget the peak of earlier work, where the kernel lets us; else the peak of the process's life is reported."""
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            log.debug("the peak of memory cannot be reset")

    @staticmethod
    def _cpu_now() -> float:
        """User and system time of this process and its finished children, s."""
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in usage)

    @staticmethod
    def _peak_mb() -> float:
        """Largest resident memory, MB."""
        try:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024.0
        except OSError:
            pass
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0

    def read(self) -> dict[str, float]:
        """``cpu_s``, ``wall_s`` and ``peak_mb`` until now."""
        return {
            "cpu_s": round(self._cpu_now() - self._cpu, 4),
            "wall_s": round(time.monotonic() - self._wall, 4),
            "peak_mb": round(self._peak_mb(), 1),
        }


@dataclass(frozen=True)
class Task:
    """The task of the orchestrator that does the work, for the record.

    Attributes
    ----------
    dag, task : str
    map_index : int
        Which of the mapped tasks of that name, from 0; -1: it is not mapped.
    waited_s : float or None
        From the creation of the run to the start of the task, s; None where it had been tried before.
    """

    dag: str
    task: str
    map_index: int = -1
    waited_s: float | None = None

    def columns(self) -> dict[str, Any]:
        """Its part of a row of ``jobs``."""
        return {"dag": self.dag, "task": self.task, "map_index": self.map_index, "waited_s": self.waited_s}


@dataclass(frozen=True)
class _Staged:
    """A file in the working folder: what it is, and its size and checksum."""

    output: OutputFile
    written: Written


class Runner:
    """Runs steps for one attempt of one task.

    Parameters
    ----------
    dsn : str
        Database as the role ``ztf_pipeline``.
    archive : Path
        Root of the archive.
    run_id : str, optional
        Run of the orchestrator, for the record.
    attempt : int
        Which try it is, from 1.
    fault : callable
        Called with each of `FAULT_POINTS` (as ``<step>:<point>``); may raise or kill, for tests of recovery.
    task : Task, optional
        Which task of that run, for the record.
    """

    def __init__(
        self,
        dsn: str,
        archive: Path,
        *,
        run_id: str | None = None,
        attempt: int = 1,
        fault: Callable[[str], None] = no_fault,
        task: Task | None = None,
    ) -> None:
        self.dsn, self.archive = dsn, Path(archive)
        self.run_id, self.attempt, self.fault, self.task = run_id, attempt, fault, task

    def execute(
        self,
        step: Step,
        subject: Subject,
        parents: Sequence[Parent],
        config: Config | None,
        compute: Callable[[], T],
        outputs: Callable[[T], Outputs],
    ) -> Executed[T]:
        """Run a step unless its products exist, and register what it makes.

        Parameters
        ----------
        step : Step
        subject : Subject
            What it is about; ``subject.dataset`` is what gets a new version.
        parents : sequence of Parent
            Registered products that go in.
        config : Config or None
            Settings; the critical part is in the provenance.
        compute : callable
            The pure work (it may read the input files first). No connection is held while it runs.
        outputs : callable
            From the computed value to the files, metrics and rows that it leaves behind.

        Returns
        -------
        Executed

        Raises
        ------
        ZtfdsError
            Whatever the step raises, with exposure, readout channel, step and attempt filled in; the job is marked.
        StoreDown, DatabaseDown
            The archive or the database refused; nothing is registered.
        """
        provenance = provenance_id(step, subject.dataset, config, parents)
        before, job_id = self._open(step, subject, provenance, config)
        if job_id is None:
            return Executed(provenance, before, True, None)
        meter = Meter()
        work = self.archive / WORK / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        about = messages.ABOUT.set(messages.About(step.name, subject.exposure, subject.rcid, subject.nid))
        try:
            self._at(step, "opened")
            value = compute()
            self._at(step, "computed")
            result = outputs(value)
            staged = self._stage(step, result, work)
            self._at(step, "after_write")
            made = self._register(step, subject, parents, config, provenance, result, staged, job_id, meter)
            self._at(step, "committed")
            return Executed(provenance, made, False, value)
        except Exception as error:
            self._note_failure(job_id, meter, error)
            if isinstance(error, ZtfdsError):
                error.located(exposure=subject.exposure, rcid=subject.rcid, step=step.name, attempt=self.attempt)
            raise
        finally:
            messages.ABOUT.reset(about)
            shutil.rmtree(work, ignore_errors=True)

    def _at(self, step: Step, point: str) -> None:
        """Let the fault injector act."""
        self.fault(f"{step.name}:{point}")

    def _open(
        self, step: Step, subject: Subject, provenance: str, config: Config | None
    ) -> tuple[dict[str, dict[str, Any]], int | None]:
        """Products that exist already (then no job is opened), or a new job."""
        with transaction(self.dsn) as cursor:
            before = products.by_provenance(cursor, provenance)
            if before and all(self._intact(row) for row in before.values()):
                log.info("%s of %s exists already: skipped", step.name, subject.dataset)
                return before, None
            _close_dead_jobs(cursor, subject.dataset)
            row = insert(
                cursor,
                "jobs",
                {
                    "step": step.name,
                    "dataset": subject.dataset,
                    "exposure": subject.exposure,
                    "rcid": subject.rcid,
                    "nid": subject.nid,
                    "swversion": software_of(step),
                    "config_hash": config.critical_hash() if config is not None else None,
                    **(self.task.columns() if self.task else {}),
                    "run_id": self.run_id,
                    "try": self.attempt,
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                },
                "returning job_id",
            )
            return before, int(row["job_id"]) if row else 0

    def _intact(self, row: Mapping[str, Any]) -> bool:
        """Whether the file of a product is there with the registered size."""
        path = self.archive / row["path"]
        return path.is_file() and path.stat().st_size == row["bytes"]

    def _stage(self, step: Step, result: Outputs, work: Path) -> list[_Staged]:
        """Write all files below the working folder."""
        staged = []
        try:
            self._at(step, "before_write")
            for output in result.files:
                folder = work / output.kind
                folder.mkdir(parents=True)
                path = folder / Path(output.path(1)).name
                told = output.write(path)
                staged.append(_Staged(output, told if isinstance(told, Written) else _synced(path)))
        except OSError as error:
            raise StoreDown(f"cannot write below {work}: {error}") from error
        return staged

    def _register(
        self,
        step: Step,
        subject: Subject,
        parents: Sequence[Parent],
        config: Config | None,
        provenance: str,
        result: Outputs,
        staged: Sequence[_Staged],
        job_id: int,
        meter: Meter,
    ) -> dict[str, dict[str, Any]]:
        """Move the files to their places and register everything, in one transaction."""
        software = software_of(step)
        with transaction(self.dsn) as cursor:
            number = products.next_version(cursor, subject.dataset)
            before = products.by_provenance(cursor, provenance)
            if before:
                self._restore(cursor, before, staged)
                _close_job(cursor, job_id, meter, "skipped")
                return before
            common = {
                "provenance_id": provenance,
                "step": step.name,
                "version": number,
                "status": result.status,
                "infobits": result.infobits,
                "swversion": software,
                "config_hash": products.note_versions(cursor, step, software, config),
                "job_id": job_id,
                "meta": dict(result.meta),
            }
            made = {}
            for item in staged:
                place = item.output.path(number)
                self._move(item.written.path, place)
                file = {"kind": item.output.kind, "filename": Path(place).name, "path": place}
                size = {"bytes": item.written.bytes, "sha256": item.written.sha256}
                made[item.output.kind] = products.register(cursor, subject, {**common, **file, **size})
            self._at(step, "moved")
            products.link(cursor, [row["product_id"] for row in made.values()], parents)
            products.note_quality(cursor, provenance, step, subject, result.qa)
            if result.register:
                result.register(cursor, Registered(provenance, number, made, job_id))
            _close_job(cursor, job_id, meter, "done")
            self._at(step, "before_commit")
        log.info("%s of %s registered, version %d", step.name, subject.dataset, number)
        return made

    def _restore(self, cursor: Cursor, before: Mapping[str, dict[str, Any]], staged: Sequence[_Staged]) -> None:
        """Put back files that had been registered and were lost from disk."""
        for item in staged:
            row = before.get(item.output.kind)
            if row is not None and not self._intact(row):
                self._move(item.written.path, row["path"])
                products.restore(cursor, row["product_id"], row["path"], item.written.bytes, item.written.sha256)

    def _move(self, source: Path, place: str) -> None:
        """Rename a written file to its place in the archive, and make the rename durable."""
        target = self.archive / place
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
            sync_folder(target.parent)
        except OSError as error:
            raise StoreDown(f"cannot move {source.name} to {target}: {error}") from error

    def _note_failure(self, job_id: int, meter: Meter, error: Exception) -> None:
        """Mark the job as failed; if even that is impossible the error itself says more."""
        name = error.code if isinstance(error, ZtfdsError) else type(error).__name__
        try:
            with transaction(self.dsn) as cursor:
                _close_job(cursor, job_id, meter, "error", name, str(error)[:2000])
        except DatabaseDown:
            log.warning("job %d failed and the database is away", job_id)


def process_lives(pid: int) -> bool:
    """Whether a process of this host exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _synced(path: Path) -> Written:
    """Flush a written file to disk and describe it."""
    with path.open("rb") as f:
        os.fsync(f.fileno())
    return describe(path)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _close_job(
    cursor: Cursor, job_id: int, meter: Meter, state: str, error_class: str | None = None, error_text: str | None = None
) -> None:
    """Finish the row of a job with what it used."""
    cursor.execute(
        "update jobs set state = %(state)s, ended = now(), error_class = %(name)s, error_text = %(text)s,"
        " cpu_s = %(cpu_s)s, wall_s = %(wall_s)s, peak_mb = %(peak_mb)s where job_id = %(job)s",
        {"state": state, "name": error_class, "text": error_text, "job": job_id, **meter.read()},
    )


def _close_dead_jobs(cursor: Cursor, dataset: str) -> None:
    """Mark as killed the jobs on this dataset that still say running and whose process on this host is gone."""
    query = "select job_id, pid from jobs where dataset = %s and state = 'running' and host = %s"
    for row in rows(cursor, query, (dataset, socket.gethostname())):
        if row["pid"] == os.getpid() or not process_lives(row["pid"]):
            cursor.execute("update jobs set state = 'killed', ended = now() where job_id = %s", (row["job_id"],))


def sweep(archive: Path) -> int:
    """Delete working folders that killed processes of this host left behind; returns how many."""
    count = 0
    for folder in (Path(archive) / WORK).glob(f"{socket.gethostname()}-*"):
        pid = folder.name.rsplit("-", 2)[1]
        if pid.isdigit() and int(pid) != os.getpid() and not process_lives(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
            count += 1
    return count
