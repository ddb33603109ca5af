"""Lines as the Minor Planet Center writes them, made from elements."""

from __future__ import annotations

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def packed_number(number: int) -> str:
    return f"{BASE62[number // 10000]}{number % 10000:04d}"


def packed_date(year: int, month: int, day: int) -> str:
    return f"{'IJK'[year // 100 - 18]}{year % 100:02d}{BASE62[month]}{BASE62[day]}"


def mpcorb_line(
    packed: str, epoch: str, m: float, peri: float, node: float, incl: float, e: float, a: float,
    h: float | None = 15.0, g: float = 0.15, u: str = "0", last: str = "20261118",
) -> str:  # fmt: skip
    """One line of 202 columns; the columns are those of the MPC's description of the format."""
    text = [" "] * 202

    def put(first: int, value: str) -> None:  # columns count from 1
        text[first - 1 : first - 1 + len(value)] = value

    put(1, packed)
    if h is not None:
        put(9, f"{h:5.2f}")
    put(15, f"{g:5.2f}")
    put(21, epoch)
    for column, angle in ((27, m), (38, peri), (49, node), (60, incl)):
        put(column, f"{angle:9.5f}")
    put(71, f"{e:9.7f}")
    put(93, f"{a:11.7f}")
    put(106, u)
    put(118, "  123")
    put(195, last)
    return "".join(text)


COMETS = """\
    CJ95O010  1997 03 29.9086  0.921372  0.994922  130.3853  282.7340   88.9893  20261121  -2.0  4.0  C/1995 O1 (Hale-Bopp)
0002P         2027 02 10.1231  0.339161  0.847036  187.2812  334.0176   11.3810  20261121  11.5  6.0  2P/Encke
0073P      b  2027 12 23.4031  0.918423  0.699887  199.5012   69.6012   11.2401  20261121  18.0  4.0  73P-B/Schwassmann-Wachmann
    CK26A01b  2026 12 20.5000  1.201000  1.000301   10.5012   69.6012  111.2401  20261121             C/2026 A1-B (Imagined)
"""
