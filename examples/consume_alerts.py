"""Read alerts from Kafka, print a line for each, and plot some: what a broker's first program may look like.

Needs confluent-kafka, fastavro, astropy, numpy, matplotlib; nothing of ztfds.

    python examples/consume_alerts.py localhost:9092 ztf_20181203_programid1 --plots alerts/
    python examples/consume_alerts.py --files 4.02/samples/*.avro --plots alerts/
"""

from __future__ import annotations

import argparse
import gzip
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import fastavro
import matplotlib
import numpy as np
from astropy.io import fits

matplotlib.use("agg")
import matplotlib.pyplot as plt

COLOURS = {1: "tab:green", 2: "tab:red", 3: "tab:brown"}
CUTOUTS = ("cutoutScience", "cutoutTemplate", "cutoutDifference")


def alerts_of(content: bytes) -> Iterator[dict]:
    """Alerts in an Avro container; every message is one, with its schema in front."""
    yield from fastavro.reader(io.BytesIO(content))


def from_kafka(servers: str, topic: str, group: str, idle_s: float) -> Iterator[dict]:
    """Alerts of a topic, from where this group stopped the last time, until nothing comes for a while."""
    from confluent_kafka import Consumer

    settings = {"bootstrap.servers": servers, "group.id": group, "auto.offset.reset": "earliest"}
    consumer = Consumer({**settings, "isolation.level": "read_committed"})
    consumer.subscribe([topic])
    try:
        while (message := consumer.poll(idle_s)) is not None:
            if message.error():
                raise RuntimeError(message.error().str())
            yield from alerts_of(message.value())
    finally:
        consumer.close()


def from_files(paths: list[Path]) -> Iterator[dict]:
    """Alerts in files, such as the samples of the schema or members of a nightly archive."""
    for path in paths:
        yield from alerts_of(path.read_bytes())


def line(alert: dict) -> str:
    """One alert in one line."""
    c, past = alert["candidate"], alert["prv_candidates"] or []
    detections = sum(row["candid"] is not None for row in past)
    sign = "+" if c["isdiffpos"] in ("t", "1") else "-"
    return (
        f"{alert['objectId']} {alert['candid']} {'gri'[c['fid'] - 1]}{sign} {c['magpsf']:6.2f} +- {c['sigmapsf']:.2f}"
        f"  {c['ra']:10.5f} {c['dec']:+9.5f}  rb {c['rb']:.2f}  {detections} detections, {len(past) - detections} limits,"
        f" {len(alert['fp_hists'] or [])} forced"
    )


def stamp(cutout: dict) -> np.ndarray:
    """Pixels of a cutout, DN."""
    with fits.open(io.BytesIO(gzip.decompress(cutout["stampData"]))) as hdus:
        return hdus[0].data.astype(float)


def plot(alert: dict, path: Path) -> None:
    """The three cutouts, the light curve of detections and limits, and the forced fluxes."""
    figure = plt.figure(figsize=(11, 5.5), layout="constrained")
    grid = figure.add_gridspec(2, 6)
    for k, key in enumerate(CUTOUTS):
        axis = figure.add_subplot(grid[0, 2 * k : 2 * k + 2])
        if alert[key]:
            pixels = stamp(alert[key])
            low, high = np.nanpercentile(pixels, (2, 99.7))
            axis.imshow(pixels, origin="lower", cmap="gray", vmin=low, vmax=high)
        axis.set(title=key.removeprefix("cutout"), xticks=[], yticks=[])
    now, past = alert["candidate"], alert["prv_candidates"] or []
    mags = figure.add_subplot(grid[1, :3])
    for row in (*past, now):
        colour, day = COLOURS[row["fid"]], row["jd"] - now["jd"]
        if row["candid"] is None:
            mags.plot(day, row["diffmaglim"], "v", color=colour, alpha=0.4)
        else:
            mags.errorbar(day, row["magpsf"], row["sigmapsf"], fmt="o", color=colour)
    mags.invert_yaxis()
    mags.set(xlabel="days before the alert", ylabel="magpsf, limits")
    flux = figure.add_subplot(grid[1, 3:])
    for row in alert["fp_hists"] or []:
        if row["forcediffimflux"] is not None and row["forcediffimfluxunc"] > 0:
            micro = 3631e6 * 10 ** (-0.4 * row["magzpsci"])  # microjansky per DN
            clean = row["procstatus"] == "0"
            flux.errorbar(
                row["jd"] - now["jd"], micro * row["forcediffimflux"], micro * row["forcediffimfluxunc"],
                fmt="o" if clean else "x", color=COLOURS[row["fid"]],
            )  # fmt: skip
    flux.set(xlabel="days before the alert", ylabel="forced flux [uJy]")
    figure.suptitle(f"{alert['objectId']}  {alert['candid']}")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Read, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="?", help="bootstrap servers, host:port")
    parser.add_argument("topic", nargs="?", help="e.g. ztf_20181203_programid1")
    parser.add_argument("--files", nargs="+", type=Path, default=[], help="read files instead of a topic")
    parser.add_argument("--group", default="consume_alerts", help="consumer group: each gets every alert once")
    parser.add_argument("--idle", type=float, default=10.0, help="stop when nothing comes for so long [s]")
    parser.add_argument("--plots", type=Path, help="folder for plots")
    parser.add_argument("--most", type=int, default=20, help="plot at most so many")
    options = parser.parse_args()
    if not options.files and not options.topic:
        parser.error("name the servers and a topic, or files")
    alerts = (
        from_files(options.files)
        if options.files
        else from_kafka(options.servers, options.topic, options.group, options.idle)
    )
    if options.plots:
        options.plots.mkdir(parents=True, exist_ok=True)
    for number, alert in enumerate(alerts):
        sys.stdout.write(line(alert) + "\n")
        if options.plots and number < options.most:
            plot(alert, options.plots / f"{alert['candid']}.png")


if __name__ == "__main__":
    main()
