"""The nightly archive of public alert packets: one compressed tar file, the same bytes whenever the packets are the same."""

from __future__ import annotations

import heapq
import io
import logging
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from isal import igzip

from ztfds.formats.atomic import Written, write_atomic
from ztfds.operations.context import Context
from ztfds.registry import outbox, products
from ztfds.registry.runner import WORK
from ztfds.survey import ids, names
from ztfds.survey.errors import BugOrConfiguration, FilesMissing
from ztfds.survey.programs import PUBLIC

log = logging.getLogger(__name__)

KIND = "alerts_public"
GZIP_LEVEL = 2
"""isal level 2: the stamps are compressed already; what shrinks is the schema, which every packet carries."""


def archive_alerts(context: Context, nid: int, programid: int = PUBLIC) -> Written | None:
    """Pack the packets of a program in a night into one file, ``ztf_public_YYYYMMDD.tar.gz``, and register it.

    Packets come from the outbox, whether or not the broker has acknowledged them yet; those that have left it come from the
    former archive. Calling it again makes the same file and changes nothing; if alerts were added since, the archive gets a
    new version.

    Parameters
    ----------
    context : Context
    nid : int
        Night number.
    programid : int
        Program; the archives of others than the public one are registered with it, and only its members may have them.

    Returns
    -------
    Written or None
        None for a night without alerts of the program.

    Raises
    ------
    StoreDown, DatabaseDown
        Try again later.
    """
    date = ids.night_date(nid)
    root = Path(context.archive)
    if not outbox.count_of_program(context.dsn, nid, programid):
        log.info("night %s has no alerts of program %d", date, programid)
        return None
    packets = _packets(context, nid, programid)
    made = write_atomic(
        root / WORK / f"alerts_{nid}_{programid}.tar.gz", lambda path: write_archive(path, packets, nid)
    )
    try:
        return _keep(context, nid, made, programid)
    finally:
        made.path.unlink(missing_ok=True)


def _kind(programid: int) -> str:
    """Kind of product of a program's archive."""
    return KIND if programid == PUBLIC else f"alerts_program{programid}"


def _dataset(nid: int, programid: int) -> str:
    """Dataset of a program's archive of a night."""
    return f"alerts/{nid}" if programid == PUBLIC else f"alerts/{nid}/program{programid}"


def _packets(context: Context, nid: int, programid: int) -> Iterator[tuple[int, bytes]]:
    """Packets of a night by candidate number: from the outbox, and from the former archive those that have left it."""
    left = outbox.pruned_of_program(context.dsn, nid, programid)
    kept = outbox.packets_of_program(context.dsn, nid, programid, only_kept=bool(left))
    if not left:
        return kept
    before = products.best(context.dsn, _dataset(nid, programid)).get(_kind(programid))
    if before is None or not (context.archive / before["path"]).is_file():
        raise FilesMissing(
            f"{left} packets of night {ids.night_date(nid)} are archived, but their archive is not there"
        )
    expected = outbox.count_of_program(context.dsn, nid, programid)
    return _merged(read_archive(context.archive / before["path"]), kept, expected)


def _merged(
    former: Iterator[tuple[int, bytes]], kept: Iterator[tuple[int, bytes]], expected: int
) -> Iterator[tuple[int, bytes]]:
    """Sorted packets of both sources, each candidate once; an error at the end when there are fewer than expected."""
    last, count = None, 0
    for candid, content in heapq.merge(former, kept, key=lambda item: item[0]):
        if candid != last:
            count += 1
            yield candid, content
        last = candid
    if count < expected:
        raise BugOrConfiguration(f"{expected - count} packets are neither in the outbox nor in the former archive")


def read_archive(path: Path) -> Iterator[tuple[int, bytes]]:
    """Packets of an archive, (candid, bytes), in their order; one is in memory at a time."""
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            content = archive.extractfile(member)
            yield int(member.name.removesuffix(".avro")), content.read() if content else b""


def _keep(context: Context, nid: int, made: Written, programid: int) -> Written:
    """Move a finished archive to its place and register it, unless it is there already."""
    date, dataset, kind = ids.night_date(nid), _dataset(nid, programid), _kind(programid)
    before = products.best(context.dsn, dataset).get(kind)
    if before and before["sha256"] == made.sha256 and (context.archive / before["path"]).is_file():
        log.info("the alerts of %s are archived: %s", date, before["path"])
        return replace(made, path=context.archive / before["path"])
    same = before is not None and before["sha256"] == made.sha256
    version = 1 if before is None else int(before["version"]) + (not same)
    place = context.archive / names.alert_archive_path(date, version)
    if programid != PUBLIC:
        place = place.with_name(place.name.replace("public", f"program{programid}"))
    place.parent.mkdir(parents=True, exist_ok=True)
    made.path.replace(place)
    kept = replace(made, path=place)
    products.register_document(
        context.dsn,
        kind=kind,
        dataset=dataset,
        nid=nid,
        written=kept,
        archive=context.archive,
        programid=None if programid == PUBLIC else programid,
    )
    log.info("archived the alerts of %s: %s, %d bytes", date, place.name, kept.bytes)
    return kept


def write_archive(path: Path, packets: Iterable[tuple[int, bytes]], nid: int) -> None:
    """Write packets as ``<candid>.avro`` into a compressed tar file; nothing in it depends on when or where it is made.

    Parameters
    ----------
    path : Path
    packets : iterable of (candid, bytes)
        In the order in which they are to be found.
    nid : int
        Night number: its midnight (UT) is the time of every member.
    """
    midnight = int((ids.NID_ZERO_JD + nid - 2440587.5) * 86400)
    with (
        path.open("wb") as plain,
        igzip.IGzipFile("", "wb", GZIP_LEVEL, plain, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for candid, content in packets:
            member = tarfile.TarInfo(f"{candid}.avro")
            member.size, member.mtime, member.mode = len(content), midnight, 0o644
            archive.addfile(member, io.BytesIO(content))
