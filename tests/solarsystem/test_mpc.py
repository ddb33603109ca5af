"""Files of the Minor Planet Center: designations, dates, elements, damaged lines."""

import json

import numpy as np
import pytest
from lines import COMETS, mpcorb_line, packed_date, packed_number

from ztfds.solarsystem import mpc, planets
from ztfds.survey.errors import BadData

EPOCH = packed_date(2026, 11, 21)
GOOD = mpcorb_line("00433", EPOCH, 310.55432, 178.92977, 304.27008, 10.82847, 0.2228359, 1.4581205, 10.41, u="0")


def line(packed, **more):
    elements = {"m": 10.0, "peri": 20.0, "node": 30.0, "incl": 4.0, "e": 0.1, "a": 2.5, **more}
    return mpcorb_line(packed, EPOCH, **elements)


@pytest.mark.parametrize(
    ("packed", "name"),
    [
        ("00433", "433"), ("A0345", "100345"), ("a0017", "360017"), ("z9999", "619999"), ("~0000", "620000"),
        ("~000z", "620061"), ("~AZaz", "3140113"), ("J95X00A", "1995XA"), ("K07Tf8A", "2007TA418"), ("I98M07W", "1898MW7"),
        ("PLS2040", "2040P-L"), ("T3S4101", "4101T-3"), ("_QC0000", "2026CA620"), ("_RD0aEM", "2027DZ6190"),
    ],
)  # fmt: skip
def test_packed_designations_are_those_of_the_mpc_s_description(packed, name):
    assert mpc.name_of(packed) == name


@pytest.mark.parametrize("packed", ["", "0043", "é0433", "J95X0", "L07Tf8A", "K0xT00A", "K07a00A", "-0433"])
def test_nonsense_is_no_designation(packed):
    with pytest.raises((ValueError, KeyError)):
        mpc.name_of(packed)


def test_packed_dates():
    assert mpc.unpack_epoch("J9611") == mpc.julian_day(1996, 1, 1) == 2450083.5
    assert mpc.unpack_epoch("K25BL") == 2461000.5  # 2025 November 21, a standard epoch of the MPC
    for bad in ("K2D11", "K2511X", "K25B0", "K252U"):
        with pytest.raises(ValueError):
            mpc.unpack_epoch(bad)


def test_a_line_becomes_a_state_with_these_elements():
    (orbit,) = mpc.parse_mpcorb(GOOD.encode()).orbits
    assert orbit["name"] == b"433" and orbit["epoch"] == 2461365.5 and orbit["h"] == np.float32(10.41)
    assert (orbit["u"], orbit["nobs"], orbit["last"], orbit["kind"]) == (0, 123, 20261118, mpc.ASTEROID)
    x, v = orbit["state"][:3], orbit["state"][3:]
    r, gm = np.linalg.norm(x), planets.GM_SUN
    assert 1 / (2 / r - v @ v / gm) == pytest.approx(1.4581205, rel=1e-12)
    eccentric = np.cross(v, np.cross(x, v)) / gm - x / r
    assert np.linalg.norm(eccentric) == pytest.approx(0.2228359, rel=1e-10)
    pole = planets.ecliptic_to_equatorial(np.array([0.0, 0.0, 1.0]))
    h = np.cross(x, v) / np.linalg.norm(np.cross(x, v))
    assert np.degrees(np.arccos(h @ pole)) == pytest.approx(10.82847, abs=1e-9)


def test_header_blank_lines_carriage_returns_and_lines_without_magnitude_are_read():
    lines = [
        "MINOR PLANET CENTER ORBIT DATABASE",
        "",
        "Des'n     H     G",
        "-" * 160,
        GOOD,
        "",
        line("K07Tf8A", h=None) + "\r",
    ]
    parsed = mpc.parse_mpcorb("\n".join(lines).encode())
    assert parsed.bad == 0 and parsed.orbits["name"].tolist() == [b"433", b"2007TA418"]
    assert parsed.orbits["h"][1] == mpc.NO_MAGNITUDE


def test_bad_lines_are_counted_and_named_and_cost_no_other_line():
    ok = [line(packed_number(n)) for n in range(1, 6)]
    cut, number, epoch = ok[0][:80], ok[1].replace("  2.5000000", "  2.5oo0000"), ok[2].replace(EPOCH, "K26Z9")
    hyperbolic, binary = line("00009", e=1.0000001), "\x00\xff" * 101
    content = "\n".join([ok[0], cut, ok[1], number, epoch, ok[2], hyperbolic, binary, ok[3], ok[4]]).encode("latin-1")
    parsed = mpc.parse_mpcorb(content)
    assert parsed.orbits["name"].tolist() == [b"1", b"2", b"3", b"4", b"5"] and parsed.bad == 5
    assert [text.split(":")[0] for text in parsed.named] == ["line 2", "line 4", "line 5", "line 7", "line 8"]
    assert "cut off" in parsed.named[0] and "impossible" in parsed.named[1] and "K26Z9" in parsed.named[2]


