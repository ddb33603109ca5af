"""Cleaning of disks by declared rules: nothing is removed whose content was not verified elsewhere just before."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ztfds.config.operations import LIMITS, Retention
from ztfds.formats.atomic import sha256_of
from ztfds.operations.context import Context
from ztfds.operations.day import backup
from ztfds.operations.day.outcomes import Outcome
from ztfds.registry import database
from ztfds.registry.runner import WORK
from ztfds.survey.errors import BadData, ConfigurationError, FilesMissing

log = logging.getLogger(__name__)

DAY_S = 86400.0
_ACCEPTED = """
    select c.filename, c.path, c.sha256, c.bytes from ccdfiles c join receipts r on r.filename = c.filename
       and r.verdict = 'accepted' and r.sha256 = c.sha256 where c.path like 'raw/%%' and c.filename = any(%s)"""
_ASIDE = """
    select filename, path, sha256, bytes, verdict, extract(epoch from now() - created) as age_s from receipts
     where verdict = any(%s) and created < now() - make_interval(secs => %s) order by receipt_id"""
_SUPERSEDED = """
    select o.path, o.sha256, o.bytes, extract(epoch from now() - max(n.created)) as age_s
      from products o join products n on n.dataset = o.dataset and n.kind = o.kind and n.vbest > 0
     where o.vbest = 0 and n.created > o.created
       and not exists (select 1 from products s where s.path = o.path and s.vbest > 0)
       and not exists (select 1 from data_release_files f where f.product_id = o.product_id)
     group by o.product_id having max(n.created) < now() - make_interval(secs => %s) order by o.product_id"""


@dataclass(frozen=True)
class Doomed:
    """A file that a rule names.

    Attributes
    ----------
    rule : str
        Field of `Retention`.
    place, path : str
        ``inbox``, ``archive`` or ``home``, and the path below it.
    file : Path
        Where it is.
    bytes : int
    sha256 : str or None
        What the registry says of its content; None for what was never a product.
    age_s : float
    verify : callable or None
        Raises unless the same content is good elsewhere; returns where.
    """

    rule: str
    place: str
    path: str
    file: Path
    bytes: int
    sha256: str | None
    age_s: float
    verify: Callable[[], str] | None


# -- rules as data -----------------------------------------------------------------------------------------------------


def rules(dsn: str) -> tuple[Retention, int]:
    """The rules in force and their version; 0 are those that the code comes with.

    Raises
    ------
    ConfigurationError
        The newest version makes no sense to this code: nothing is cleaned by guess.
    """
    row = database.fetch_one(dsn, "select version, rules from retention_rules order by version desc limit 1")
    return (Retention(), 0) if row is None else (validated(row["rules"]), int(row["version"]))


def validated(content: Mapping[str, Any]) -> Retention:
    """Rules from plain values; those that are not named are as the code has them."""
    try:
        return Retention(**content)
    except (ValidationError, TypeError) as error:
        raise ConfigurationError(f"these are no rules of retention: {' '.join(str(error).split())}") from error


def read_rules(path: Path) -> dict[str, Any]:
    """Rules from a JSON file."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} is no JSON file: {error}") from error
    return validated(content).model_dump()


def set_rules(dsn: str, content: Mapping[str, Any], author: str, reason: str) -> int:
    """Put new rules in force; returns their version."""
    if not author.strip() or not reason.strip():
        raise ConfigurationError("new rules need an author and a reason")
    values = {"rules": validated(content).model_dump(), "author": author, "reason": reason}
    with database.transaction(dsn) as cursor:
        row = database.insert(cursor, "retention_rules", values, "returning version")
    return int(row["version"]) if row else 0


# -- what the rules name -----------------------------------------------------------------------------------------------


def doomed(context: Context, kept: Retention) -> Iterator[Doomed]:
    """Every file that is older than its rule allows, whether or not it may go."""
    yield from _inbox(context, kept.inbox_days)
    yield from _aside(context, "duplicate_days", ("duplicate",), kept.duplicate_days)
    yield from _aside(context, "quarantine_days", ("quarantined",), kept.quarantine_days)
    yield from _superseded(context, kept.superseded_days)
    yield from _unfinished(context.archive, kept.work_days)
    if context.places.get("home"):
        yield from _logs(Path(str(context.places["home"])), kept.log_days)


def _old_files(root: Path, days: float | None) -> Iterator[tuple[Path, os.stat_result, float]]:
    """Files below a folder that have not changed for so many days."""
    for folder, _, names in os.walk(root) if days is not None else ():
        for name in sorted(names):
            path = Path(folder) / name
            try:
                info = path.lstat()
            except FileNotFoundError:
                continue
            age = time.time() - max(info.st_mtime, info.st_ctime)
            if days is not None and age > days * DAY_S:
                yield path, info, age


