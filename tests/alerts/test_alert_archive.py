"""The nightly archive of public packets: whole, the same bytes every time, registered once, a new version when alerts were added."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_alert_packets import facts, row

from ztfds.alerts.packet import build_packet
from ztfds.formats.alerts import read_packets
from ztfds.operations.alertarchive import archive_alerts, write_archive
from ztfds.registry import database as db
from ztfds.registry import exposures, outbox, products
from ztfds.registry.outbox import Alert
from ztfds.survey import ids
from ztfds.survey.errors import BugOrConfiguration

NID = ids.nid(2458559.8)
DATASET = f"alerts/{NID}"


def queue(dsn: str, *numbers: int, programid: int = 1) -> None:
    alerts = []
    for number in numbers:
        known = facts(candid=ids.candid(facts()["pid"], True, number), programid=programid)
        packet = build_packet(
            row(np.random.default_rng(number)), known, objectid="ZTF19aaaaaaa", prv_candidates=None, fp_hists=None,
            cutouts=None,
        )  # fmt: skip
        where = packet.candid, packet.objectid, "ztf_20190317307662", 30, packet.topic, NID, programid
        alerts.append(Alert(*where, packet.content))
    with db.transaction(dsn) as cursor:
        exposures.ensure_night(cursor, NID)
        assert outbox.queue(cursor, alerts) == len(numbers)


def registered(dsn: str) -> list[dict[str, Any]]:
    return db.fetch_all(dsn, "select * from products where dataset = %s order by version", (DATASET,))


@pytest.fixture
def context(database: Any, tmp_path: Path) -> Any:
    return SimpleNamespace(dsn=database.pipeline, archive=tmp_path)


def test_the_archive_holds_the_public_packets_of_the_night(context: Any) -> None:
    queue(context.dsn, 3, 1, 2)
    queue(context.dsn, 7, programid=2)
    queue(context.dsn, 8, programid=3)
    written = archive_alerts(context, NID)
    assert written is not None
    assert written.path.relative_to(context.archive).as_posix() == "alerts/20190317/ztf_public_20190317.tar.gz"
    with tarfile.open(written.path, "r:gz") as archive:
        members = archive.getmembers()
        found = [read_packets(archive.extractfile(member).read())[0] for member in members]  # type: ignore[union-attr]
    assert [member.name for member in members] == [f"{alert['candid']}.avro" for alert in found]
    assert [ids.split_candid(alert["candid"])[3] for alert in found] == [1, 2, 3]
    assert {alert["candidate"]["programid"] for alert in found} == {1}
    (product,) = registered(context.dsn)
    assert (product["path"], product["sha256"], product["bytes"], product["vbest"], product["nid"]) == (
        "alerts/20190317/ztf_public_20190317.tar.gz", written.sha256, written.bytes, 1, NID,
    )  # fmt: skip
    assert list((context.archive / ".work").iterdir()) == []


def test_making_it_again_changes_nothing_and_new_alerts_make_a_new_version(context: Any) -> None:
    queue(context.dsn, 1, 2)
    first = archive_alerts(context, NID)
    assert archive_alerts(context, NID) == first and len(registered(context.dsn)) == 1
    assert first is not None
    first.path.unlink()
    assert archive_alerts(context, NID) == first and first.path.is_file() and len(registered(context.dsn)) == 1
    queue(context.dsn, 3)
    second = archive_alerts(context, NID)
    assert second is not None and second.sha256 != first.sha256
    assert second.path.parent.name == "v002" and first.path.is_file()
    assert [(p["version"], p["vbest"]) for p in registered(context.dsn)] == [(1, 0), (2, 1)]
    assert products.best(context.dsn, DATASET)["alerts_public"]["sha256"] == second.sha256


def test_a_night_without_public_alerts_has_none(context: Any) -> None:
    queue(context.dsn, 1, programid=3)
    assert archive_alerts(context, NID) is None and registered(context.dsn) == []


def test_a_packet_that_is_gone_is_not_passed_over(context: Any) -> None:
    queue(context.dsn, 1, 2)
    with db.transaction(context.dsn) as cursor:
        cursor.execute("update alert_outbox set packet = null, state = 'sent' where candid % 2 = 0")
    with pytest.raises(BugOrConfiguration, match="no longer in the outbox"):
        archive_alerts(context, NID)
    assert registered(context.dsn) == [] and not (context.archive / "alerts").exists()


def test_the_bytes_do_not_depend_on_when_and_where(tmp_path: Path, rng: np.random.Generator) -> None:
    packets = [(k, rng.bytes(70_000)) for k in range(5)]
    for name in ("a", "b"):
        write_archive(tmp_path / name, packets, NID)
    content = (tmp_path / "a").read_bytes()
    assert content == (tmp_path / "b").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        assert [archive.extractfile(m).read() for m in archive] == [p for _, p in packets]  # type: ignore[union-attr]
