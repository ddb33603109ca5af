"""Alert packets: real ones pass unchanged, ours are read by readers of the survey's schema."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from astropy.io import fits

from ztfds.alerts.packet import build_packet, complete, cutout_names, identify
from ztfds.config.alerts import AlertConfig
from ztfds.formats import alerts
from ztfds.formats.alertencode import encode_alert
from ztfds.formats.alertschema import alert_schema, fields
from ztfds.survey import ids
from ztfds.survey.errors import BugOrConfiguration, FilesMissing, TruncatedFile, UnreadableFile

FOLDERS = {"v4.01": 24, "v3.3": 8, "night20180713": 40}


def body(container: bytes) -> tuple[bytes, dict[str, Any]]:
    """Bytes of the records of a container, and its schema."""
    reader = fastavro.block_reader(io.BytesIO(container))
    block = next(reader)
    assert block.num_records == 1
    return block.bytes_.read(), json.loads(reader.metadata["avro.schema"])


def reader_schema(folder: Path) -> Any:
    """The survey's schema 4.02, from its own files."""
    named: dict[str, Any] = {}
    for record in ("candidate", "prv_candidate", "fp_hist", "cutout"):
        fastavro.parse_schema(json.loads((folder / "alerts" / "schema" / f"{record}.avsc").read_text()), named)
    return fastavro.parse_schema(json.loads((folder / "alerts" / "schema" / "alert.avsc").read_text()), named)


def row(rng: np.random.Generator, **other: Any) -> dict[str, Any]:
    """A measured candidate."""
    measured = {
        "x": 100.25,
        "y": 2000.75,
        "isdiffpos": "t",
        "tblid": 3,
        "ra": 157.1,
        "dec": 40.2,
        "magpsf": 18.25,
        "sigmapsf": 0.05,
        "scorr": 12.5,
        "nneg": 2,
        "nbad": 0,
        "rb": 0.75,
        "nmtchps": 0,
        "nmatches": 345,
        "magzpsci": 26.25,
        "neargaia": math.nan,
    }
    return {**measured, **other}


def facts(**other: Any) -> dict[str, Any]:
    """What is known besides the measurement."""
    pid, candid = identify(2458559.807662, 30, True, 3)
    known = {
        "jd": 2458559.807662,
        "fid": 1,
        "pid": pid,
        "candid": candid,
        "programid": 1,
        "programpi": "Kulkarni",
        "nid": 805,
        "rcid": 30,
        "field": 712,
        "rfid": ids.rfid(712, 1, 30),
        "jdstartref": 2458200.5,
        "jdendref": 2458300.5,
        "nframesref": 15,
        "ndethist": 1,
        "ncovhist": 20,
        "rbversion": "features1",
    }
    return {**known, **other}


def earlier(rng: np.random.Generator, days: float, **other: Any) -> dict[str, Any]:
    """A history row as the database gives it: packet names, 1-based positions."""
    jd = 2458559.807662 - days
    pid, candid = identify(jd, 30, True, 1)
    return {
        **{
            "jd": jd,
            "fid": 1,
            "pid": pid,
            "candid": candid,
            "programid": 1,
            "nid": ids.nid(jd),
            "rcid": 30,
            "field": 712,
        },
        **{"ra": 157.1, "dec": 40.2, "magpsf": 18.5, "sigmapsf": 0.06, "isdiffpos": "t", "xpos": 5.0, "ypos": 6.0},
        **{"rbversion": "features1", "diffmaglim": 20.5, "ranr": 157.1, "decnr": 40.2},
        **other,
    }