def _inbox(context: Context, days: float | None) -> Iterator[Doomed]:
    """Files of the inbox; only those that were accepted are named: the others are somebody's work."""
    found = [item for item in _old_files(context.inbox, days) if item[0].parent == context.inbox]
    names = [path.name for path, _, _ in found]
    good = {row["filename"]: row for row in database.fetch_all(context.dsn, _ACCEPTED, (names,))}
    for path, info, age in found:
        if row := good.get(path.name):
            verify = _identical(context, path, row)
            yield Doomed("inbox_days", "inbox", path.name, path, info.st_size, row["sha256"], age, verify)


def _identical(context: Context, path: Path, row: Mapping[str, Any]) -> Callable[[], str]:
    """Check that a file of the inbox and the archived one are both what was accepted."""

    def check() -> str:
        if sha256_of(path) != row["sha256"]:
            raise BadData(f"{path.name} is not the file that was accepted under this name")
        return in_archive(context, row["path"], row["sha256"])

    return check


def in_archive(context: Context, path: str, sha256: str) -> str:
    """Read a file of the archive; raise unless its content is the one expected; returns where it is."""
    file = context.archive / path
    if not file.is_file():
        raise FilesMissing(f"{path} is not in the archive")
    if sha256_of(file) != sha256:
        raise BadData(f"{path} is damaged in the archive")
    return f"archive:{path}"


def _aside(context: Context, rule: str, verdicts: Sequence[str], days: float | None) -> Iterator[Doomed]:
    """Files that were put aside; they may go when a good file of that name is in the archive."""
    if days is None:
        return
    found = database.fetch_all(context.dsn, _ASIDE, (list(verdicts), days * DAY_S))
    good = {r["filename"]: r for r in database.fetch_all(context.dsn, _ACCEPTED, ([f["filename"] for f in found],))}
    for row in found:
        file = context.archive / row["path"]
        if not file.is_file():
            continue
        best = good.get(row["filename"])
        verify = partial(in_archive, context, best["path"], best["sha256"]) if best else _no_good_copy(row)
        yield Doomed(rule, "archive", row["path"], file, row["bytes"], row["sha256"], float(row["age_s"]), verify)


def _no_good_copy(row: Mapping[str, Any]) -> Callable[[], str]:
    """What keeps a file of which no good copy ever came."""

    def check() -> str:
        raise FilesMissing(f"no good copy of {row['filename']} was ever accepted")

    return check


def _superseded(context: Context, days: float | None) -> Iterator[Doomed]:
    """Files of product versions that are not served; they may go when a complete backup holds their content."""
    if days is None:
        return
    found = database.fetch_all(context.dsn, _SUPERSEDED, (days * DAY_S,))
    place = backup.place_of(context)
    held = {k.path: k.sha256 for k in backup.files_of(place, backup.sets(place)[-1])} if backup.sets(place) else {}
    for row in found:
        file = context.archive / row["path"]
        if file.is_file():
            verify = _backed_up(place, held, row)
            yield Doomed(
                "superseded_days",
                "archive",
                row["path"],
                file,
                row["bytes"],
                row["sha256"],
                float(row["age_s"]),
                verify,
            )


def _backed_up(place: Path, held: Mapping[str, str], row: Mapping[str, Any]) -> Callable[[], str]:
    """Check that the newest complete backup names a file with its registered content, by reading the content there."""

    def check() -> str:
        if held.get(row["path"]) != row["sha256"]:
            raise FilesMissing(f"{row['path']} is in no complete backup")
        backup.verify_object(place, row["sha256"], row["bytes"])
        return f"backup:{row['sha256']}"

    return check


def _unfinished(archive: Path, days: float | None) -> Iterator[Doomed]:
    """Working files of dead processes, and temporary names that were never renamed."""
    for path, info, age in _old_files(archive, days):
        working = (archive / WORK) in path.parents
        if working or (path.name.startswith(".") and path.name.endswith(".part")):
            relative = path.relative_to(archive).as_posix()
            yield Doomed("work_days", "archive", relative, path, info.st_size, None, age, None)


def _logs(home: Path, days: float | None) -> Iterator[Doomed]:
    """Logs of Airflow's tasks."""
    for path, info, age in _old_files(home / "logs" / "airflow", days):
        yield Doomed("log_days", "home", path.relative_to(home).as_posix(), path, info.st_size, None, age, None)


# -- cleaning ----------------------------------------------------------------------------------------------------------


