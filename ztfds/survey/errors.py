"""The exception tree of the library, ordered by consequence: what somebody has to do about it.

::

    ZtfdsError
     ├─ RetryLater           something is not there yet: try again later
     │   ├─ CalibrationMissing
     │   ├─ FilesMissing
     │   ├─ MissingCatalog
     │   └─ LockedByOther
     ├─ BadData              the data are bad: mark them, do not page anybody
     │   ├─ BadName  TruncatedFile  UnreadableFile  ChecksumMismatch  WrongSize  MissingKeyword
     │   ├─ OffGridField  Mislabelled  DuplicateFile  ConflictingDuplicate
     │   └─ AstrometryFailed  PhotometryFailed  PsfFailed  BadReference  BadDifference
     ├─ NoWork               nothing to do: not an error
     │   ├─ ReferenceMissing
     │   └─ AlreadyDone
     ├─ BugOrConfiguration   page somebody
     │   └─ ConfigurationError
     │       └─ BadCatalog
     ├─ ServiceDown          back off and try again
     │   ├─ DatabaseDown
     │   ├─ BrokerDown
     │   └─ StoreDown
     └─ AlreadyChanged       the change was made before: reconcile, do not retry

Every class carries a short stable ``code`` (kept in the database and in reports), whether a ``retry`` makes sense, and
the ``exit_code`` of a process that ends with it.
"""

from __future__ import annotations

from typing import ClassVar


class ZtfdsError(Exception):
    """Root of all errors that this library raises on purpose.

    Parameters
    ----------
    message : str
        What is wrong, with the numbers, in one sentence.
    exposure : str, optional
        Exposure name, ``ztf_<ffd>``.
    rcid : int, optional
        Readout channel 0..63.
    step : str, optional
        Name of the step that failed.
    attempt : int, optional
        Which try it was, from 1.
    """

    code: ClassVar[str] = "error"
    retry: ClassVar[bool] = False
    exit_code: ClassVar[int] = 64

    def __init__(
        self,
        message: str = "",
        *,
        exposure: str | None = None,
        rcid: int | None = None,
        step: str | None = None,
        attempt: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.exposure = exposure
        self.rcid = rcid
        self.step = step
        self.attempt = attempt

    def located(
        self,
        *,
        exposure: str | None = None,
        rcid: int | None = None,
        step: str | None = None,
        attempt: int | None = None,
    ) -> ZtfdsError:
        """Fill in what is not known yet about where the error happened; return the same error."""
        self.exposure = self.exposure if self.exposure is not None else exposure
        self.rcid = self.rcid if self.rcid is not None else rcid
        self.step = self.step if self.step is not None else step
        self.attempt = self.attempt if self.attempt is not None else attempt
        return self

    def __str__(self) -> str:
        known = [
            f"{key}={value}"
            for key, value in (
                ("exposure", self.exposure),
                ("rcid", self.rcid),
                ("step", self.step),
                ("attempt", self.attempt),
            )
            if value is not None
        ]
        return f"{self.message} [{', '.join(known)}]" if known else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.exposure, self.rcid, self.step, self.attempt))


def _rebuild(
    kind: type[ZtfdsError], message: str, exposure: str | None, rcid: int | None, step: str | None, attempt: int | None
) -> ZtfdsError:
    """Make the error again in another process (keyword arguments do not survive pickling by themselves)."""
    return kind(message, exposure=exposure, rcid=rcid, step=step, attempt=attempt)


class RetryLater(ZtfdsError):
    """Something that the step needs is not there yet; the same call may succeed later."""

    code, retry, exit_code = "retry_later", True, 32


class CalibrationMissing(RetryLater):
    """No accepted bias or flat is valid at this time for this readout channel."""

    code = "calibration_missing"


class FilesMissing(RetryLater):
    """A registered file is not on disk (yet)."""

    code = "files_missing"


class MissingCatalog(RetryLater):
    """The folder of static catalogs holds none of the kind that is needed (yet): no exposure is to blame."""

    code = "missing_catalog"


