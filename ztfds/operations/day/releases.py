"""The public release: epochs whose proprietary time is over, and numbered data releases with files, checksums and notes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ztfds
from ztfds.formats.atomic import sha256_of, write_atomic
from ztfds.operations.context import Context
from ztfds.operations.day.outcomes import Outcome
from ztfds.registry import database, products
from ztfds.registry.database import Cursor
from ztfds.survey import ids
from ztfds.survey.errors import ConfigurationError
from ztfds.survey.filters import by_fid
from ztfds.survey.programs import by_id

log = logging.getLogger(__name__)

OF_EXPOSURES = ("sciimg", "mskimg", "psfcat", "sexcat", "sciimgdao", "sciimgdaopsfcent", "scimrefdiffimg", "diffimgpsf")
OF_REFERENCES = ("refimg", "refcov", "refunc", "refpsfcat", "refsexcat")
"""Products that a data release consists of."""
CHECKSUMS, NOTES = "files.sha256", "notes.md"

_DUE = """
    update exposures e set released = now() from release_policy p
     where p.programid = e.programid and e.released is null and e.imgtype = 'o' and e.expid is not null
       and e.obsjd + p.days <= extract(julian from now() at time zone 'utc')
    returning e.programid"""
_MEMBERS = """
    select p.product_id, p.path, p.bytes, p.sha256, p.exposure
      from products p left join exposures e on e.exposure = p.exposure
     where p.vbest > 0 and p.status = 1
       and ((p.kind = any(%(epochs)s) and e.released is not null and e.nid between %(first)s and %(last)s)
         or (p.kind = any(%(references)s) and exists (
                select 1 from references_ r where r.provenance_id = p.provenance_id and r.status = 1 and r.vbest > 0
                    and r.jdend < %(end)s and exists (
                        select 1 from exposures x where x.field = r.field and x.fid = r.fid and x.released is not null
                            and x.nid between %(first)s and %(last)s))))
     order by p.path"""
_FROZEN = """
    select p.product_id, p.path, p.bytes, p.sha256 from data_release_files f join products p using (product_id)
     where f.number = %s order by p.path"""
_STATISTICS = """
    select p.kind, p.fid, count(*)::int as files, sum(p.bytes)::bigint as bytes, count(distinct p.exposure)::int as exposures,
           count(distinct p.field)::int as fields, count(distinct e.nid)::int as nights
      from data_release_files f join products p using (product_id) left join exposures e on e.exposure = p.exposure
     where f.number = %s group by 1, 2 order by 1, 2"""
_PROGRAMS = """
    select e.programid, count(distinct e.exposure)::int as exposures
      from data_release_files f join products p using (product_id) join exposures e on e.exposure = p.exposure
     where f.number = %s group by 1 order by 1"""


def release(context: Context, form: Mapping[str, Any], run_id: str = "") -> Outcome:
    """Release the epochs that are due and, if the form asks for it, freeze a data release; repeating it changes nothing.

    Parameters
    ----------
    context : Context
    form : mapping
        ``freeze`` (number, 0: none), ``first``, ``last`` (nights YYYYMMDD), ``title``, ``remarks``, ``author``, ``verify``.
    run_id : str
        For the record.
    """
    counts = release_due(context.dsn)
    named = ", ".join(f"{count} of program {program}" for program, count in sorted(counts.items())) or "none was due"
    line = f"epochs released: {named}"
    if not form.get("freeze"):
        return Outcome.of(line, released=counts)
    frozen = freeze(context, form)
    log.info("%s (run %s)", frozen.line, run_id)
    return Outcome.of(f"{line}; {frozen.line}", released=counts, **frozen.figures)


def release_due(dsn: str) -> dict[int, int]:
    """Open every epoch whose proprietary time is over to everybody; returns how many, by program."""
    with database.transaction(dsn) as cursor:
        programs = [int(row["programid"]) for row in database.rows(cursor, _DUE)]
    return {program: programs.count(program) for program in sorted(set(programs))}


def freeze(context: Context, form: Mapping[str, Any]) -> Outcome:
    """Freeze a numbered data release: which versions of which files, their checksums, statistics and notes.

    A number that exists is left as it is, and its files are written again where they are lost.

    Raises
    ------
    ConfigurationError
        The number does not follow the last one, an existing one is of other nights, nothing would be in it, a file of it is not in
        the archive, or title or author are missing.
    """
    number, words = (
        int(form["freeze"]),
        {name: str(form.get(name) or "").strip() for name in ("title", "author", "remarks")},
    )
    with database.transaction(context.dsn) as cursor:
        cursor.execute("select pg_advisory_xact_lock(hashtextextended('data_releases', 5))")
        found = {row["number"]: row for row in database.rows(cursor, "select * from data_releases")}
        if number not in found:
            _freeze(cursor, context, number, max(found, default=0), words, form)
        elif form.get("first") and _nids(form) != (found[number]["first_nid"], found[number]["last_nid"]):
            raise ConfigurationError(f"data release {number} exists and is of other nights: it does not change")
        files = database.rows(cursor, _FROZEN, (number,))
        row = database.rows(cursor, "select * from data_releases where number = %s", (number,))[0]
    _write(context, row, files)
    total = sum(int(file["bytes"]) for file in files)
    said = "stays as it is" if number in found else "is frozen"
    return Outcome.of(
        f"data release {number} {said}: {len(files)} files, {total / 1e9:.3f} GB", release=number, files=len(files)
    )


def _nids(form: Mapping[str, Any]) -> tuple[int, int]:
    """Numbers of the first and the last night of a form."""
    return ids.nid_of_date(str(form["first"])), ids.nid_of_date(str(form["last"]))


def _freeze(
    cursor: Cursor, context: Context, number: int, last: int, words: Mapping[str, str], form: Mapping[str, Any]
) -> None:
    """Choose the files, look whether they are there, and register the release."""
    if number != last + 1:
        raise ConfigurationError(f"the next data release is number {last + 1}, not {number}")
    if not words["title"] or not words["author"]:
        raise ConfigurationError("a data release needs a title and an author")
    first_nid, last_nid = _nids(form)
    about = {
        "epochs": list(OF_EXPOSURES), "references": list(OF_REFERENCES), "first": first_nid, "last": last_nid,
        "end": ids.NID_ZERO_JD + last_nid + 1,
    }  # fmt: skip
    files = database.rows(cursor, _MEMBERS, about)
    if not any(file["exposure"] for file in files):
        raise ConfigurationError(f"no released epochs from {form['first']} to {form['last']}")
    if absent := list(_unusable(context.archive, files, verify=bool(form.get("verify")))):
        raise ConfigurationError(f"{len(absent)} files are not as registered, the first: {absent[0]}")
    place = f"releases/dr{number:03d}"
    values = {"number": number, "first_nid": first_nid, "last_nid": last_nid, "statistics": {}, "path": place, **words}
    database.insert(cursor, "data_releases", values)
    cursor.execute(
        "insert into data_release_files (number, product_id) select %s, unnest(%s)",
        (number, [file["product_id"] for file in files]),
    )
    statistics = {
        "kinds": database.rows(cursor, _STATISTICS, (number,)),
        "programs": database.rows(cursor, _PROGRAMS, (number,)),
    }
    cursor.execute("select note_release_statistics(%s, %s)", (number, database.plain(statistics)))


def _unusable(archive: Path, files: list[dict[str, Any]], *, verify: bool) -> Iterator[str]:
    """What is wrong with each file that is not in the archive as the registry says."""
    for file in files:
        path = archive / file["path"]
        if not path.is_file() or path.stat().st_size != file["bytes"]:
            yield f"{file['path']} is not there, or of another size"
        elif verify and sha256_of(path) != file["sha256"]:
            yield f"{file['path']} has another checksum"


def _write(context: Context, row: Mapping[str, Any], files: list[dict[str, Any]]) -> None:
    """Write the list of files and the notes, and register both; the same content is written again as it was."""
    folder = context.archive / row["path"]
    checksums = "".join(f"{file['sha256']}  {file['path']}\n" for file in files)
    for name, text in ((CHECKSUMS, checksums), (NOTES, notes(row, files))):
        written = write_atomic(folder / name, text.encode())
        kind = f"datarelease_{name.split('.')[0]}"
        products.register_document(
            context.dsn, kind=kind, dataset=f"release/{row['number']}", nid=row["last_nid"], written=written, archive=context.archive,
        )  # fmt: skip


def notes(row: Mapping[str, Any], files: list[dict[str, Any]]) -> str:
    """The notes of a release, as markdown, from what the database holds of it."""
    first, last = ids.night_date(row["first_nid"]), ids.night_date(row["last_nid"])
    total = sum(int(file["bytes"]) for file in files)
    lines = [
        f"# Data release {row['number']}: {row['title']}",
        "",
        f"Frozen {row['frozen']:%Y-%m-%d %H:%M} UTC by {row['author']} with ztfds {ztfds.__version__}; nights {first} to {last};"
        f" {len(files)} files, {total / 1e9:.3f} GB.",
        *(["", row["remarks"]] if row["remarks"] else []),
        "",
        "| product | filter | files | GB | exposures | fields | nights |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {k['kind']} | {by_fid(k['fid']).code if k['fid'] else ''} | {k['files']} | {int(k['bytes']) / 1e9:.3f} |"
            f" {k['exposures'] or ''} | {k['fields']} | {k['nights'] or ''} |"
            for k in row["statistics"]["kinds"]
        ),
        "",
        "| program | exposures |",
        "|---|---|",
        *(
            f"| {p['programid']} {by_id(p['programid']).name} | {p['exposures']} |"
            for p in row["statistics"]["programs"]
        ),
        "",
        "## Files",
        "",
        f"`{CHECKSUMS}` lists every file below the root of the archive with its SHA-256; check a copy with `sha256sum -c`.",
        "Epochs are those that everybody may see; references are made of images of all programs. The versions of this release stay"
        " registered (table `ztf.data_release_files`) when newer ones are served.",
        "",
    ]
    return "\n".join(lines)
