"""Kernels of FITS storage: byte order and checksum in one pass, Rice tiles, quantising with subtractive dither.

Rice (FITS standard 4.0, section 10.4.1; Rice, Yeh & Miller 1993): the first pixel as it is; then blocks of (usually) 32
differences of neighbours, mapped to 0, -1, 1, -2 ... -> 0, 1, 2, 3 ..., each block with its own number `fs` of low bits that
are stored as they are; what is above them follows in unary.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

N_RANDOM = 10_000
NULL_VALUE, ZERO_VALUE, FIRST_VALUE = -2147483647, -2147483646, -2147483637
"""Integers that stand for NaN and for an exact zero, and the least one of any other pixel (FITS standard 4.0, 10.2)."""
RICE_BLOCK = 32
NOISE_SAMPLES = 2048, 8192
"""The noise of a tile is taken of so many of its pixels, more in large ones: good to 3 and 1.5 %, enough for the size of a step."""
PADDING = 8  # bytes after the code of a tile that can be nothing but a writer's padding to a word
_FS_16, _FS_32 = (4, 14, 16), (5, 25, 32)  # bits that hold fs, fs of an incompressible block, bits of a pixel

_bytes_in = types.Array(types.uint8, 1, "C", readonly=True)
_words_in = types.Array(types.uint32, 1, "C", readonly=True)
_halves_in = types.Array(types.uint16, 1, "C", readonly=True)
_images_in = types.Array(types.uint16, 2, "C", readonly=True)
_floats_in = types.Array(types.float32, 2, "C", readonly=True)
_scales_in = types.Array(types.float64, 1, "C", readonly=True)
_places_in = types.Array(types.int64, 1, "C", readonly=True)


def _randoms() -> np.ndarray:
    """The 10,000 numbers in 0..1 that all dithered FITS images share (Park & Miller 1988; FITS standard 4.0, appendix I)."""
    values, seed = np.empty(N_RANDOM, np.float32), 1
    for k in range(N_RANDOM):
        seed = 16807 * seed % 2147483647
        values[k] = seed / 2147483647.0
    return values


RANDOMS = _randoms()
LEADING = np.array([8 - k.bit_length() for k in range(256)], np.int64)
"""Number of leading zero bits of a byte."""


@njit(types.uint64(_words_in), cache=True, nogil=True)
def sum_words(words: np.ndarray) -> np.uint64:
    """Sum of big-endian 32-bit words read as little-endian ones: not yet folded to 32 bits."""
    total = np.uint64(0)
    for w in words:
        total += np.uint64(((w & 0xFF) << 24) | ((w & 0xFF00) << 8) | ((w >> 8) & 0xFF00) | (w >> 24))
    return total


@njit(types.uint64(_words_in, types.uint32[::1]), cache=True, nogil=True)
def swap_words(words: np.ndarray, out: np.ndarray) -> np.uint64:
    """Write 32-bit words in the other byte order; returns the sum of the words as given (not folded)."""
    total = np.uint64(0)
    for k in range(words.size):
        w = words[k]
        out[k] = np.uint32(((w & 0xFF) << 24) | ((w & 0xFF00) << 8) | ((w >> 8) & 0xFF00) | (w >> 24))
        total += np.uint64(w)
    return total


@njit("void(uint32[::1])", cache=True, nogil=True)
def swap_words_here(words: np.ndarray) -> None:
    """Turn 32-bit words into the other byte order where they are."""
    for k in range(words.size):
        w = words[k]
        words[k] = np.uint32(((w & 0xFF) << 24) | ((w & 0xFF00) << 8) | ((w >> 8) & 0xFF00) | (w >> 24))


@njit("void(uint16[::1], uint16)", cache=True, nogil=True)
def swap_halves_here(halves: np.ndarray, flip: int) -> None:
    """Turn 16-bit words into the other byte order where they are, then combine them with `flip` by exclusive or."""
    for k in range(halves.size):
        a = halves[k]
        halves[k] = np.uint16((a << 8) | (a >> 8)) ^ flip


@njit(types.uint64(_halves_in, types.uint16, types.uint16[::1]), cache=True, nogil=True)
def swap_halves(halves: np.ndarray, flip: int, out: np.ndarray) -> np.uint64:
    """Write 16-bit words, combined with `flip` by exclusive or, in the other byte order.

    Returns the sum of the 32-bit words that two neighbours make (not folded); a last single one counts as the upper half.
    """
    upper, lower = np.uint64(0), np.uint64(0)
    pairs = halves.size // 2
    for k in range(pairs):
        a, b = halves[2 * k] ^ flip, halves[2 * k + 1] ^ flip
        out[2 * k] = np.uint16((a << 8) | (a >> 8))
        out[2 * k + 1] = np.uint16((b << 8) | (b >> 8))
        upper += np.uint64(a)
        lower += np.uint64(b)
    if halves.size % 2:
        a = halves[halves.size - 1] ^ flip
        out[halves.size - 1] = np.uint16((a << 8) | (a >> 8))
        upper += np.uint64(a)
    return (upper << np.uint64(16)) + lower


# -- Rice: writing -----------------------------------------------------------------------------------------------------


@njit("int64(uint32[::1], int64, uint8[::1], int64)", cache=True, nogil=True)
def _write_words(words: np.ndarray, n: int, out: np.ndarray, at: int) -> int:
    """Write the first n words, highest byte first; returns the offset after them."""
    for k in range(n):
        word = words[k]
        four = out[at + 4 * k : at + 4 * k + 4]
        four[0], four[1], four[2], four[3] = word >> 24, (word >> 16) & 255, (word >> 8) & 255, word & 255
    return at + 4 * n


@njit("int64(uint64, int64)", cache=True, nogil=True)
def _low_bits(total: np.uint64, size: int) -> int:
    """Low bits that a block of `size` mapped differences with this sum stores as they are."""
    mean = (np.int64(total) - size // 2 - 1) // size
    fs, rest = 0, (mean if mean > 0 else 0) >> 1
    while rest > 0:
        fs += 1
        rest >>= 1
    return fs


@njit("void(uint32[::1], int64, int64, uint32[::1])", cache=True, nogil=True)
def _map_steps(values: np.ndarray, n: int, pixel_bits: int, mapped: np.ndarray) -> None:
    """Differences of neighbours (of the first to itself), 0, -1, 1, -2 ... as 0, 1, 2, 3 ...; both in the lowest `pixel_bits`."""
    spare = np.uint32(32 - pixel_bits)
    mapped[0] = 0
    for k in range(1, n):
        step = np.uint32(values[k] - values[k - 1]) << spare
        mapped[k] = np.uint32((np.uint32(step << np.uint32(1))) ^ np.uint32(np.int32(step) >> np.int32(31))) >> spare


@njit("int64(uint32[::1], int64, int64, int64, int64, uint8[::1], int64)", cache=True, nogil=True)
def _encode(values: np.ndarray, n: int, fs_bits: int, fs_max: int, pixel_bits: int, out: np.ndarray, start: int) -> int:
    """Rice code of one tile.

    Bits are collected in a buffer of 64, of which `filled` < 32 wait; a word is stored after every number and counted when it is
    whole, which costs less than a branch that no processor can foresee.

    Parameters
    ----------
    values : (>= n,) uint32
        Pixels, two's complement in the lowest `pixel_bits`.
    fs_bits, fs_max, pixel_bits : int
        Of the kind of pixel.
    out, start : uint8 array and where to begin; it must hold 4 n + 64 bytes from there.

    Returns
    -------
    int
        Offset of the first byte after the code.
    """
    mapped, words = np.empty(n, np.uint32), np.empty(n + n // RICE_BLOCK + 8, np.uint32)
    _map_steps(values, n, pixel_bits, mapped)
    one, low = np.uint64(1), np.uint64(31)
    buffer, filled, used = np.uint64(values[0]) & np.uint64((1 << pixel_bits) - 1), np.uint64(pixel_bits), np.uint64(0)
    if filled == 32:
        words[used] = np.uint32(buffer)
        used, filled = used + one, np.uint64(0)
    for first in range(0, n, RICE_BLOCK):
        block = mapped[first : min(first + RICE_BLOCK, n)]
        total = np.uint64(0)
        for m in block:
            total += np.uint64(m)
        fs = _low_bits(total, block.size)
        head = np.uint64(0 if total == 0 else min(fs, fs_max) + 1)
        buffer, filled = (buffer << np.uint64(fs_bits)) | head, filled + np.uint64(fs_bits)
        words[used] = np.uint32(buffer >> (filled & low))
        used, filled = used + (filled >> np.uint64(5)), filled & low
        if fs >= fs_max:
            for m in block:
                buffer, filled = (buffer << np.uint64(pixel_bits)) | np.uint64(m), filled + np.uint64(pixel_bits)
                words[used] = np.uint32(buffer >> (filled & low))
                used, filled = used + (filled >> np.uint64(5)), filled & low
        elif total > 0:
            shift, bit = np.uint64(fs), one << np.uint64(fs)
            for m in block:
                zeros = np.uint64(m) >> shift
                while zeros + shift > low:  # a long run of zeros: more than the buffer takes at once
                    chunk = min(zeros, low)
                    buffer, filled, zeros = buffer << chunk, filled + chunk, zeros - chunk
                    words[used] = np.uint32(buffer >> (filled & low))
                    used, filled = used + (filled >> np.uint64(5)), filled & low
                length = zeros + one + shift
                buffer = (buffer << length) | bit | (np.uint64(m) & (bit - one))
                filled += length
                words[used] = np.uint32(buffer >> (filled & low))
                used, filled = used + (filled >> np.uint64(5)), filled & low
    at = _write_words(words, int(used), out, start)
    waiting = np.int64(filled)
    while waiting > 0:
        out[at] = np.uint8(((buffer << np.uint64(8)) >> np.uint64(waiting)) & np.uint64(255))
        waiting -= 8
        at += 1
    return at


@njit(types.int64(_images_in, types.uint16, types.int64, types.uint8[::1], types.int64[::1]), cache=True, nogil=True)
def encode_halves(pixels: np.ndarray, flip: int, tile_rows: int, out: np.ndarray, ends: np.ndarray) -> int:
    """Rice code of a 16-bit image in tiles of whole rows.

    Parameters
    ----------
    pixels : (ny, nx) uint16
        Stored after exclusive or with `flip` (32768 makes unsigned pixels the signed ones of FITS).
    out : uint8 array of at least 4 bytes a pixel and 64 a tile
    ends : (tiles,) int64
        Written: offset after each tile.

    Returns
    -------
    int
        Bytes used.
    """
    ny, nx = pixels.shape
    values = np.empty(tile_rows * nx, np.uint32)
    at = 0
    for tile in range(ends.size):
        rows = min(tile_rows, ny - tile * tile_rows)
        for j in range(rows):
            for i in range(nx):
                values[j * nx + i] = np.uint32(pixels[tile * tile_rows + j, i] ^ flip)
        at = _encode(values, rows * nx, _FS_16[0], _FS_16[1], _FS_16[2], out, at)
        ends[tile] = at
    return at


@njit(types.float64(_floats_in, types.int64, types.int64), cache=True, nogil=True, error_model="numpy")
def _noise(pixels: np.ndarray, first: int, rows: int) -> float:
    """Noise of the rows of a tile from third differences, 0.6052697 median |2 p(i) - p(i-2) - p(i+2)| (Stoehr et al. 2008)."""
    nx = pixels.shape[1]
    every = max(1, min(8, rows * nx // NOISE_SAMPLES[0]), rows * nx // NOISE_SAMPLES[1])
    found = np.empty(rows * nx // every + 1, np.float32)
    n = 0
    for place in range(0, rows * nx, every):
        j, i = first + place // nx, place % nx
        if 2 <= i < nx - 2:
            step = abs(np.float32(2) * pixels[j, i] - pixels[j, i - 2] - pixels[j, i + 2])
            if step < np.float32(3e38):  # neither NaN nor infinite
                found[n] = step
                n += 1
    return 0.6052697 * np.median(found[:n]) if n else 0.0


@njit(types.UniTuple(types.float64, 2)(_floats_in), cache=True, nogil=True)
def _range(pixels: np.ndarray) -> tuple[float, float]:
    """Least and greatest pixel but for NaN; inf, -inf if there is no other.

    The bits of floats are compared as integers (those of negative ones turned around), which processors do for many at a time.
    """
    least, most = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
    for j in range(pixels.shape[0]):
        for bits in pixels[j].view(np.int32):
            size = bits & np.int32(0x7FFFFFFF)
            key = np.int32(bits ^ (np.int32(bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))
            number = size <= np.int32(0x7F800000)
            low, high = (key, key) if number else (np.int32(0x7FFFFFFF), np.int32(-0x80000000))
            least = min(least, low)
            most = max(most, high)
    if least > most:
        return np.inf, -np.inf
    ends = np.array([least, most], np.int32)
    ends ^= (ends >> np.int32(31)) & np.int32(0x7FFFFFFF)
    found = ends.view(np.float32)
    return np.float64(found[0]), np.float64(found[1])


_row_in = types.Array(types.float32, 1, "C", readonly=True)


@njit(types.void(_row_in, types.float64, types.float64, _row_in, types.uint32[::1]), cache=True, nogil=True,
      error_model="numpy")  # fmt: skip
def _quantise(row: np.ndarray, least: float, per_step: float, randoms: np.ndarray, out: np.ndarray) -> None:
    """Whole steps above the least pixel, dithered; see `encode_floats`."""
    for i in range(row.size):
        p = row[i]
        level = np.int32((np.float64(p) - least) * per_step + np.float64(randoms[i]))
        value = np.int32(level + np.int32(FIRST_VALUE)) if p == p else np.int32(NULL_VALUE)
        out[i] = np.uint32(value) if p != np.float32(0) else np.uint32(np.int32(ZERO_VALUE))


@njit(types.int64(_floats_in, types.int64, types.float64, types.int64, types.float32[::1], types.uint8[::1], types.int64[::1],
                  types.float64[::1], types.float64[::1]), cache=True, nogil=True, error_model="numpy")  # fmt: skip
def encode_floats(
    pixels: np.ndarray, tile_rows: int, q: float, seed: int, randoms: np.ndarray, out: np.ndarray, ends: np.ndarray,
    scale: np.ndarray, zero: np.ndarray,
) -> int:  # fmt: skip
    """Quantise a float image to sigma / q with SUBTRACTIVE_DITHER_2 and Rice-code it, in tiles of whole rows.

    k = floor((p - least) / scale + r) is stored as k + FIRST_VALUE and read as (k - r + 1/2) scale + least: at most half a
    step off, and without bias whatever the pixel. Exact zeros stay exact, NaN stays NaN.

    Parameters
    ----------
    pixels : (ny, nx) float32
    q : float
        Steps per noise sigma of the tile.
    seed : int
        1..10000, ZDITHER0.
    randoms : `RANDOMS`
    out : uint8 array of at least 4 bytes a pixel and 64 a tile
    ends, scale, zero : (tiles,)
        Written: offset after each tile, its ZSCALE and ZZERO.

    Returns
    -------
    int
        Bytes used; -1 if a tile has no noise or too wide a range for its noise: such an image cannot be quantised.
    """
    ny, nx = pixels.shape
    values = np.empty(tile_rows * nx, np.uint32)
    at = 0
    for tile in range(ends.size):
        first = tile * tile_rows
        rows = min(tile_rows, ny - first)
        least, most = _range(pixels[first : first + rows])
        if least > most:  # all NaN
            least, most = 0.0, 0.0
            step = 1.0
        else:
            step = _noise(pixels, first, rows) / q
        if not (step > 0.0 and (most - least) / step < 2.0e9):
            return -1
        per_step = 1.0 / step
        start = (tile + seed - 1) % randoms.size
        k_random = int(randoms[start] * np.float32(500))
        for j in range(rows):
            done, row, line = 0, pixels[first + j], values[j * nx : (j + 1) * nx]
            while done < nx:  # a run of random numbers without the end of their table
                run = min(nx - done, randoms.size - k_random)
                part = slice(done, done + run)
                _quantise(row[part], least, per_step, randoms[k_random : k_random + run], line[part])
                done += run
                k_random += run
                if k_random == randoms.size:
                    start = (start + 1) % randoms.size
                    k_random = int(randoms[start] * np.float32(500))
        at = _encode(values, rows * nx, _FS_32[0], _FS_32[1], _FS_32[2], out, at)
        ends[tile] = at
        scale[tile] = step
        zero[tile] = least - step * FIRST_VALUE
    return at


# -- Rice: reading -----------------------------------------------------------------------------------------------------


@njit(types.uint64(_bytes_in, types.int64, types.int64), cache=True, nogil=True)
def _word(code: np.ndarray, at: int, end: int) -> np.uint64:
    """The next 32 bits of a code; zeros beyond its end."""
    if at + 4 <= end:
        high = (np.uint64(code[at]) << np.uint64(24)) | (np.uint64(code[at + 1]) << np.uint64(16))
        return high | (np.uint64(code[at + 2]) << np.uint64(8)) | np.uint64(code[at + 3])
    word = np.uint64(0)
    for k in range(4):
        word = (word << np.uint64(8)) | (np.uint64(code[at + k]) if at + k < end else np.uint64(0))
    return word


@njit(types.int64(_bytes_in, types.int64, types.int64, types.int64, types.int64, types.int64, types.int64, types.int64, types.int64[::1],
                  types.uint32[::1]), cache=True, nogil=True)  # fmt: skip
def _decode(
    code: np.ndarray, start: int, end: int, n: int, block: int, fs_bits: int, fs_max: int, pixel_bits: int,
    leading: np.ndarray, values: np.ndarray,
) -> int:  # fmt: skip
    """Inverse of `_encode`: `n` pixels from code[start:end]; returns 0, or 1 if the code is damaged.

    Never reads outside the code: beyond its end zeros are taken, and a code that needed any of them is damaged. So is one
    whose pixels are complete long before its end: what was read is not what was written.
    """
    wrap = np.uint64((1 << pixel_bits) - 1)
    buffer, filled, at = np.uint64(0), 0, start
    last = np.uint64(0)
    for _ in range(pixel_bits // 8):
        if at >= end:
            return 1
        last = (last << np.uint64(8)) | np.uint64(code[at])
        at += 1
    for first in range(0, n, block):
        size = min(block, n - first)
        # In what follows the buffer holds `filled` bits, left-aligned; each step needs at most 33 at once.
        if filled <= 32:
            buffer |= _word(code, at, end) << np.uint64(32 - filled)
            filled += 32
            at += 4
        fs = np.int64(buffer >> np.uint64(64 - fs_bits)) - 1
        buffer <<= np.uint64(fs_bits)
        filled -= fs_bits
        if at > end + 8 or fs > fs_max:
            return 1
        if fs < 0:
            for k in range(size):
                values[first + k] = np.uint32(last)
            continue
        for k in range(size):
            if filled <= 32:
                buffer |= _word(code, at, end) << np.uint64(32 - filled)
                filled += 32
                at += 4
            if fs == fs_max:
                step = buffer >> np.uint64(64 - pixel_bits)
                buffer <<= np.uint64(pixel_bits)
                filled -= pixel_bits
            else:
                zeros = 0
                lead = leading[np.int64(buffer >> np.uint64(56))]
                while lead == 8:
                    zeros += 8
                    buffer <<= np.uint64(8)
                    filled -= 8
                    if filled <= 32:
                        if at > end + 8:
                            return 1
                        buffer |= _word(code, at, end) << np.uint64(32 - filled)
                        filled += 32
                        at += 4
                    lead = leading[np.int64(buffer >> np.uint64(56))]
                zeros += lead
                buffer <<= np.uint64(lead + 1)
                filled -= lead + 1
                step = np.uint64(zeros) << np.uint64(fs)
                if fs > 0:
                    if filled < fs:
                        buffer |= _word(code, at, end) << np.uint64(32 - filled)
                        filled += 32
                        at += 4
                    step |= buffer >> np.uint64(64 - fs)
                    buffer <<= np.uint64(fs)
                    filled -= fs
            half = step >> np.uint64(1)
            last = (last + (~half if step & np.uint64(1) else half)) & wrap
            values[first + k] = np.uint32(last)
    left = end - (at - filled // 8)
    return 1 if left < 0 or left >= PADDING else 0


@njit(types.int64(_bytes_in, _places_in, _places_in, types.int64, types.int64, types.uint16, types.int64[::1], types.uint16[:, ::1]),
      cache=True, nogil=True)  # fmt: skip
def decode_halves(
    code: np.ndarray, offsets: np.ndarray, lengths: np.ndarray, tile_rows: int, block: int, flip: int,
    leading: np.ndarray, pixels: np.ndarray,
) -> int:  # fmt: skip
    """16-bit pixels of a Rice-coded image in tiles of whole rows.

    Parameters
    ----------
    code : (n,) uint8
    offsets, lengths : (tiles,) int64
        Where the code of each tile is; both inside `code`.
    block : int
        Differences per block (32, in some files 16).
    flip : uint16
        Combined with the stored pixels by exclusive or.
    leading : `LEADING`
    pixels : (ny, nx) uint16
        Written.

    Returns
    -------
    int
        Number of tiles that are damaged.
    """
    ny, nx = pixels.shape
    values = np.empty(tile_rows * nx, np.uint32)
    damaged = 0
    for tile in range(offsets.size):
        rows = min(tile_rows, ny - tile * tile_rows)
        begin = offsets[tile]
        damaged += _decode(
            code, begin, begin + lengths[tile], rows * nx, block, _FS_16[0], _FS_16[1], _FS_16[2], leading, values
        )
        for j in range(rows):
            for i in range(nx):
                pixels[tile * tile_rows + j, i] = np.uint16(values[j * nx + i]) ^ flip
    return damaged


@njit(types.int64(_bytes_in, _places_in, _places_in, _scales_in, _scales_in, types.int64, types.int64, types.int64,
                  types.int64, types.float32[::1], types.int64[::1], types.float32[:, ::1]), cache=True, nogil=True)  # fmt: skip
def decode_floats(
    code: np.ndarray, offsets: np.ndarray, lengths: np.ndarray, scale: np.ndarray, zero: np.ndarray, tile_rows: int,
    block: int, seed: int, blank: int, randoms: np.ndarray, leading: np.ndarray, pixels: np.ndarray,
) -> int:  # fmt: skip
    """Pixels of a Rice-coded image quantised with SUBTRACTIVE_DITHER_2; parameters as of `encode_floats` and `decode_halves`.

    `blank` (ZBLANK) is the integer that stands for NaN; writers differ.
    """
    ny, nx = pixels.shape
    values = np.empty(tile_rows * nx, np.uint32)
    damaged = 0
    for tile in range(offsets.size):
        first = tile * tile_rows
        rows = min(tile_rows, ny - first)
        begin = offsets[tile]
        damaged += _decode(
            code, begin, begin + lengths[tile], rows * nx, block, _FS_32[0], _FS_32[1], _FS_32[2], leading, values
        )
        start = (tile + seed - 1) % randoms.size
        k_random = int(randoms[start] * np.float32(500))
        for j in range(rows):
            for i in range(nx):
                value = np.int64(np.int32(values[j * nx + i]))
                if value == blank:
                    pixels[first + j, i] = np.float32(np.nan)
                elif value == ZERO_VALUE:
                    pixels[first + j, i] = np.float32(0)
                else:
                    level = np.float64(value) - np.float64(randoms[k_random]) + 0.5
                    pixels[first + j, i] = np.float32(level * scale[tile] + zero[tile])
                k_random += 1
                if k_random == randoms.size:
                    start = (start + 1) % randoms.size
                    k_random = int(randoms[start] * np.float32(500))
    return damaged
