"""Getting a file from a URL or a path, whole or not at all: limits of time and size, retries, unpacking."""

from __future__ import annotations

import gzip
import http.client
import io
import logging
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ztfds.config.solarsystem import RefreshConfig
from ztfds.survey.errors import BadData, ConfigurationError, ServiceDown, TruncatedFile, WrongSize

log = logging.getLogger(__name__)

_CHUNK = 1 << 20
_AGENT = "ztfds"
_GZIP = b"\x1f\x8b"


class Readable(Protocol):
    """Anything that gives bytes piece by piece."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""


def get(source: str, config: RefreshConfig, sleep: Callable[[float], None] = time.sleep) -> bytes:
    """Content of a URL (http, https) or of a file, as it is offered.

    Parameters
    ----------
    source : str
        URL or path.
    config : RefreshConfig
        Limits and tries.
    sleep : callable
        Waits between tries, s.

    Raises
    ------
    ServiceDown
        The source cannot be reached, or breaks off, in every try.
    WrongSize
        It is larger than the limit.
    ConfigurationError
        It is neither a URL nor an absolute path.
    """
    if "://" not in source:
        return _file(source, config)
    if not source.startswith(("http://", "https://")):
        raise ConfigurationError(f"{source!r} is no http or https URL, and no path")
    for attempt in range(1, config.tries + 1):
        try:
            return _download(source, config)
        except ServiceDown as error:
            if attempt == config.tries:
                raise
            pause = config.pause_s * 2 ** (attempt - 1)
            log.warning("try %d of %d: %s; again in %.0f s", attempt, config.tries, error, pause)
            sleep(pause)
    raise AssertionError("unreachable")


def _file(source: str, config: RefreshConfig) -> bytes:
    """Content of a file."""
    path = Path(source)
    if not path.is_absolute():
        raise ConfigurationError(f"{source!r} is no absolute path and no URL")
    try:
        with path.open("rb") as stream:
            return _limited(stream, config.max_bytes, source)
    except OSError as error:
        raise ServiceDown(f"{source} cannot be read: {error.strerror or error}") from error


def _download(source: str, config: RefreshConfig) -> bytes:
    """One try."""
    request = urllib.request.Request(source, headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"})
    try:
        with urllib.request.urlopen(request, timeout=config.timeout_s) as answer:
            content = _limited(answer, config.max_bytes, source, time.monotonic() + config.total_timeout_s)
            promised = answer.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        raise ServiceDown(f"{source} answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise ServiceDown(f"{source} cannot be had: {getattr(error, 'reason', None) or error}") from error
    if promised and promised.isdigit() and int(promised) != len(content):
        raise ServiceDown(f"{source} broke off: {len(content)} of {promised} bytes")
    return content


def _limited(stream: Readable, limit: int, source: str, deadline: float = float("inf")) -> bytes:
    """Read to the end, but no more than the limit and no longer than until the deadline."""
    out = io.BytesIO()
    while piece := stream.read(_CHUNK):
        if out.tell() + len(piece) > limit:
            raise WrongSize(f"{source} has more than {limit} bytes")
        if time.monotonic() > deadline:
            raise ServiceDown(f"{source} is too slow: {out.tell()} bytes in the time allowed")
        out.write(piece)
    return out.getvalue()


def unpacked(content: bytes, limit: int) -> bytes:
    """The text of a file that may be gzipped.

    Raises
    ------
    TruncatedFile, BadData
        It is cut off or damaged.
    WrongSize
        It unpacks to more than the limit.
    """
    if not content.startswith(_GZIP):
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            return _limited(stream, limit, "the unpacked file")
    except EOFError as error:
        raise TruncatedFile(f"the gzip file is cut off after {len(content)} bytes") from error
    except (OSError, zlib.error) as error:
        raise BadData(f"the gzip file is damaged: {error}") from error
