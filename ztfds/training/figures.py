"""Pictures of the real/bogus models for the documents: error rates, reliability, what the network is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ztfds.training.evaluate import reliability
from ztfds.training.labels import KINDS
from ztfds.training.samples import Samples, unpacked

_NAMES = {"rb": "rb (trees)", "drb": "drb (network)"}
_COLOURS = {"rb": "#1f6f8b", "drb": "#c0582b"}


def rates(path: Path, scores: dict[str, np.ndarray], real: np.ndarray) -> None:
    """False negatives against false positives, and the reliability of both scores."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), dpi=90, layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, values in scores.items():
        cuts = np.quantile(values[~real], 1 - np.geomspace(1e-3, 0.5, 60))
        missed = [np.mean(values[real] <= cut) for cut in cuts]
        left.loglog(np.geomspace(1e-3, 0.5, 60), np.maximum(missed, 1e-4), color=_COLOURS[name], label=_NAMES[name])
        bins = reliability(values, real)
        right.errorbar(
            [b["score"] for b in bins], [b["real"] for b in bins], [b["error"] for b in bins], fmt="o-", ms=4,
            color=_COLOURS[name], label=_NAMES[name],
        )  # fmt: skip
    left.plot([0.02], [0.02], "k+", ms=12, label="2 % at 2 %")
    left.set(xlabel="false positives", ylabel="false negatives")
    right.plot([0, 1], [0, 1], "k:", lw=1)
    right.set(xlabel="score", ylabel="share of real candidates")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    _save(figure, path)


def examples(path: Path, samples: Samples) -> None:
    """One candidate of each kind: science, template, difference."""
    from matplotlib.figure import Figure

    rows = [(k, np.flatnonzero(samples.meta["kind"] == k)) for k in range(len(KINDS))]
    chosen = [(k, r[len(r) // 2]) for k, r in rows if len(r)]
    figure = Figure(figsize=(0.95 * len(chosen), 2.9), dpi=80, layout="constrained")
    axes = figure.subplots(3, len(chosen), squeeze=False)
    for column, (kind, row) in zip(axes.T, chosen, strict=True):
        planes = unpacked(samples.stamps[row : row + 1])[0, :3]
        for axis, plane in zip(column, planes, strict=True):
            axis.imshow(plane, cmap="gray", vmin=-0.4, vmax=1.2, origin="lower")
            axis.set(xticks=[], yticks=[])
        column[0].set_title(KINDS[kind], fontsize=8)
    _save(figure, path)


def _save(figure, path: Path) -> None:  # type: ignore[no-untyped-def]
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="jpg", pil_kwargs={"quality": 80})
