"""Alert packets as Avro object-container files, and their cutouts as gzipped FITS; fast and reproducible.

A packet written twice is the same bytes: the container's sync marker comes from the schema and gzip carries no time.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import fastavro
import numpy as np
from isal import igzip, isal_zlib

from ztfds.formats.alertencode import encode_around_name, encode_bytes, encode_long, encode_text
from ztfds.formats.alertschema import SCHEMA_VERSION, alert_schema
from ztfds.formats.images import decode_image
from ztfds.survey.errors import BugOrConfiguration, FilesMissing, TruncatedFile, UnreadableFile

CUTOUTS = ("cutoutScience", "cutoutTemplate", "cutoutDifference")
GZIP_LEVEL = 2
"""isal level 2: a tenth of the time of zlib's default for 2 % more bytes; the pixels are mostly noise."""
_ISAL_ERROR = cast(type[Exception], isal_zlib.error)  # the stubs say it is an instance
_MAGIC = b"Obj\x01"
_CARD = 80
_BLOCK = 2880


@dataclass(frozen=True)
class Container:
    """An Avro container file in memory.

    Attributes
    ----------
    records : list of dict
        Its records, as written.
    schema : dict
        The schema it was written with.
    """

    records: list[dict[str, Any]]
    schema: dict[str, Any]


def _content(source: Path | str | bytes) -> bytes:
    """Bytes of a packet given as such or as a file."""
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise FilesMissing(f"{source} cannot be read: {error}") from error


def read_container(source: Path | str | bytes, reader_schema: Mapping[str, Any] | None = None) -> Container:
    """Read an Avro container with alerts of any schema version.

    Parameters
    ----------
    source : Path, str or bytes
        A file, or its bytes.
    reader_schema : mapping, optional
        Schema to resolve the records to; without it they come as written.

    Raises
    ------
    FilesMissing, TruncatedFile, UnreadableFile
    """
    content = _content(source)
    try:
        reader = fastavro.reader(io.BytesIO(content), dict(reader_schema) if reader_schema else None)
        records = [dict(record) for record in reader]  # type: ignore[arg-type]
        schema = json.loads(reader.metadata["avro.schema"])
    except (EOFError, IndexError) as error:
        raise TruncatedFile(f"alert packet ends too early: {error}") from error
    except (ValueError, TypeError, KeyError, fastavro.read.SchemaResolutionError) as error:
        raise UnreadableFile(f"alert packet cannot be read: {error}") from error
    return Container(records, schema)


def read_packets(source: Path | str | bytes) -> list[dict[str, Any]]:
    """Records of an alert file of any schema version, as written; see `read_container`."""
    return read_container(source).records


@lru_cache(maxsize=1)
def _ours() -> tuple[bytes, bytes]:
    """The head of our containers and their sync marker."""
    return _head(alert_schema())