def test_a_name_that_is_there_twice_is_kept_once_the_later():
    parsed = mpc.parse_mpcorb("\n".join([line("00007", a=2.4), line("00008"), line("00007", a=2.6)]).encode())
    assert sorted(parsed.orbits["name"].tolist()) == [b"7", b"8"]
    x = parsed.orbits["state"][parsed.orbits["name"] == b"7"][0]
    assert 1 / (2 / np.linalg.norm(x[:3]) - x[3:] @ x[3:] / planets.GM_SUN) == pytest.approx(2.6)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"<html>404</html>", b"----------\n", b"\x1f\x8b garbage"])
def test_a_file_without_any_orbit_is_bad_data(content):
    with pytest.raises(BadData):
        mpc.parse_mpcorb(content)
    with pytest.raises(BadData):
        mpc.parse_comets(content)
    with pytest.raises(BadData):
        mpc.parse_obscodes(content)


def test_comets_of_every_conic_and_fragments():
    parsed = mpc.parse_comets(COMETS.encode() + b"  not a comet\n")
    assert parsed.orbits["name"].tolist() == [b"C/1995O1", b"2P", b"73P-B", b"C/2026A1-B"]
    assert parsed.bad == 1 and "line 5" in parsed.named[0]
    assert (parsed.orbits["kind"] == mpc.COMET).all() and parsed.orbits["h"].tolist() == [-2.0, 11.5, 18.0, 99.0]
    for orbit, q, e in zip(
        parsed.orbits, (0.921372, 0.339161, 0.918423, 1.201), (0.994922, 0.847036, 0.699887, 1.000301), strict=True
    ):
        x, v, gm = orbit["state"][:3], orbit["state"][3:], planets.GM_SUN
        momentum = np.linalg.norm(np.cross(x, v)) ** 2 / gm
        energy = v @ v / 2 - gm / np.linalg.norm(x)
        assert momentum == pytest.approx(q * (1 + e), rel=1e-9)
        assert 1 + 2 * energy * momentum / gm == pytest.approx(e * e, abs=1e-8)


@pytest.mark.realdata
def test_the_real_list_of_observatories(real_data):
    sites = mpc.parse_obscodes((real_data / "sso" / "obscodes_extended.json").read_bytes())
    assert len(sites) > 2000 and sites["I41"] == planets.PALOMAR
    spacecraft = {"250", "274"}  # Hubble and Webb have no parallax constants
    assert not spacecraft & set(sites)
    listed = json.loads((real_data / "sso" / "obscodes_extended.json").read_text())
    assert spacecraft <= set(listed)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("error")
def test_mutilated_files_give_finite_orbits_or_bad_data_and_nothing_else(seed):
    rng = np.random.default_rng(seed)
    orbits = "\n".join(line(packed_number(n), m=10.0 * n, last="20261118") for n in range(1, 20)).encode()
    finite = refused = 0
    for source, parse in ((orbits, mpc.parse_mpcorb), (COMETS.encode(), mpc.parse_comets)) * 60:
        text = bytearray(source)
        for _ in range(rng.integers(1, 60)):
            place, kind = rng.integers(0, len(text)), rng.integers(0, 3)
            new = bytes([rng.choice(list(b"0123456789.-+eEnNaA \n")) if kind else rng.integers(0, 256)])
            text[place : place + (kind < 2)] = b"" if kind == 1 else new
        try:
            found = parse(bytes(text)).orbits
        except BadData:
            refused += 1
            continue
        finite += 1
        assert np.isfinite(found["state"]).all() and np.isfinite(found["h"]).all() and (found["name"] != b"").all()
        assert ((found["epoch"] > 2396758) & (found["epoch"] < 2488070)).all()
    assert finite > 30 and refused < 100


def test_overlong_numbers_and_dates_far_from_everything_are_bad_lines():
    text = COMETS.replace("2027 02 10.1231", "9e99 02 10.1231").replace("0.918423", "1e300   ")
    assert mpc.parse_comets(text.encode()).bad == 2
    far = mpcorb_line("00005", "I0011", 1, 2, 3, 4, 0.1, 2.5)
    parsed = mpc.parse_mpcorb("\n".join([GOOD, far]).encode())
    assert parsed.bad == 1 and "before 1850" in parsed.named[0]
