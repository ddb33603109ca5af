"""File names of the survey and the places of files below the archive root (all paths relative, with ``/``)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ztfds.survey import ids
from ztfds.survey.errors import BadName
from ztfds.survey.filters import by_code

IMAGE_TYPES = {"o": "object", "b": "bias", "d": "dark", "f": "flat"}
"""Letter of the image type in file names, and the word in headers (IMGTYPE)."""
UNFILTERED_CODES = ("bi", "dk", "00", "OO")
"""Filter codes of frames taken without light: raw biases say ``bi``, darks ``dk``; ``00`` and ``OO`` occur as well."""
CALIBRATION_TYPES = ("bias", "hifreqflat", "lampcorr", "lownuflat")

_RAW = re.compile(r"ztf_(\d{14})_(\d{6})_(z[gri]|bi|dk|00|OO)_c(\d\d)_([obdf])\.fits(\.fz)?", re.ASCII)
_TELEMETRY = re.compile(r"ztf_(\d{8})_(\d{6})_telemetry\.ecsv", re.ASCII)
_MANIFEST = re.compile(r"ztf_(\d{8})_(manifest|calmanifest)\.json", re.ASCII)


@dataclass(frozen=True)
class RawName:
    """What the name of a raw CCD file says.

    Attributes
    ----------
    ffd : str
        ``YYYYMMDDdddddd``: UT date and microdays, a few seconds before the exposure's start.
    field : int
        Field number; 0 for calibration frames.
    filtercode : str
        ``zg``, ``zr``, ``zi``; one of `UNFILTERED_CODES` for biases and darks.
    ccdid : int
        CCD number, 1..16.
    imgtypecode : str
        ``o`` object, ``b`` bias, ``d`` dark, ``f`` flat.
    """

    ffd: str
    field: int
    filtercode: str
    ccdid: int
    imgtypecode: str

    @classmethod
    def parse(cls, filename: str) -> RawName:
        """Read a raw name, e.g. ``ztf_20190317307639_000712_zg_c08_o.fits.fz``; raise `BadName` with the reason."""
        found = _RAW.fullmatch(filename)
        if not found:
            raise BadName(f"{filename!r} is not a raw file name ztf_<ffd>_<field>_<filter>_c<CC>_<type>.fits.fz")
        ffd, field, code, ccdid, kind = found.group(1, 2, 3, 4, 5)
        try:
            ids.nid_of_date(ffd[:8])
        except BadName as error:
            raise BadName(f"{filename!r}: {error.message}") from None
        name = cls(ffd, int(field), code, int(ccdid), kind)
        if not 1 <= name.ccdid <= 16:
            raise BadName(f"{filename!r}: CCD {name.ccdid} is outside 1 to 16")
        if (kind in "bd") != (code in UNFILTERED_CODES):
            raise BadName(f"{filename!r}: a frame of type {IMAGE_TYPES[kind]} cannot have filter code {code}")
        return name

    @property
    def filename(self) -> str:
        """The file name again."""
        return f"{self.stem}.fits.fz"

    @property
    def stem(self) -> str:
        """The file name without its suffixes."""
        return f"ztf_{self.ffd}_{self.field:06d}_{self.filtercode}_c{self.ccdid:02d}_{self.imgtypecode}"

    @property
    def exposure(self) -> str:
        """Name of the exposure, common to its CCD files: ``ztf_<ffd>``."""
        return f"ztf_{self.ffd}"

    @property
    def date(self) -> str:
        """UT date, ``YYYYMMDD``."""
        return self.ffd[:8]

    @property
    def nid(self) -> int:
        """Night number."""
        return ids.nid_of_date(self.date)

    @property
    def fid(self) -> int:
        """Filter number; 0 without a filter."""
        return 0 if self.filtercode in UNFILTERED_CODES else by_code(self.filtercode).fid

    @property
    def is_calibration(self) -> bool:
        """Whether it is a bias, dark or flat."""
        return self.imgtypecode != "o"


def split_product_filename(filename: str) -> tuple[RawName, int, str]:
    """Take an epochal product's name apart into the raw name, the quadrant and the suffix (``sciimg.fits``)."""
    found = re.fullmatch(r"(ztf_\w+_c\d\d_[obdf])_q([1-4])_(.+)", filename)
    if not found:
        raise BadName(f"{filename!r} is not the name of a quadrant product")
    return RawName.parse(f"{found[1]}.fits.fz"), int(found[2]), found[3]


def product_filename(name: RawName, qid: int, suffix: str) -> str:
    """Name of a quadrant's product: ``ztf_<ffd>_<field>_<zX>_cCC_<t>_qQ_<suffix>``, suffix e.g. ``sciimg.fits``."""
    return f"{name.stem}_q{qid}_{suffix}"


def calibration_filename(date: str, filtercode: str, ccdid: int, qid: int, suffix: str) -> str:
    """Name of a calibration product: ``ztf_YYYYMMDD_<zX|00>_cCC_qQ_<suffix>``, suffix e.g. ``bias.fits``."""
    code = "00" if filtercode in UNFILTERED_CODES else filtercode
    return f"ztf_{date}_{code}_c{ccdid:02d}_q{qid}_{suffix}"


