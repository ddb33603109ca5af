"""Headers of raw files: every keyword that the real camera writes, in the real order."""

from __future__ import annotations

import datetime as dt
import math

import numpy as np
from astropy.io import fits

from ztfds.simulator import ephemeris
from ztfds.simulator.schedule import PROGRAM_PI, Conditions, Plan, PlannedExposure
from ztfds.survey import camera as survey_camera
from ztfds.survey import filters
from ztfds.survey.detector import DARK_CURRENT_E_PER_S, GAIN_E_PER_DN, READ_NOISE_E

_TYPES = {"b": "bias", "f": "flat", "o": "object"}
_LED_NM = {2: 455, 3: 470, 4: 490, 5: 530, 7: 590, 8: 617, 9: 625, 10: 660, 11: 740, 12: 780, 13: 850}
_UNKNOWN = -9999.0


def _sexagesimal(value: float, sign: str = "+", digits: int = 2) -> str:
    """Degrees or hours as +dd:mm:ss.ss."""
    total = round(abs(value) * 3600 * 10**digits)
    seconds, fraction = divmod(total, 10**digits)
    minutes, s = divmod(seconds, 60)
    d, m = divmod(minutes, 60)
    return f"{'-' if value < 0 else sign}{d:02d}:{m:02d}:{s:02d}.{fraction:0{digits}d}"


def iso_time(jd: float) -> str:
    """UTC of a Julian date, to the millisecond."""
    return (dt.datetime(2000, 1, 1, 12) + dt.timedelta(days=jd - 2451545.0)).isoformat(timespec="milliseconds")


def primary_header(plan: Plan, exposure: PlannedExposure, ccdid: int, state: Conditions | None) -> fits.Header:
    """Primary header of one CCD file.

    Parameters
    ----------
    state : Conditions or None
        Conditions of an on-sky exposure; None for calibration frames.
    """
    rng = np.random.default_rng([plan.seed, 81, exposure.key])
    cards = [
        *_identity(exposure, ccdid, rng),
        *_pointing(exposure),
        *_weather(rng),
        *_sun_and_moon(exposure),
        *_filter_and_time(exposure),
        *_telescope(exposure, state, rng),
        *_end(exposure, ccdid),
    ]
    header = fits.Header()
    for key, value, comment in cards:
        header.append((key, value, comment), end=True)
    return header


Cards = list[tuple[str, object, str]]


def _identity(e: PlannedExposure, ccdid: int, rng: np.random.Generator) -> Cards:
    name = e.raw_name(ccdid).filename.removesuffix(".fz")
    cards: Cards = [
        ("BUNIT", "Data Value", ""),
        ("ORIGIN", "Zwicky Transient Facility", "Data origin"),
        ("OBSERVER", "ZTF Robotic Observing Software", "Observer"),
        ("ROBOSOFT", "ztfds simulator", "Robotic software version"),
        ("FITSSOFT", "ztfds simulator", "FITS software version"),
        ("INSTRUME", "ZTF/MOSAIC", "Instrument name"),
        ("DETECTOR", "", "Detector controller"),
        ("DETSOFT", "", "Detector software version"),
        ("DETFIRM", "", "Detector firmware version"),
        ("IMGTYPE", _TYPES[e.kind], "Image type"),
        ("EXPOSURE", e.exptime, "Total Exposure Time (s)"),
        ("EXPTIME", e.exptime, "Requested Exposure Time (s)"),
        ("AEXPTIME", e.exptime, "Actual Exposure Time (s)"),
        ("MODE_NUM", 0, "Mode identifying key"),
        ("CCDSUM", "1 1", "CCD binning"),
        ("PIXSCALE", 1.012, "Pixel scale, in arcsec per pixel"),
        ("FILENAME", name, "File name"),
        ("ORIGNAME", name, "Original file name"),
        ("FRAMENUM", e.index + 1, "Detector frame number"),
        ("HEADTEMP", round(165.0 + rng.normal(0, 0.2), 3), "Cryo cooler cold head temp (K)"),
        ("DEWPRESS", 4.14e-6, "Dewar pressure (milli-torr)"),
        ("DETHEAT", round(3.9 + rng.normal(0, 0.1), 2), "Detector focal plane heater power (%)"),
    ]
    for k in range(1, 17):
        cards.append(
            (
                f"CCDTMP{k:02d}",
                f"{170.0 + 3 * math.sin(5.0 * k) + rng.normal(0, 0.02):.3f}",
                f"CCD temperature{k:02d} (K)",
            )
        )
    return cards


