"""Product rows: registration with version and vbest, look-up, parents, software and configuration versions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psycopg2.extras

from ztfds.formats.atomic import Written
from ztfds.registry.database import Cursor, fetch_all, insert, json_safe, rows, transaction


class Config(Protocol):
    """What the registry needs of a step's configuration."""

    def critical_hash(self) -> str:
        """Hash of the values that change results."""

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        """All values, for the record."""


@dataclass(frozen=True)
class Step:
    """A step of the pipeline: its name and the version of its code, both part of the provenance of what it makes."""

    name: str
    version: str


@dataclass(frozen=True)
class Subject:
    """What an execution of a step is about.

    Attributes
    ----------
    dataset : str
        Name of what is made, e.g. ``sci/ztf_<ffd>/rcid20``: versions of one dataset replace each other.
    exposure : str or None
        Exposure name; None for calibrations and references.
    expid, nid, field, fid, ccdid, rcid, pid, programid : int or None
        Identifiers for searching.
    """

    dataset: str
    exposure: str | None = None
    expid: int | None = None
    nid: int | None = None
    field: int | None = None
    fid: int | None = None
    ccdid: int | None = None
    rcid: int | None = None
    pid: int | None = None
    programid: int | None = None


@dataclass(frozen=True)
class Parent:
    """A registered product that went into another one."""

    product_id: int
    provenance_id: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Parent:
        """From a row of the table `products`."""
        return cls(int(row["product_id"]), str(row["provenance_id"]))


def by_provenance(cursor: Cursor, provenance_id: str) -> dict[str, dict[str, Any]]:
    """Products of one execution of a step, by kind; empty when it was never registered."""
    found = rows(cursor, "select * from products where provenance_id = %s", (provenance_id,))
    return {row["kind"]: row for row in found}


def best(dsn: str, dataset: str) -> dict[str, dict[str, Any]]:
    """The products of a dataset that are served now (vbest 1 or 2), by kind."""
    found = fetch_all(dsn, "select * from products where dataset = %s and vbest > 0", (dataset,))
    return {row["kind"]: row for row in found}


def find(dsn: str, product_id: int) -> dict[str, Any] | None:
    """The product of a number, None if there is none."""
    found = fetch_all(dsn, "select * from products where product_id = %s", (product_id,))
    return found[0] if found else None


def by_filename(dsn: str, filename: str) -> dict[str, Any] | None:
    """The best version of the product with this file name, None if there is none."""
    found = fetch_all(dsn, "select * from products where filename = %s and vbest > 0", (filename,))
    return found[0] if found else None


def next_version(cursor: Cursor, dataset: str) -> int:
    """Version that the next execution on this dataset gets; the dataset stays locked until the transaction ends."""
    cursor.execute("select pg_advisory_xact_lock(hashtextextended(%s, 1))", (dataset,))
    cursor.execute("select coalesce(max(version), 0) + 1 from products where dataset = %s", (dataset,))
    (version,) = cursor.fetchone() or (1,)
    return int(version)


def register(cursor: Cursor, subject: Subject, values: Mapping[str, Any]) -> dict[str, Any]:
    """Insert one product row as the best version of its dataset and kind (unless an older one is locked).

    Parameters
    ----------
    cursor : psycopg2 cursor
        Inside the registering transaction, after `next_version`.
    subject : Subject
    values : mapping
        provenance_id, kind, step, filename, path, bytes, sha256, version, status, infobits, swversion, config_hash,
        job_id, meta.

    Returns
    -------
    dict
        The whole row, with its product_id and vbest.
    """
    kind = values["kind"]
    cursor.execute(
        "update products set vbest = 0 where dataset = %s and kind = %s and vbest = 1", (subject.dataset, kind)
    )
    cursor.execute(
        "select exists (select 1 from products where dataset = %s and kind = %s and vbest = 2)", (subject.dataset, kind)
    )
    (locked,) = cursor.fetchone() or (False,)
    row = insert(cursor, "products", {**vars(subject), **values, "vbest": 0 if locked else 1}, "returning *")
    assert row is not None
    return row