class LockedByOther(RetryLater):
    """Somebody else is making the same product at this moment."""

    code = "locked_by_other"


class BadData(ZtfdsError):
    """The data themselves are unusable: they are marked so, with the reason, and nobody is paged."""

    code, exit_code = "bad_data", 65


class BadName(BadData):
    """A file name that does not follow the naming rules."""

    code = "bad_name"


class TruncatedFile(BadData):
    """A file that ends before its headers say it should."""

    code = "truncated"


class UnreadableFile(BadData):
    """A file that is not FITS, or whose headers or compressed pixels cannot be decoded."""

    code = "unreadable"


class ChecksumMismatch(BadData):
    """A file whose content disagrees with its DATASUM, CHECKSUM or manifest checksum."""

    code = "checksum_mismatch"


class WrongSize(BadData):
    """Images that are not of the camera's size or number."""

    code = "wrong_size"


class MissingKeyword(BadData):
    """A header without a keyword that the reduction cannot do without, or with an unusable value."""

    code = "missing_keyword"


class OffGridField(BadData):
    """A field number that is not in the survey's grid."""

    code = "off_grid"


class Mislabelled(BadData):
    """A header that disagrees with the file name, or a pointing that disagrees with its field."""

    code = "mislabelled"


class DuplicateFile(BadData):
    """The very same file (name and content) came before."""

    code = "duplicate"


class ConflictingDuplicate(BadData):
    """A file of the same name but with other content came before."""

    code = "conflicting_duplicate"


class AstrometryFailed(BadData):
    """No trustworthy astrometric solution."""

    code = "astrometry_failed"


class PhotometryFailed(BadData):
    """No trustworthy photometric calibration."""

    code = "photometry_failed"


class PsfFailed(BadData):
    """No point-spread function could be made."""

    code = "psf_failed"


class BadReference(BadData):
    """A reference image that did not meet its quality limits."""

    code = "bad_reference"


class BadDifference(BadData):
    """A difference image that did not meet its quality limits: no alerts are made from it."""

    code = "bad_difference"


class NoWork(ZtfdsError):
    """There is nothing to do, and that is fine."""

    code, exit_code = "no_work", 0


class ReferenceMissing(NoWork):
    """No reference image exists for this field, channel and filter: the image stays without a difference."""

    code = "reference_missing"


class AlreadyDone(NoWork):
    """The product exists already with the same provenance."""

    code = "already_done"


class BugOrConfiguration(ZtfdsError):
    """A mistake in the code or the settings: a person has to look."""

    code, exit_code = "bug", 70


class ConfigurationError(BugOrConfiguration):
    """Settings that are contradictory, unknown or impossible."""

    code, exit_code = "configuration", 78


class BadCatalog(ConfigurationError):
    """A static catalog that is no table or lacks a column: no exposure is to blame."""

    code = "bad_catalog"


class ServiceDown(ZtfdsError):
    """A service does not answer: back off and try again."""

    code, retry, exit_code = "service_down", True, 75


class DatabaseDown(ServiceDown):
    """PostgreSQL does not answer."""

    code = "database_down"


class BrokerDown(ServiceDown):
    """Kafka does not answer."""

    code = "broker_down"


class StoreDown(ServiceDown):
    """The file store does not answer, is full or is read-only."""

    code = "store_down"


class AlreadyChanged(ZtfdsError):
    """The change was made before, perhaps by a lost attempt: reconcile, do not retry."""

    code, exit_code = "already_changed", 73


def all_classes(root: type[ZtfdsError] = ZtfdsError) -> list[type[ZtfdsError]]:
    """Every class of the tree, parents first."""
    return [root, *(found for child in root.__subclasses__() for found in all_classes(child))]


def class_of_code(code: str) -> type[ZtfdsError]:
    """Find the class from its stored ``code``; an unknown code is a ``BugOrConfiguration``."""
    return next((kind for kind in all_classes() if kind.code == code), BugOrConfiguration)
