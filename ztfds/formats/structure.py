"""Walking through the bytes of a FITS file: is it whole, are its checksums right, where is each HDU.

A FITS file is a row of header-data units in blocks of 2880 bytes (FITS standard 4.0, section 3). DATASUM is the 32-bit
ones'-complement sum of a unit's data; a unit with a right CHECKSUM sums to minus zero as a whole (same, appendix J).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from astropy.io import fits

from ztfds.kernels.packing import sum_words
from ztfds.survey.errors import ChecksumMismatch, TruncatedFile, UnreadableFile

BLOCK = 2880
_CARD = 80
_END = b"END".ljust(_CARD)
_PUNCTUATION = frozenset((*range(0x3A, 0x41), *range(0x5B, 0x61)))


@dataclass(frozen=True)
class Hdu:
    """One header-data unit of a file.

    Attributes
    ----------
    index : int
        0 for the primary.
    start, data_start, end : int
        Offsets in the file, bytes; `end` includes the padding.
    header : fits.Header
        Its header as stored: of a compressed image this is the binary table's header.
    """

    index: int
    start: int
    data_start: int
    end: int
    header: fits.Header

    @property
    def is_image(self) -> bool:
        """Whether it holds an image with pixels, compressed or not."""
        if self.header.get("ZIMAGE", False):
            return True
        return self.header.get("XTENSION", "IMAGE").strip() == "IMAGE" and self.header.get("NAXIS", 0) > 0

    @property
    def is_table(self) -> bool:
        """Whether it holds a binary table that is not a compressed image."""
        return self.header.get("XTENSION", "").strip() == "BINTABLE" and not self.header.get("ZIMAGE", False)


def walk(content: bytes, name: str = "file") -> list[Hdu]:
    """Find every HDU of a file.

    Parameters
    ----------
    content : bytes
        The whole file.
    name : str
        What to call it in messages.

    Raises
    ------
    TruncatedFile
        It ends inside a header or before the data that a header declares.
    UnreadableFile
        It is not FITS, or a header cannot be understood.
    """
    if not content:
        raise TruncatedFile(f"{name} is empty")
    if not content.startswith(b"SIMPLE  ="[: len(content)]):
        raise UnreadableFile(f"{name} is not a FITS file")
    hdus: list[Hdu] = []
    offset = 0
    while offset < len(content):
        if hdus and content[offset : offset + 1] in b"\0 " and not content[offset:].strip(b"\0 "):
            break
        hdu = _one(content, offset, len(hdus), name)
        hdus.append(hdu)
        offset = hdu.end
    return hdus


def first(content: bytes, name: str) -> Hdu:
    """The primary HDU of a file of which `content` is the beginning; its data need not be in it.

    Raises
    ------
    TruncatedFile, UnreadableFile
    """
    return _parse(content, 0, 0, name)


def _one(content: bytes, start: int, index: int, name: str) -> Hdu:
    """Read the header of the HDU that begins at `start`, and make sure that its data are there."""
    hdu = _parse(content, start, index, name)
    if hdu.end > len(content):
        raise TruncatedFile(f"{name} ends at byte {len(content)}, HDU {index} should end at byte {hdu.end}")
    return hdu


def _parse(content: bytes, start: int, index: int, name: str) -> Hdu:
    """Read the header of the HDU that begins at `start` and find its end."""
    head = content[start : start + 9]
    if index and not b"XTENSION="[: len(head)] == head:
        raise UnreadableFile(f"{name}: no extension header at byte {start} (HDU {index})")
    data_start = header_end(content, start, index, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fits.verify.VerifyWarning)
            header = fits.Header.fromstring(content[start:data_start].decode("ascii"))
            size = _data_size(header)
    except (ValueError, TypeError, KeyError, fits.VerifyError) as error:
        raise UnreadableFile(f"{name}: the header of HDU {index} cannot be understood ({error})") from error
    return Hdu(index, start, data_start, data_start + -(-size // BLOCK) * BLOCK, header)


def header_end(content: bytes, start: int, index: int, name: str) -> int:
    """Offset of the first block after the header that begins at `start`."""
    at = start
    while at + BLOCK <= len(content):
        block = content[at : at + BLOCK]
        at += BLOCK
        if any(block[i : i + 80] == _END for i in range(0, BLOCK, 80)):
            return at
        if not block.isascii():
            raise UnreadableFile(f"{name}: the header of HDU {index} holds bytes that are not text")
    raise TruncatedFile(f"{name} ends at byte {len(content)}, inside the header of HDU {index}")


def _data_size(header: fits.Header) -> int:
    """Bytes of data that a header declares, without padding."""
    axes = int(header["NAXIS"])
    if axes == 0:
        return 0
    pixels = 1
    for axis in range(1, axes + 1):
        pixels *= int(header[f"NAXIS{axis}"])
    size = abs(int(header["BITPIX"])) // 8 * int(header.get("GCOUNT", 1)) * (int(header.get("PCOUNT", 0)) + pixels)
    if size < 0:
        raise ValueError("negative data size")
    return size


def ones_complement_sum(content: bytes | np.ndarray) -> int:
    """32-bit ones'-complement sum of big-endian words; the length is a multiple of four."""
    return fold(sum_words(np.frombuffer(content, np.uint32)))


