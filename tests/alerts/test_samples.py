"""The published schema folder: readable by itself, samples that every reader of the stream can be tried on."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fastavro
import pytest
from typer.testing import CliRunner

from ztfds.alerts.samples import sample_packets, schema_folder
from ztfds.cli import app
from ztfds.formats.alerts import read_packets, unpack_cutout
from ztfds.formats.alertschema import alert_schema, schema_files

ROOT = Path(__file__).resolve().parents[2]


def parsed(files: dict[str, dict[str, Any]]) -> Any:
    """A schema from one document per record."""
    named: dict[str, Any] = {}
    for document in files.values():
        whole = fastavro.parse_schema(document, named)
    return whole


def test_the_files_together_are_the_schema() -> None:
    files = schema_files()
    assert list(files) == ["candidate.avsc", "prv_candidate.avsc", "fp_hist.avsc", "cutout.avsc", "alert.avsc"]
    reader = parsed(json.loads(json.dumps(files)))
    for packet in sample_packets().values():
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, reader, packet.record)
        plain = io.BytesIO()
        fastavro.schemaless_writer(plain, fastavro.parse_schema(alert_schema()), packet.record)
        assert buffer.getvalue() == plain.getvalue()


@pytest.mark.realdata
def test_the_files_have_the_form_of_the_surveys(real_data: Path) -> None:
    for name, document in schema_files().items():
        real = json.loads((real_data / "alerts" / "schema" / name).read_text())
        assert [field["name"] for field in document["fields"]] == [field["name"] for field in real["fields"]]
        assert [field["type"] for field in document["fields"]] == [field["type"] for field in real["fields"]]


def test_samples_cover_what_a_reader_meets_and_never_change() -> None:
    packets = sample_packets()
    records = {name: read_packets(packet.content)[0] for name, packet in packets.items()}
    assert {name: p.content for name, p in packets.items()} == {n: p.content for n, p in sample_packets().items()}
    assert len({record["candid"] for record in records.values()}) == len(records)
    assert records["new_source"]["prv_candidates"] is None and records["new_source"]["fp_hists"] is None
    history = records["supernova_with_history"]["prv_candidates"]
    assert {row["candid"] is None for row in history} == {True, False}
    assert {row["procstatus"] for row in records["supernova_with_history"]["fp_hists"]} == {"0", "56", "61"}
    negative = records["negative_at_the_edge"]
    assert negative["candidate"]["isdiffpos"] == "f" and negative["candid"] // 1000 % 10 == 0
    pixels = unpack_cutout(negative["cutoutDifference"]["stampData"])
    assert pixels.shape == (63, 63) and (pixels != pixels).any() and pixels[31, 31] > 100
    assert {record["candidate"]["programid"] for record in records.values()} == {1, 2}


def test_the_command_writes_the_folder(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["alert-schema", str(tmp_path)])
    assert done.exit_code == 0
    found = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.*v*")}
    assert found == schema_folder()


def test_the_example_reads_prints_and_plots(tmp_path: Path) -> None:
    for name, content in schema_folder().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    samples = sorted(str(path) for path in tmp_path.rglob("*.avro"))
    command = [sys.executable, str(ROOT / "examples" / "consume_alerts.py"), "--files", *samples, "--plots", "plots"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(samples) == len(list((tmp_path / "plots").glob("*.png")))
    assert "5 detections, 2 limits, 7 forced" in done.stdout