def register_document(
    dsn: str,
    *,
    kind: str,
    dataset: str,
    nid: int,
    written: Written,
    archive: Path,
    meta: Mapping[str, Any] | None = None,
    programid: int | None = None,
) -> int:
    """Register a document that lies in the archive (a report): a new content replaces the former version.

    Parameters
    ----------
    dsn : str
    kind, dataset : str
        E.g. ``nightreport_html`` of ``night/<nid>``.
    nid : int
        Night.
    written : Written
        The file, below `archive`.
    archive : Path
        Root of the archive.
    meta : mapping, optional
        Figures that are kept with the row.
    programid : int, optional
        Program whose members alone may have it.

    Returns
    -------
    int
        product_id.
    """
    path = written.path.resolve().relative_to(Path(archive).resolve()).as_posix()
    with transaction(dsn) as cursor:
        cursor.execute("select ensure_night(%s)", (nid,))
        return register_file(cursor, kind, dataset, nid, written, path, meta=meta, programid=programid)


def register_file(
    cursor: Cursor,
    kind: str,
    dataset: str,
    nid: int | None,
    written: Written,
    path: str,
    *,
    meta: Mapping[str, Any] | None = None,
    programid: int | None = None,
) -> int:
    """Register a file that no step made, inside the registering transaction; the same content again is the same product.

    Parameters are those of `register_document`; `path` is its place below the archive root.
    """
    provenance = hashlib.sha256(f"{kind}/{dataset}/{written.sha256}".encode()).hexdigest()
    step = Step("report", "1")
    version = next_version(cursor, dataset)
    if before := by_provenance(cursor, provenance):
        return int(before[kind]["product_id"])
    note_versions(cursor, step, f"{step.name}/{step.version}", None)
    file = {"filename": written.path.name, "path": path, "bytes": written.bytes, "sha256": written.sha256}
    values = {"provenance_id": provenance, "kind": kind, "step": step.name, "version": version, **file}
    values |= {"meta": dict(meta)} if meta else {}
    subject = Subject(dataset, nid=nid, programid=programid)
    row = register(cursor, subject, {**values, "swversion": f"{step.name}/{step.version}"})
    return int(row["product_id"])


def restore(cursor: Cursor, product_id: int, path: str, size: int, sha256: str) -> None:
    """Say that the file of a registered product was made anew after it had been lost from disk."""
    statement = "update products set path = %s, bytes = %s, sha256 = %s where product_id = %s"
    cursor.execute(statement, (path, size, sha256, product_id))


def link(cursor: Cursor, product_ids: Sequence[int], parents: Sequence[Parent]) -> None:
    """Register the parents of products."""
    pairs = [(child, parent.product_id) for child in product_ids for parent in parents]
    if pairs:
        statement = "insert into product_parents (product_id, parent_id) values %s on conflict do nothing"
        psycopg2.extras.execute_values(cursor, statement, pairs)


def note_versions(cursor: Cursor, step: Step, swversion: str, config: Config | None) -> str | None:
    """Make sure that the software version and the configuration are on record; return the configuration's hash."""
    insert(
        cursor,
        "software_versions",
        {"swversion": swversion, "step": step.name, "version": step.version},
        "on conflict do nothing",
    )
    if config is None:
        return None
    digest = config.critical_hash()
    values = {"config_hash": digest, "step": step.name, "config": config.model_dump(mode="json")}
    insert(cursor, "config_versions", values, "on conflict do nothing")
    return digest


def note_quality(
    cursor: Cursor, provenance_id: str, step: Step, subject: Subject, metrics: Mapping[str, float]
) -> None:
    """Register the quality metrics of one execution; NaN becomes null."""
    if not metrics:
        return
    where = (provenance_id, step.name, subject.exposure, subject.rcid, subject.nid, subject.fid)
    values = [(*where, name, json_safe(float(value))) for name, value in metrics.items()]
    psycopg2.extras.execute_values(
        cursor,
        "insert into qa_metrics (provenance_id, step, exposure, rcid, nid, fid, name, value) values %s"
        " on conflict (provenance_id, name) do update set value = excluded.value",
        values,
    )
