"""Keywords of files that others wrote come under the survey's names; what the survey wrote stays as it is."""

from __future__ import annotations

import datetime as dt

import pytest
from astropy.io import fits
from astropy.time import Time

from ztfds.formats.keywords import angle_deg, normalise
from ztfds.survey import fields
from ztfds.survey.names import RawName

JD = 2458559.807639
ON_SKY = RawName("20190317307639", 712, "zg", 6, "o")
BIAS = RawName("20190317107639", 0, "bi", 6, "b")


def extensions(**cards: object) -> list[fits.Header]:
    return [fits.Header(cards) for _ in range(4)]


@pytest.mark.parametrize(
    "cards",
    [
        {"OBSMJD": JD - 2400000.5},
        {"MJD-OBS": JD - 2400000.5},
        {"JD": JD},
        {"OBSJD": str(JD)},
        {"DATE-OBS": Time(JD, format="jd").isot},
        {"SHUTOPEN": Time(JD, format="jd").iso},
        {"DATE-OBS": "2019-03-17", "UTC-OBS": "07:23:00.010"},
        {"DATE-OBS": "2019-03-17", "UTC-OBS": "2019-03-17T07:23:00.010"},
    ],
)
def test_time_in_any_of_the_usual_forms(cards: dict[str, object]) -> None:
    header = fits.Header(cards)
    normalise(header, ON_SKY, extensions())
    assert header["OBSJD"] == pytest.approx(JD, abs=2e-8)


@pytest.mark.parametrize(
    "cards",
    [
        {"OBJRAD": 157.78274, "OBJDECD": -40.55},
        {"RA": "10:31:07.858", "DEC": "-40:33:00.0"},
        {"RA": "10 31 07.858", "DEC": "-40 33 00"},
        {"RA": 157.78274, "DEC": -40.55},
        {"RA": "157.78274", "DEC": "-40.55"},
        {"RAD": 157.78274, "OBJRAD": 157.78274, "OBJDECD": -40.55},
    ],
)
def test_pointing_in_any_of_the_usual_forms(cards: dict[str, object]) -> None:
    header = fits.Header(cards)
    normalise(header, ON_SKY, extensions())
    assert (header["RAD"], header["DECD"]) == pytest.approx((157.78274, -40.55), abs=1e-5)


def test_time_and_pointing_are_not_invented() -> None:
    header = fits.Header({"DATE-OBS": "2019-03-17", "RA": "somewhere"})
    normalise(header, ON_SKY, extensions())
    assert "OBSJD" not in header and "RAD" not in header
    header = fits.Header({"OBSJD": JD})
    normalise(header, ON_SKY, extensions(CRVAL1=158.0, CRVAL2=41.0))
    field = fields.get(712)
    assert (header["RAD"], header["DECD"]) == (field.ra, field.dec)


def test_the_name_and_defaults_supply_the_rest() -> None:
    header = fits.Header({"OBSJD": JD, "RAD": 157.78274, "DECD": 40.55})
    quadrants = extensions(GAIN=1.5)
    supplied = normalise(header, ON_SKY, quadrants)
    wanted = {"CCD_ID": 6, "FIELDID": 712, "FILTERID": 1, "IMGTYPE": "object", "PROGRMID": 1, "EXPTIME": 30.0}
    assert {key: header[key] for key in wanted} == wanted
    assert set(supplied) == {*wanted, "AIRMASS", "PROGRMPI"}
    assert header["AIRMASS"] == pytest.approx(airmass_by_astropy(157.78274, 40.55), rel=0.01)
    assert [(q["GAIN"], q["READNOI"]) for q in quadrants] == [(1.5, 10.0)] * 4
    bias, quadrants = fits.Header({"OBSJD": JD, "GAIN": 2.0, "SATURATE": 30000}), extensions()
    normalise(bias, BIAS, quadrants)
    assert (bias["EXPTIME"], bias["IMGTYPE"]) == (0.0, "bias") and "RAD" not in bias
    assert (quadrants[3]["GAIN"], quadrants[3]["SATURATE"]) == (2.0, 30000)


def airmass_by_astropy(ra: float, dec: float) -> float:
    """Secant of the zenith distance over Palomar, independently."""
    import astropy.units as u
    from astropy.coordinates import AltAz, EarthLocation, SkyCoord
    from astropy.utils import iers

    site = EarthLocation(lat=33.357 * u.deg, lon=-116.865 * u.deg, height=1700 * u.m)
    with iers.conf.set_temp("auto_download", False):
        place = SkyCoord(ra * u.deg, dec * u.deg).transform_to(AltAz(obstime=Time(JD, format="jd"), location=site))
    return float(place.secz)


@pytest.mark.parametrize(
    ("stated", "word"), [("Light", "object"), ("zero", "bias"), (" DOME ", "flat"), ("focus", "focus")]
)
def test_words_for_image_types(stated: str, word: str) -> None:
    header = fits.Header({"IMAGETYP": stated})
    normalise(header, ON_SKY, extensions())
    assert header["IMGTYPE"].strip() == word


def test_what_the_survey_wrote_is_not_changed() -> None:
    cards = {
        "IMGTYPE": "object",
        "OBSJD": JD,
        "EXPTIME": 30.0,
        "CCD_ID": 7,
        "FIELDID": 9999,
        "FILTERID": 3,
        "PROGRMID": 2,
    }
    cards |= {"PROGRMPI": "Kulkarni", "RAD": 1.0, "DECD": 2.0, "AIRMASS": 1.3}
    header, quadrants = fits.Header(cards), extensions(GAIN=6.0, READNOI=9.0)
    assert normalise(header, ON_SKY, quadrants) == ()
    assert dict(header) == cards
    assert dict(quadrants[0]) == {"GAIN": 6.0, "READNOI": 9.0}


@pytest.mark.filterwarnings("ignore::astropy.io.fits.verify.VerifyWarning")
def test_cards_that_cannot_be_read_or_are_empty_do_no_harm() -> None:
    header = fits.Header.fromstring(f"{'OBSJD   =                  NAN':80}{'EXPTIME =':80}{'AIRMASS = xx yy':80}")
    supplied = normalise(header, ON_SKY, extensions())
    assert "OBSJD" not in header and header["EXPTIME"] == 30.0 and header["AIRMASS"] == 1.2
    assert "EXPTIME" in supplied


@pytest.mark.parametrize(
    ("value", "hours", "deg"),
    [("-00:30:00", False, -0.5), ("23:59:60", True, 360.0), (True, False, None), ("x", False, None)],
)
def test_angles(value: object, hours: bool, deg: float | None) -> None:
    assert angle_deg(value, hours) == (None if deg is None else pytest.approx(deg))


def test_iso_times_may_carry_a_zone() -> None:
    header = fits.Header(
        {"DATE-OBS": (dt.datetime(2019, 3, 17, 9, tzinfo=dt.timezone(dt.timedelta(hours=2)))).isoformat()}
    )
    normalise(header, ON_SKY, extensions())
    assert header["OBSJD"] == pytest.approx(Time("2019-03-17T07:00:00").jd, abs=1e-9)