def clean(context: Context, run_id: str, *, dry_run: bool = True) -> Outcome:
    """Remove what the rules name and what is verified elsewhere; report what had to stay, and how full the disks are.

    Parameters
    ----------
    context : Context
    run_id : str
        Kept with every removal.
    dry_run : bool
        True: everything is looked at and verified, nothing is removed.

    Returns
    -------
    Outcome
        A warning when files had to stay that a rule names, or when a disk will soon be full.
    """
    kept, version = rules(context.dsn)
    counts: Counter[str] = Counter()
    sizes: defaultdict[str, int] = defaultdict(int)
    refused: list[str] = []
    for one in doomed(context, kept):
        try:
            proof = one.verify() if one.verify else "never a product"
            if not dry_run:
                _remove(context, one, proof, version, run_id)
        except (BadData, FilesMissing, OSError) as error:
            refused.append(f"{one.path} stays: {error}")
            continue
        counts[one.rule] += 1
        sizes[one.rule] += one.bytes
    if not dry_run:
        _empty_folders(context.archive / WORK)
    full = sample_disks(context)
    line = f"{'would remove' if dry_run else 'removed'} {counts.total()} files ({sum(sizes.values()) / 1e9:.2f} GB) by rules {version}"
    figures: dict[str, Any] = {
        "removed": dict(counts),
        "bytes": dict(sizes),
        "refused": len(refused),
        "rules": version,
        "dry_run": dry_run,
    }
    space = "; ".join(disk_words(name, disk) for name, disk in full.items())
    soon = [disk_words(name, disk) for name, disk in full.items() if filling(disk)]
    stays = [f"{len(refused)} had to stay: {refused[0]}"] if refused else []
    return Outcome.of(f"{line}; {space}", warnings=[*stays, *soon], disks=full, stayed=refused[:100], **figures)


def _remove(context: Context, one: Doomed, proof: str, version: int, run_id: str) -> None:
    """Write down a removal, then remove; a kill in between leaves a file that goes the next time."""
    if one.rule != "log_days":  # too many to be kept by name, and of no account
        values = {
            "place": one.place,
            "path": one.path,
            "bytes": one.bytes,
            "sha256": one.sha256,
            "rule": one.rule,
            "rules_version": version,
            "proof": proof,
            "run_id": run_id,
        }
        with database.transaction(context.dsn) as cursor:
            database.insert(cursor, "removed_files", values)
    context.fault("cleanup:noted")
    one.file.unlink()


def _empty_folders(root: Path) -> None:
    """Remove folders that hold nothing and are old."""
    for folder in sorted(root.glob("*/"), reverse=True) if root.is_dir() else ():
        if time.time() - folder.stat().st_mtime > DAY_S and not any(folder.iterdir()):
            folder.rmdir()


# -- disks -------------------------------------------------------------------------------------------------------------


def sample_disks(context: Context) -> dict[str, dict[str, float | None]]:
    """Measure the free space of every place, keep it, and predict when each will be full.

    Returns
    -------
    dict of str to dict
        By place: ``free_bytes``, ``total_bytes``, ``hours_to_full`` (None: not filling).
    """
    places = {"inbox": context.inbox, "archive": context.archive, "backup": backup.place_of(context)}
    found: dict[str, dict[str, float | None]] = {}
    for name, path in places.items():
        if not path.exists():
            continue
        usage = shutil.disk_usage(path)
        with database.transaction(context.dsn) as cursor:
            values = {"place": name, "free_bytes": usage.free, "total_bytes": usage.total}
            database.insert(cursor, "disk_samples", values)
            cursor.execute("delete from disk_samples where taken < now() - interval '90 days'")
            query = "select taken, free_bytes from disk_samples where place = %s and taken > now() - interval '3 days' order by taken"
            samples = [(row["taken"], row["free_bytes"]) for row in database.rows(cursor, query, (name,))]
        hours = hours_to_full(samples)
        found[name] = {"free_bytes": usage.free, "total_bytes": usage.total, "hours_to_full": hours}
    return found


def hours_to_full(samples: Sequence[tuple[datetime, int]]) -> float | None:
    """Hours until a disk is full, by a straight line through its free space over time.

    Parameters
    ----------
    samples : sequence of (time, free bytes)
        Oldest first.

    Returns
    -------
    float or None
        From now on, h; None when it does not fill, or when the samples span less than an hour.
    """
    if len(samples) < 2 or (samples[-1][0] - samples[0][0]).total_seconds() < 3600:
        return None
    hours = np.array([(taken - samples[-1][0]).total_seconds() / 3600 for taken, _ in samples])
    free = np.array([float(value) for _, value in samples])
    slope = np.polyfit(hours, free, 1)[0]
    since = (datetime.now(UTC) - samples[-1][0]).total_seconds() / 3600
    return max(0.0, float(free[-1] / -slope) - since) if slope < -1e-9 * free[0] else None


def filling(disk: Mapping[str, float | None]) -> bool:
    """Whether a disk is nearly full or soon will be."""
    hours, free, total = disk["hours_to_full"], disk["free_bytes"] or 0.0, disk["total_bytes"] or 1.0
    return free / total < LIMITS.disk_free_warn or (hours is not None and hours < LIMITS.hours_to_full_warn)


def disk_words(name: str, disk: Mapping[str, float | None]) -> str:
    """Free space of a place in words."""
    free, total, hours = disk["free_bytes"] or 0.0, disk["total_bytes"] or 1.0, disk["hours_to_full"]
    words = f"{name} {free / 1e9:.0f} GB free ({100 * free / total:.0f} %)"
    return words + (f", full in {hours:.0f} h" if hours is not None and hours < 240 else "")