def reference_filename(field: int, filtercode: str, ccdid: int, qid: int, suffix: str) -> str:
    """Name of a reference product: ``ztf_FFFFFF_<zX>_cCC_qQ_<suffix>``, suffix e.g. ``refimg.fits``."""
    return f"ztf_{field:06d}_{filtercode}_c{ccdid:02d}_q{qid}_{suffix}"


def _versioned(folder: str, filename: str, version: int) -> str:
    """Later versions of a product keep its name but live one folder below, so that none overwrites another."""
    return f"{folder}/{filename}" if version <= 1 else f"{folder}/v{version:03d}/{filename}"


def raw_path(name: RawName) -> str:
    """Place of a raw file: ``raw/YYYY/MMDD/dddddd/<name>``."""
    return f"raw/{name.ffd[:4]}/{name.ffd[4:8]}/{name.ffd[8:]}/{name.filename}"


def sci_path(name: RawName, qid: int, suffix: str, version: int = 1) -> str:
    """Place of a product of one quadrant: ``sci/YYYY/MMDD/dddddd/<name>``."""
    folder = f"sci/{name.ffd[:4]}/{name.ffd[4:8]}/{name.ffd[8:]}"
    return _versioned(folder, product_filename(name, qid, suffix), version)


def cal_path(date: str, caltype: str, filtercode: str, ccdid: int, qid: int, suffix: str, version: int = 1) -> str:
    """Place of a calibration product: ``cal/YYYY/MMDD/<bias|hifreqflat|...>/<zX|00>/ccdCC/qQ/<name>``."""
    if caltype not in CALIBRATION_TYPES:
        raise BadName(f"no calibration product is called {caltype!r}")
    code = "00" if filtercode in UNFILTERED_CODES else filtercode
    folder = f"cal/{date[:4]}/{date[4:]}/{caltype}/{code}/ccd{ccdid:02d}/q{qid}"
    return _versioned(folder, calibration_filename(date, filtercode, ccdid, qid, suffix), version)


def ref_path(field: int, filtercode: str, ccdid: int, qid: int, suffix: str, version: int = 1) -> str:
    """Place of a reference product: ``ref/<000|001>/fieldFFFFFF/<zX>/ccdCC/qQ/<name>``."""
    folder = f"ref/{field // 1000:03d}/field{field:06d}/{filtercode}/ccd{ccdid:02d}/q{qid}"
    return _versioned(folder, reference_filename(field, filtercode, ccdid, qid, suffix), version)


def quarantine_path(filename: str, date: str, sha256: str) -> str:
    """Place of an unusable file: by arrival date, and its checksum so that two files of one name can be kept."""
    return f"quarantine/{date}/{sha256[:12]}/{filename}"


def depot_path(date: str, filename: str) -> str:
    """Place of short-lived files for people, by night: ``depot/YYYYMMDD/<name>``."""
    return f"depot/{date}/{filename}"


def alert_path(date: str, candid: int) -> str:
    """Place of one alert packet in the alert archive: ``alerts/YYYYMMDD/<candid>.avro``."""
    return f"alerts/{date}/{candid}.avro"


def alert_archive_path(date: str, version: int = 1) -> str:
    """Place of the archive of a night's public packets: ``alerts/YYYYMMDD/ztf_public_YYYYMMDD.tar.gz``."""
    return _versioned(f"alerts/{date}", f"ztf_public_{date}.tar.gz", version)


def manifest_filename(date: str, part: str = "night") -> str:
    """Name of the mountain's list of files sent: part ``night`` (end of night) or ``calibration`` (afternoon)."""
    if part not in ("night", "calibration"):
        raise BadName(f"a manifest is of the night or the calibration, not {part!r}")
    return f"ztf_{date}_{'manifest' if part == 'night' else 'calmanifest'}.json"


def parse_manifest_filename(filename: str) -> tuple[str, str]:
    """Take a manifest's name apart into date ``YYYYMMDD`` and part; raise `BadName` if it is not one."""
    found = _MANIFEST.fullmatch(filename)
    if not found:
        raise BadName(f"{filename!r} is not the name of a manifest")
    ids.nid_of_date(found[1])
    return found[1], "night" if found[2] == "manifest" else "calibration"


def telemetry_filename(date: str, clock: str) -> str:
    """Name of a file of telemetry: ``ztf_YYYYMMDD_HHMMSS_telemetry.ecsv``, by the UT of its first reading."""
    return f"ztf_{date}_{clock}_telemetry.ecsv"


def parse_telemetry_filename(filename: str) -> tuple[str, str]:
    """Take a telemetry file's name apart into date ``YYYYMMDD`` and clock ``HHMMSS``; raise `BadName` if it is not one."""
    found = _TELEMETRY.fullmatch(filename)
    if not found or found[2][:2] > "23" or found[2][2:4] > "59" or found[2][4:] > "59":
        raise BadName(f"{filename!r} is not the name of a telemetry file ztf_<date>_<clock>_telemetry.ecsv")
    ids.nid_of_date(found[1])
    return found[1], found[2]


def telemetry_path(filename: str) -> str:
    """Place of a telemetry file: ``telemetry/YYYY/MMDD/<name>``."""
    date, _ = parse_telemetry_filename(filename)
    return f"telemetry/{date[:4]}/{date[4:]}/{filename}"


def topic_name(date: str, programid: int) -> str:
    """Kafka topic of one night and program: ``ztf_YYYYMMDD_programid<n>``."""
    return f"ztf_{date}_programid{programid}"