def _pointing(e: PlannedExposure) -> Cards:
    ra_text, dec_text = _sexagesimal(e.ra / 15), _sexagesimal(e.dec)
    return [
        ("INST_X", 7.3e-8, "Hexapod X (RA) axis position (mm)"),
        ("INST_Y", 2.6e-6, "Hexapod Y (Dec) axis position (mm)"),
        ("FOCUSPOS", 1.3887, "Hexapod Z (Focus) axis position (mm)"),
        ("THETA_X", 0.317, "Hexapod rotation about INST_X (deg)"),
        ("THETA_Y", 0.2774, "Hexapod rotation about INST_Y (deg)"),
        ("INST_ROT", 3.0e-8, "Hexapod rotation about Z axis (deg)"),
        ("FIELDID", e.fieldid, "ZTF field ID number"),
        ("OBJRA", ra_text, "Queue object right ascension"),
        ("OBJDEC", dec_text, "Queue object declination"),
        ("OBJRAD", e.ra, "Object right ascension (deg)"),
        ("OBJDECD", e.dec, "Object declination (deg)"),
        ("EQUINOX", 2000.0, "Equinox"),
        ("RA_RATE", 0.0, 'RA tracking rate ("/hr)'),
        ("DEC_RATE", 0.0, 'DEC tracking rate ("/hr)'),
        ("PROGRMPI", PROGRAM_PI.get(e.programid, "Unknown"), "Queue program PI"),
        ("REQUSTID", e.index, "Queue request ID"),
        ("QCOMMENT", {"o": "all_sky", "b": "bias", "f": "flat"}[e.kind], "Queue comment"),
    ]


def _weather(rng: np.random.Generator) -> Cards:
    return [
        ("TEMPTURE", round(9 + rng.normal(0, 1), 1), "Outside air temperature (C)"),
        ("WINDSPD", round(abs(rng.normal(0, 3)), 1), "Outside wind speed"),
        ("WINDDIR", round(rng.uniform(0, 360), 0), "Outside wind direction (deg)"),
        ("DEWPOINT", round(-2 + rng.normal(0, 1), 1), "Dewpoint (C)"),
        ("WETNESS", 0.0, "Wetness sensor reading"),
        ("HUMIDITY", round(33 + rng.normal(0, 3), 1), "Humidity"),
        ("PRESSURE", _UNKNOWN, "Atmospheric pressure, millibars"),
        ("CLOUDS", _UNKNOWN, "Cloud sensor reading"),
    ]


def _sun_and_moon(e: PlannedExposure) -> Cards:
    s = ephemeris.sky_state(e.ra, e.dec, e.jd)
    return [
        ("SUNAZ", round(s.sun_az, 4), "Sun azimuth (deg)"),
        ("SUNALT", round(s.sun_alt, 4), "Sun altitude (deg)"),
        ("MOONRA", round(s.moon_ra, 4), "Moon J2000.0 R.A. (deg)"),
        ("MOONDEC", round(s.moon_dec, 4), "Moon J2000.0 Dec. (deg)"),
        ("MOONALT", round(s.moon_alt, 4), "Moon altitude (deg)"),
        ("MOONILLF", round(s.moon_fraction, 6), "Moon illuminated fraction (frac)"),
        ("MOONPHAS", round(s.moon_phase, 4), "Moon phase angle (deg)"),
        ("MOONESB", round(2.5 * math.log10(1 + s.moonlight_nl / 79.0), 4), "Moon excess in sky brightness V-band"),
    ]


def _filter_and_time(e: PlannedExposure) -> Cards:
    name = filters.by_fid(e.fid).name if e.fid else "none"
    lst = ephemeris.sidereal_deg(e.jd)
    hour_angle = ((lst - e.ra + 180.0) % 360.0 - 180.0) / 15.0
    return [
        ("PROGRMID", e.programid, "Queue program ID"),
        ("FILTERID", e.fid, "Filter ID code"),
        ("FILTER", name, "Filter name"),
        ("FILTPOS", {0: 0, 1: 3, 2: 2, 3: 1}[e.fid], "Filter ID code"),
        ("OBSJD", round(e.jd, 8), "Julian day corresponds to UTC-OBS (day)"),
        ("OBSMJD", round(e.jd - 2400000.5, 8), "MJD corresponds to UTC-OBS (day)"),
        ("HJD", round(e.jd + ephemeris.heliocentric_days(e.ra, e.dec, e.jd), 8), "Heliocentric Julian Day (days)"),
        ("DATE-OBS", iso_time(e.jd)[:10], "UTC date of observation"),
        ("UTC-OBS", iso_time(e.jd), "UTC of shutter opening"),
        ("OBLST", _sexagesimal(lst / 15, digits=1), "Local Sidereal Time"),
        ("HOURANG", _sexagesimal(hour_angle), "Hour angle"),
        ("HOURANGD", round(hour_angle, 6), "Hour angle (hours)"),
    ]