def _head(schema: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Head of a container (magic, metadata, sync marker) for one schema, and the marker: 16 bytes of its MD5."""
    text = json.dumps(schema, separators=(",", ":")).encode()
    sync = hashlib.md5(text, usedforsecurity=False).digest()
    metadata = [(b"avro.codec", b"null"), (b"avro.schema", text)]
    packed = b"".join(encode_bytes(key) + encode_bytes(value) for key, value in metadata)
    return _MAGIC + encode_long(len(metadata)) + packed + encode_long(0) + sync, sync


def _encode_any(record: Mapping[str, Any], parsed_schema: Any) -> bytes:
    """Avro binary of one record of any schema, without a container."""
    buffer = io.BytesIO()
    try:
        fastavro.schemaless_writer(buffer, parsed_schema, record)
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
        raise BugOrConfiguration(f"record does not fit its schema: {error!r}") from error
    return buffer.getvalue()


@dataclass(frozen=True)
class EncodedPacket:
    """A packet of our schema 4.02, complete but for the name of its object, which is known last.

    Attributes
    ----------
    before, after : bytes
        Avro binary of the record around the name.
    """

    before: bytes
    after: bytes

    def named(self, objectid: str) -> bytes:
        """The packet as it goes to the broker and to the alert archive: a container with this one record."""
        head, sync = _ours()
        name = encode_text(objectid)
        size = encode_long(len(self.before) + len(name) + len(self.after))
        return b"".join((head, encode_long(1), size, self.before, name, self.after, sync))


def encode_packet(record: Mapping[str, Any]) -> EncodedPacket:
    """Encode all fields of the ``alert`` record but ``objectId``; see `ztfds.alerts.packet.build_packet`.

    Raises
    ------
    BugOrConfiguration
        A value does not fit; the message names the field.
    """
    return EncodedPacket(*encode_around_name(record))


def write_packet(record: Mapping[str, Any]) -> bytes:
    """A complete packet of our schema 4.02: a container with this one record."""
    return encode_packet(record).named(record["objectId"])


def write_container(records: Iterable[Mapping[str, Any]], schema: Mapping[str, Any]) -> bytes:
    """A container of records of any schema, e.g. real packets with their own: content and schema stay unchanged."""
    parsed = fastavro.parse_schema(dict(schema))
    head, sync = _head(schema)
    bodies = [_encode_any(record, parsed) for record in records]
    block = b"".join(bodies)
    return b"".join((head, encode_long(len(bodies)), encode_long(len(block)), block, sync)) if bodies else head


@lru_cache(maxsize=256)
def _stamp_header(ny: int, nx: int) -> bytes:
    """The header block of a cutout."""
    cards = [
        "SIMPLE  =                    T",
        "BITPIX  =                  -32",
        "NAXIS   =                    2",
        f"NAXIS1  = {nx:20d}",
        f"NAXIS2  = {ny:20d}",
        "BUNIT   = 'DN      '",
        "END",
    ]
    return "".join(card.ljust(_CARD) for card in cards).ljust(_BLOCK).encode()


def pack_cutout(pixels: np.ndarray) -> bytes:
    """Write a cutout as gzipped FITS.

    Parameters
    ----------
    pixels : ndarray, shape (ny, nx)
        DN; stored as float32; NaN off the image.
    """
    data = np.ascontiguousarray(pixels, dtype=">f4").tobytes()
    padding = b"\0" * (-len(data) % _BLOCK)
    return igzip.compress(_stamp_header(*pixels.shape) + data + padding, GZIP_LEVEL, mtime=0)


def unpack_cutout(stamp: bytes) -> np.ndarray:
    """Read a cutout: float32 pixels, shape (ny, nx); raise `UnreadableFile` if it is not gzipped FITS."""
    try:
        content = igzip.decompress(stamp)
    except (OSError, EOFError, ValueError, _ISAL_ERROR) as error:
        raise UnreadableFile(f"cutout is not gzip: {error}") from error
    ours = _own_cutout(content)
    return decode_image(content, "cutout")[0] if ours is None else ours


def _own_cutout(content: bytes) -> np.ndarray | None:
    """Pixels of a cutout with exactly the header of `pack_cutout`, without a FITS library; None of any other."""
    try:
        nx, ny = (int(content[_CARD * card + 10 : _CARD * card + 30]) for card in (3, 4))
    except ValueError:
        return None
    if min(nx, ny) < 1 or content[:_BLOCK] != _stamp_header(ny, nx) or len(content) < _BLOCK + 4 * nx * ny:
        return None
    return np.frombuffer(content, ">f4", nx * ny, _BLOCK).reshape(ny, nx).astype(np.float32)


__all__ = [
    "CUTOUTS",
    "SCHEMA_VERSION",
    "Container",
    "EncodedPacket",
    "encode_packet",
    "pack_cutout",
    "read_container",
    "read_packets",
    "unpack_cutout",
    "write_container",
    "write_packet",
]
