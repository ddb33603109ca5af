"""How the pages are drawn: templates, small SVG plots, and PNG pictures of pixels."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import jinja2
import numpy as np

import ztfds
from ztfds.survey import ids

STATE_COLOURS = {
    "processed": "#1a7f4b",
    "calibrated": "#7a9e1f",
    "calibration": "#5c6878",
    "processing": "#2f6fb5",
    "arriving": "#8db4dc",
    "incomplete": "#c77700",
    "bad": "#b3261e",
    "failed": "#7c1d6f",
    "missing": "#7c1d6f",
}
"""One colour for each state of an exposure, the same on all pages."""


ROOT = "/ztfds"
"""Where the pages are, below the address of Airflow's api-server."""


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("ztfds.operations", "templates/pages")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["seconds"] = lambda value: "–" if value is None else f"{value:.0f} s"
    environment.filters["number"] = lambda value, digits=2: "–" if value is None else f"{value:.{digits}f}"
    environment.filters["clock"] = lambda value: "–" if value is None else value.strftime("%H:%M:%S")
    environment.globals.update(root=ROOT, colours=STATE_COLOURS, release=ztfds.__version__, night_date=ids.night_date)
    return environment


def page(template: str, **values: Any) -> str:
    """One page as HTML without references to other hosts.

    Parameters
    ----------
    template : str
        Name of the template without its ending.
    values
        What it shows.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    return _environment().get_template(f"{template}.html.j2").render(now=now, **values)


def bars(values: Sequence[float], limit: float | None = None, width: int = 640, height: int = 90) -> dict[str, Any]:
    """Geometry of a bar chart.

    Parameters
    ----------
    values : sequence of float
        Heights, in order; NaN draws nothing.
    limit : float, optional
        Value at which a line is drawn; the axis reaches it.
    width, height : int
        Size, CSS pixels.

    Returns
    -------
    dict
        ``width height top rects line``: the axis' upper end, (x, y, w, h) of each bar, and the line's y or None.
    """
    heights = np.nan_to_num(np.asarray(values, float))
    top = max([*heights.tolist(), limit or 0.0, 1e-9])
    step = width / max(len(heights), 1)
    rects = [
        (
            round(i * step, 2),
            round(height * (1 - h / top), 2),
            round(max(step - 0.5, 0.5), 2),
            round(height * h / top, 2),
        )
        for i, h in enumerate(heights)
    ]
    line = None if limit is None else round(height * (1 - limit / top), 2)
    return {"width": width, "height": height, "top": top, "rects": rects, "line": line}


def png(pixels: np.ndarray, low_percent: float = 2.0, high_percent: float = 99.5) -> bytes:
    """A grey picture of pixels, first row below.

    Parameters
    ----------
    pixels : (ny, nx) float
        NaN is drawn black.
    low_percent, high_percent : float
        Percentiles of the values that are drawn black and white.
    """
    finite = pixels[np.isfinite(pixels)]
    low, high = np.percentile(finite, [low_percent, high_percent]) if finite.size else (0.0, 1.0)
    scaled = np.clip((np.nan_to_num(pixels, nan=low) - low) / max(high - low, 1e-9), 0, 1)
    grey = np.round(255 / np.arcsinh(3) * np.arcsinh(3 * scaled)).astype(np.uint8)
    return _grey_png(grey[::-1])


def _grey_png(grey: np.ndarray) -> bytes:
    """A PNG file of 8-bit grey values, (ny, nx) uint8, first row above; for a cutout a hundredth of the time of a plotting library."""
    lines = np.zeros((grey.shape[0], grey.shape[1] + 1), np.uint8)  # each line begins with its filter: none
    lines[:, 1:] = grey
    header = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 4)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def data_uri(content: bytes) -> str:
    """A PNG picture inside of a page."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def binned(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Mean of blocks of factor x factor pixels without NaN (the remainder at the upper edges is dropped).

    Parameters
    ----------
    pixels : (ny, nx) float32
    factor : int
    """
    ny, nx = (size // factor for size in pixels.shape)
    blocks = pixels[: ny * factor, : nx * factor].reshape(ny, factor, nx, factor)
    good = np.isfinite(blocks)
    count = good.sum(axis=(1, 3))
    total = np.where(good, blocks, 0).sum(axis=(1, 3), dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