@pytest.fixture
def stamps(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    made = [rng.normal(200, 10, (63, 63)).astype(np.float32) for _ in range(3)]
    made[2][:, 60:] = np.nan
    return made[0], made[1], made[2]


@pytest.mark.realdata
@pytest.mark.parametrize("folder", FOLDERS)
def test_real_packets_pass_reader_and_writer_unchanged(real_data: Path, folder: str) -> None:
    paths = sorted((real_data / "alerts" / folder).glob("*.avro"))
    assert len(paths) == FOLDERS[folder]
    for path in paths:
        real = path.read_bytes()
        container = alerts.read_container(path)
        again = alerts.write_container(container.records, container.schema)
        assert body(again)[0] == body(real)[0]
        assert body(again)[1] == body(real)[1] == container.schema
        assert alerts.read_packets(again) == alerts.read_packets(real)


@pytest.mark.realdata
def test_real_cutouts_pass_unchanged(real_data: Path) -> None:
    shapes = set()
    for path in sorted((real_data / "alerts").glob("*/*.avro")):
        record = alerts.read_packets(path)[0]
        for key in alerts.CUTOUTS:
            pixels = alerts.unpack_cutout(record[key]["stampData"])
            assert pixels.dtype == np.float32
            assert np.array_equal(alerts.unpack_cutout(alerts.pack_cutout(pixels)), pixels, equal_nan=True)
            shapes.add(pixels.shape)
    assert (63, 63) in shapes


@pytest.mark.realdata
def test_our_schema_is_the_surveys_field_for_field(real_data: Path) -> None:
    def table(schema: dict[str, Any]) -> list[tuple[str, Any, bool, Any]]:
        return [(f["name"], f["type"], "default" in f, f.get("default")) for f in schema["fields"]]

    ours = {f["name"]: f["type"] for f in alert_schema()["fields"]}
    nested = {
        "candidate": ours["candidate"],
        "prv_candidate": ours["prv_candidates"][1]["items"],
        "fp_hist": ours["fp_hists"][1]["items"],
        "cutout": ours["cutoutScience"][1],
    }
    for record, schema in nested.items():
        real = json.loads((real_data / "alerts" / "schema" / f"{record}.avsc").read_text())
        assert table(schema) == table(real)
        assert (schema["namespace"], schema["name"], schema["version"]) == (real["namespace"], real["name"], "4.02")
    real = json.loads((real_data / "alerts" / "schema" / "alert.avsc").read_text())
    assert [f["name"] for f in alert_schema()["fields"]] == [f["name"] for f in real["fields"]]
    assert [len(fields()[r]) for r in ("candidate", "prv_candidate", "fp_hist")] == [103, 57, 29]


@pytest.mark.realdata
def test_our_packet_is_complete_for_a_reader_of_the_survey(
    real_data: Path, rng: np.random.Generator, stamps: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    forced = [{**earlier(rng, 3), "rfid": 1, "forcediffimflux": 12.5, "forcediffimfluxunc": 3.5, "procstatus": "0"}]
    packet = build_packet(
        row(rng),
        facts(),
        objectid="ZTF19aaaaaaa",
        prv_candidates=[earlier(rng, 1), {**earlier(rng, 2), "candid": None, "ra": None, "dec": None}],
        fp_hists=forced,
        cutouts=stamps,
    )
    read = list(fastavro.reader(io.BytesIO(packet.content), reader_schema(real_data)))
    assert read == [json_floats(packet.record)]
    alert = read[0]
    assert alert["schemavsn"] == "4.02"
    assert alert["candidate"]["xpos"] == 101.25 and alert["candidate"]["ypos"] == 2001.75
    assert alert["candidate"]["neargaia"] == -999.0
    assert alert["candidate"]["ssnamenr"] == "null"
    assert alert["candidate"]["objectidps1"] == -999
    assert alert["candidate"]["ranr"] == -999.0
    assert alert["candidate"]["drb"] is None and alert["candidate"]["drbversion"] == "none"
    assert alert["prv_candidates"][0]["xpos"] == 5.0
    assert alert["prv_candidates"][1]["candid"] is None
    assert alert["fp_hists"][0]["forcediffimflux"] == 12.5
    for key, pixels in zip(alerts.CUTOUTS, stamps, strict=True):
        assert np.array_equal(alerts.unpack_cutout(alert[key]["stampData"]), pixels, equal_nan=True)


def json_floats(record: dict[str, Any]) -> dict[str, Any]:
    """A record with its float fields rounded to single precision, as Avro stores them."""

    def rounded(name: str, values: dict[str, Any]) -> dict[str, Any]:
        single = {f.name for f in fields()[name] if f.kind == "float"}
        return {k: float(np.float32(v)) if k in single and v is not None else v for k, v in values.items()}

    return {
        **record,
        "candidate": rounded("candidate", record["candidate"]),
        "prv_candidates": [rounded("prv_candidate", r) for r in record["prv_candidates"]],
        "fp_hists": [rounded("fp_hist", r) for r in record["fp_hists"]],
    }


@pytest.mark.realdata
def test_real_packets_can_be_built_by_us_with_the_same_numbers(real_data: Path) -> None:
    for path in sorted((real_data / "alerts" / "v4.01").glob("*.avro")):
        real = alerts.read_packets(path)[0]
        stamps = tuple(alerts.unpack_cutout(real[key]["stampData"]) for key in alerts.CUTOUTS)
        packet = build_packet(
            real["candidate"],
            {},
            objectid=real["objectId"],
            prv_candidates=real["prv_candidates"],
            fp_hists=real["fp_hists"],
            cutouts=(stamps[0], stamps[1], stamps[2]),
            config=AlertConfig(publisher=real["publisher"]),
        )
        for key in ("objectId", "candid", "publisher", "candidate", "prv_candidates", "fp_hists"):
            assert packet.record[key] == real[key]
        assert [packet.record[k]["fileName"] for k in alerts.CUTOUTS] == [real[k]["fileName"] for k in alerts.CUTOUTS]
        assert packet.topic == "ztf_20231012_programid1"


def test_the_fast_encoder_writes_what_fastavro_writes(rng: np.random.Generator) -> None:
    schema = fastavro.parse_schema(alert_schema())
    for history in (None, [], [earlier(rng, k) for k in range(1, 200)]):
        record = build_packet(
            row(rng), facts(), objectid="ZTF19aaaaaaa", prv_candidates=history, fp_hists=None, cutouts=None
        ).record
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, schema, record)
        assert encode_alert(record) == buffer.getvalue()


def test_packets_are_reproducible(rng: np.random.Generator, stamps: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    made = [
        build_packet(row(rng), facts(), objectid="ZTF19aaaaaaa", prv_candidates=[], fp_hists=[], cutouts=stamps)
        for _ in range(2)
    ]
    assert made[0].content == made[1].content
    assert (made[0].candid, made[0].programid) == (805307663015015003, 1)
    assert made[0].topic == "ztf_20190317_programid1"


def test_rows_of_structured_arrays_are_taken(rng: np.random.Generator) -> None:
    values = row(rng)
    text = {"isdiffpos": "U1"}
    dtype = np.dtype([(k, text.get(k, "i4" if isinstance(v, int) else "f8")) for k, v in values.items()])
    array = np.array([tuple(values.values())], dtype=dtype)
    keywords: dict[str, Any] = {"objectid": "ZTF19aaaaaaa", "prv_candidates": None, "fp_hists": None, "cutouts": None}
    assert build_packet(array[0], facts(), **keywords).record == build_packet(values, facts(), **keywords).record


def test_the_public_never_sees_private_history(rng: np.random.Generator) -> None:
    history = [
        earlier(rng, 4, programid=1, magpsf=11.0),
        earlier(rng, 3, programid=2, magpsf=12.0),
        earlier(rng, 2, programid=3, magpsf=13.0),
        earlier(rng, 1, programid=3, magpsf=14.0, released=True),
    ]
    forced = [{**r, "rfid": 1} for r in history]
    expected = {1: [11.0, 14.0], 2: [11.0, 12.0, 14.0], 3: [11.0, 12.0, 13.0, 14.0]}
    for program, magnitudes in expected.items():
        packet = build_packet(
            row(rng),
            facts(programid=program),
            objectid="ZTF19aaaaaaa",
            prv_candidates=history,
            fp_hists=forced,
            cutouts=None,
        )
        assert [p["magpsf"] for p in packet.record["prv_candidates"]] == magnitudes
        assert len(packet.record["fp_hists"]) == len(magnitudes)
        assert packet.topic.endswith(f"programid{program}")


def test_what_is_missing_is_named(rng: np.random.Generator) -> None:
    keywords: dict[str, Any] = {"objectid": "ZTF19aaaaaaa", "prv_candidates": None, "fp_hists": None, "cutouts": None}
    with pytest.raises(BugOrConfiguration, match="alert field jdstartref has no value"):
        build_packet(row(rng), facts(jdstartref=None), **keywords)
    with pytest.raises(BugOrConfiguration, match="alert field magpsf"):
        build_packet(row(rng, magpsf=math.nan), facts(), **keywords)
    with pytest.raises(BugOrConfiguration, match="does not belong to pid"):
        build_packet(row(rng), facts(pid=1), **keywords)
    good = build_packet(row(rng), facts(), **keywords).record
    with pytest.raises(BugOrConfiguration, match="nneg = 'two'"):
        encode_alert({**good, "candidate": {**good["candidate"], "nneg": "two"}})
    with pytest.raises(BugOrConfiguration, match="fid"):
        encode_alert({**good, "candidate": {k: v for k, v in good["candidate"].items() if k != "fid"}})


def test_values_of_any_type_are_taken(rng: np.random.Generator) -> None:
    record = complete(
        "candidate",
        {
            **row(rng),
            **facts(),
            "isdiffpos": np.bool_(False),
            "nneg": np.int16(3),
            "rb": np.float32(0.5),
            "nbad": math.nan,
        },
    )
    assert record["isdiffpos"] == "f"
    assert type(record["nneg"]) is int and type(record["rb"]) is float
    assert record["nbad"] is None
    assert "x" not in record


def test_cutout_names() -> None:
    assert cutout_names(558190213315015002, 558190213315, True) == (
        "candid558190213315015002_pid558190213315_targ_sci.fits.gz",
        "candid558190213315015002_ref.fits.gz",
        "candid558190213315015002_pid558190213315_targ_scimref.fits.gz",
    )
    assert cutout_names(1, 1, False)[2].endswith("_targ_refmsci.fits.gz")


@pytest.mark.parametrize("shape", [(63, 63), (41, 63), (1, 5)])
def test_cutouts_are_plain_fits(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    import gzip

    pixels = rng.normal(0, 1, shape).astype(np.float32)
    with fits.open(io.BytesIO(gzip.decompress(alerts.pack_cutout(pixels)))) as hdus:
        assert hdus[0].data.shape == shape
        assert hdus[0].header["BUNIT"] == "DN"
        assert np.array_equal(hdus[0].data, pixels)


def test_broken_packets_and_cutouts_are_named(rng: np.random.Generator, tmp_path: Path) -> None:
    packet = build_packet(
        row(rng), facts(), objectid="ZTF19aaaaaaa", prv_candidates=[earlier(rng, 1)], fp_hists=None, cutouts=None
    ).content
    for cut in (len(packet) - 1, len(packet) - 100, 3000, 10):
        with pytest.raises((TruncatedFile, UnreadableFile)):
            alerts.read_packets(packet[:cut])
    with pytest.raises(UnreadableFile):
        alerts.read_packets(b"not avro at all" * 100)
    with pytest.raises(FilesMissing):
        alerts.read_packets(tmp_path / "none.avro")
    stamp = alerts.pack_cutout(np.zeros((63, 63), np.float32))
    for broken in (b"", b"abc", stamp[:-30], stamp[:20] + b"xxxx" + stamp[24:]):
        with pytest.raises((UnreadableFile, TruncatedFile)):
            alerts.unpack_cutout(broken)


@pytest.mark.realdata
def test_older_packets_are_read_as_the_newest_schema(real_data: Path) -> None:
    for path in sorted((real_data / "alerts" / "v4.01").glob("*.avro"))[:3]:
        records = alerts.read_container(path, alert_schema()).records
        assert set(records[0]) == {f["name"] for f in alert_schema()["fields"]}


@pytest.mark.parametrize("shape", [(63, 63), (1, 5), (40, 63)])
def test_own_cutouts_are_read_as_a_fits_library_reads_them(shape, rng):
    import gzip

    from ztfds.formats.images import decode_image

    pixels = rng.normal(size=shape).astype(np.float32)
    pixels[0, 0] = np.nan
    stamp = alerts.pack_cutout(pixels)
    by_library = decode_image(gzip.decompress(stamp), "cutout")[0]
    read = alerts.unpack_cutout(stamp)
    assert read.dtype == by_library.dtype and np.array_equal(read, by_library, equal_nan=True)
    with_comment = gzip.decompress(stamp).replace(b"BUNIT   = 'DN      '", b"OTHER   = 'header  '")
    assert np.array_equal(alerts.unpack_cutout(gzip.compress(with_comment)), pixels, equal_nan=True)