def _telescope(e: PlannedExposure, state: Conditions | None, rng: np.random.Generator) -> Cards:
    alt, az = ephemeris.altitude_azimuth(e.ra, e.dec, e.jd)
    # The telescope's own idea of where it points is near the request; the true pointing error is not known to it.
    tel_ra = (e.ra + rng.normal(0, 1e-4) / max(math.cos(math.radians(e.dec)), 0.01)) % 360.0
    tel_dec = max(-90.0, min(90.0, e.dec + rng.normal(0, 1e-4)))
    end = e.jd + (e.exptime - 0.036 if e.exptime else 0.0) / 86400.0
    return [
        ("RA", _sexagesimal(e.ra / 15), "Requested right ascension"),
        ("DEC", _sexagesimal(e.dec), "Requested declination"),
        ("RAD", e.ra, "Requested right ascension (deg)"),
        ("DECD", e.dec, "Requested declination (deg)"),
        ("TELRA", _sexagesimal(tel_ra / 15), "Telescope right ascension"),
        ("TELDEC", _sexagesimal(tel_dec), "Telescope declination"),
        ("TELRAD", round(tel_ra, 5), "Telescope right ascension (deg)"),
        ("TELDECD", round(tel_dec, 5), "Telescope declination (deg)"),
        ("AZIMUTH", round(az, 3), "Telescope azimuth (deg)"),
        ("ELVATION", round(alt, 3), "Telescope elevation (deg)"),
        ("TRACKRA", 0.0, 'TCS RA non-sidereal tracking rate ("/hr)'),
        ("TRACKDEC", 0.0, 'TCS Dec non-sidereal tracking rate ("/hr)'),
        ("AIRMASS", round(state.airmass if state else ephemeris.airmass(alt), 4), "Airmass (Hardie)"),
        ("DOME_AZ", round(az, 1), "Dome azimuth (deg)"),
        ("WINDSCAL", 0.0, "Windscreen elevation (deg)"),
        ("OBSERVAT", "Palomar Observatory", "Observatory"),
        ("TELESCOP", "Palomar 48-inch", "Observatory telescope"),
        ("OBSLON", ephemeris.LONGITUDE_DEG, "Observatory longitude (deg)"),
        ("OBSLAT", ephemeris.LATITUDE_DEG, "Observatory latitude (deg E)"),
        ("OBSALT", ephemeris.ALTITUDE_M, "Observatory altitude (m)"),
        ("DOMESTAT", "Open" if e.kind == "o" else "Closed", "Dome status at beginning of exposure"),
        ("SHUTOPEN", iso_time(e.jd), "Shutter open time"),
        ("SHUTCLSD", iso_time(end), "Shutter close time"),
    ]


def _end(e: PlannedExposure, ccdid: int) -> Cards:
    cards: Cards = [
        ("CDS0", "#eval RGsettleT", ""),
        ("CDS1", "#eval PixelT", "2 - 1"),
        ("CDS2", "#eval PixelT", "2 - 1 + SWsettleT"),
        ("CDS3", "#eval PixelT - 2", ""),
        ("PIXSCALX", 1.012, "Pixel scale in X"),
        ("PIXSCALY", 1.012, "Pixel scale in Y"),
        ("NFRAMES", 8, "number of frames in FITS file"),
        ("CCD_ID", ccdid, "ID value of CCD detector"),
        ("CCDNAME", f"S{ccdid:02d}", "Detector name or serial number"),
        ("HDUVERS", 1, ""),
    ]
    if e.kind == "f":
        led = filters.by_fid(e.fid).leds[e.index % len(filters.by_fid(e.fid).leds)]
        cards += [
            ("ILUM_LED", led, "Flat-screen LED"),
            ("ILUMWAVE", _LED_NM[led], "LED wavelength (nm)"),
            ("ILUMPOWR", 1.0, "LED power (relative)"),
        ]
    return cards


def quadrant_header(plan: Plan, exposure: PlannedExposure, rcid: int) -> fits.Header:
    """Header of a quadrant extension: amplifier facts and, on the sky, the nominal (not the true) mapping."""
    ccdid, qid = survey_camera.ccd_qid(rcid)
    header = fits.Header()
    header["CCD_ID"] = (ccdid, "ID value of CCD detector")
    header["CCDNAME"] = (f"S{ccdid:02d}", "Detector name or serial number")
    header["AMP_ID"] = (qid - 1, "ID value of CCD amplifier")
    header["AMP_NAME"] = ("HGFE"[qid - 1], "Name of CCD amplifier")
    header["GAIN"] = (GAIN_E_PER_DN, "Gain e-/adu")
    header["READNOI"] = (READ_NOISE_E, "Read noise e-")
    header["DARKCUR"] = (DARK_CURRENT_E_PER_S, "Dark current e-/s @ 150 K")
    if exposure.kind == "o":
        header.extend(plan.camera.approximate_wcs(exposure.ra, exposure.dec, ccdid, qid).to_header(), update=True)
    return header