def fold(total: int | np.uint64) -> int:
    """A sum of words as 32 bits: what overflows is added at the lower end."""
    total = int(total)
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def seal(content: bytes) -> bytes:
    """Give every HDU of a FITS file DATASUM and CHECKSUM cards.

    Unlike the usual tools it writes no date into their comments, so that the same content always makes the same file.

    Parameters
    ----------
    content : bytes
        A whole FITS file; older checksum cards are replaced.
    """
    parts: list[bytes] = []
    for hdu in walk(content):
        data = content[hdu.data_start : hdu.end]
        datasum = ones_complement_sum(data)
        cards = [content[at : at + _CARD] for at in range(hdu.start, hdu.data_start, _CARD)]
        kept = [card for card in cards[: cards.index(_END)] if card[:8] not in (b"CHECKSUM", b"DATASUM ")]
        sums = [b"CHECKSUM= '0000000000000000'".ljust(_CARD), f"DATASUM = '{datasum}'".encode().ljust(_CARD)]
        header = b"".join([*kept, *sums, _END])
        header = header.ljust(-(-len(header) // BLOCK) * BLOCK)
        total = (ones_complement_sum(header) + datasum) % 0xFFFFFFFF
        at = len(kept) * _CARD + len(b"CHECKSUM= '")
        parts += [header[:at], encode_checksum(total), header[at + 16 :], data]
    return b"".join(parts)


def encode_checksum(total: int) -> bytes:
    """The 16 letters and digits that bring a ones'-complement sum to minus zero (FITS standard 4.0, appendix J)."""
    encoded = bytearray(16)
    for index, byte in enumerate((0xFFFFFFFF - total).to_bytes(4, "big")):
        quarters = [byte // 4 + ord("0")] * 4
        quarters[0] += byte % 4
        while any(q in _PUNCTUATION for q in quarters):
            for first in (0, 2):
                if quarters[first] in _PUNCTUATION or quarters[first + 1] in _PUNCTUATION:
                    quarters[first] += 1
                    quarters[first + 1] -= 1
        encoded[index::4] = bytes(quarters)
    return bytes(encoded[-1:] + encoded[:-1])


def verify_checksums(content: bytes, hdus: list[Hdu], name: str = "file") -> int:
    """Check DATASUM and CHECKSUM of every HDU that has them.

    Returns
    -------
    int
        How many HDUs had at least one of the two.

    Raises
    ------
    ChecksumMismatch
        A stored sum disagrees with the content.
    """
    checked, view = 0, np.frombuffer(content, np.uint8)
    for hdu in hdus:
        datasum, checksum = hdu.header.get("DATASUM"), hdu.header.get("CHECKSUM")
        if datasum is None and checksum is None:
            continue
        checked += 1
        data = ones_complement_sum(view[hdu.data_start : hdu.end])
        if datasum is not None and not _same_sum(datasum, data):
            raise ChecksumMismatch(f"{name}: DATASUM of HDU {hdu.index} is {datasum}, the data sum to {data}")
        if checksum is not None and str(checksum).strip():
            head = ones_complement_sum(view[hdu.start : hdu.data_start])
            whole = (head + data) % 0xFFFFFFFF
            if whole != 0:
                raise ChecksumMismatch(f"{name}: CHECKSUM of HDU {hdu.index} is wrong (sum {whole}, should be 0)")
    return checked


def _same_sum(stored: object, computed: int) -> bool:
    """Compare a DATASUM card with a sum; the two zeros of ones'-complement arithmetic are equal."""
    try:
        value = int(str(stored).strip() or "0")
    except ValueError:
        return False
    return value % 0xFFFFFFFF == computed % 0xFFFFFFFF
