"""The nightly archive of public alert packets: one compressed tar file, the same bytes whenever the packets are the same."""

from __future__ import annotations

import io
import logging
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from isal import igzip

from ztfds.formats.atomic import Written, write_atomic
from ztfds.operations.context import Context
from ztfds.registry import outbox, products
from ztfds.registry.runner import WORK
from ztfds.survey import ids, names
from ztfds.survey.programs import PUBLIC

log = logging.getLogger(__name__)

KIND = "alerts_public"
GZIP_LEVEL = 2
"""isal level 2: the stamps are compressed already; what shrinks is the schema, which every packet carries."""


def archive_alerts(context: Context, nid: int) -> Written | None:
    """Pack the public packets of a night into ``ztf_public_YYYYMMDD.tar.gz`` and register it.

    Packets come from the outbox, whether or not the broker has acknowledged them yet. Calling it again makes the same file
    and changes nothing; if alerts were added since, the archive gets a new version.

    Parameters
    ----------
    context : Context
    nid : int
        Night number.

    Returns
    -------
    Written or None
        None for a night without public alerts.

    Raises
    ------
    StoreDown, DatabaseDown
        Try again later.
    """
    date = ids.night_date(nid)
    root = Path(context.archive)
    if not outbox.count_of_program(context.dsn, nid, PUBLIC):
        log.info("night %s has no public alerts", date)
        return None
    packets = outbox.packets_of_program(context.dsn, nid, PUBLIC)
    made = write_atomic(root / WORK / f"alerts_{nid}.tar.gz", lambda path: write_archive(path, packets, nid))
    try:
        return _keep(context, nid, made)
    finally:
        made.path.unlink(missing_ok=True)


def _keep(context: Context, nid: int, made: Written) -> Written:
    """Move a finished archive to its place and register it, unless it is there already."""
    date, dataset = ids.night_date(nid), f"alerts/{nid}"
    before = products.best(context.dsn, dataset).get(KIND)
    if before and before["sha256"] == made.sha256 and (context.archive / before["path"]).is_file():
        log.info("the alerts of %s are archived: %s", date, before["path"])
        return replace(made, path=context.archive / before["path"])
    same = before is not None and before["sha256"] == made.sha256
    version = 1 if before is None else int(before["version"]) + (not same)
    place = context.archive / names.alert_archive_path(date, version)
    place.parent.mkdir(parents=True, exist_ok=True)
    made.path.replace(place)
    kept = replace(made, path=place)
    products.register_document(context.dsn, kind=KIND, dataset=dataset, nid=nid, written=kept, archive=context.archive)
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
