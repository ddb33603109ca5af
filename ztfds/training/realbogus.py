"""Make, fit and judge the real/bogus models: `python -m ztfds.training.realbogus make|fit|judge`; docs/science/realbogus.md."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ztfds.difference import score
from ztfds.formats.atomic import write_atomic
from ztfds.survey.errors import BugOrConfiguration, FilesMissing
from ztfds.training import evaluate, figures, network, samples, trees
from ztfds.training.labels import KINDS
from ztfds.training.samples import Samples
from ztfds.training.scenes import SceneSpec

log = logging.getLogger(__name__)

HOME = Path("var/training/realbogus")
FIRST_SEED, FIRST_JUDGE, FIRST_RICH_JUDGE = 101, 1101, 1201
CALIBRATING = 5
"""One training scene in five (101, 106, ...) is kept for the calibration of the scores."""
EPOCHS = 20.0
CLEAR_SCORR = 6.0
"""Above this |Scorr| hardly any noise peak is left: one in a quadrant of 9.5 million pixels at 5.6."""
PARITY = 1e-4
"""Largest difference of a score between the fitted model and its file."""
WAYS = {"rb": "gradient-boosted trees on features", "drb": "convolutional network on the three cutouts"}


def training_scenes(n: int = 30) -> list[SceneSpec]:
    """Scenes to fit and calibrate on: every third in the Galactic plane, all rich in artefacts, seeds 101 and on."""
    return [_scene(FIRST_SEED + k, k % 3 == 2, True) for k in range(n)]


def judging_scenes(n: int = 10, n_rich: int = 6) -> list[SceneSpec]:
    """Scenes to judge with: ordinary nights (seeds 1101 and on) and artefact-rich ones (1201 and on)."""
    ordinary = [_scene(FIRST_JUDGE + k, k % 2 == 1, False) for k in range(n)]
    return ordinary + [_scene(FIRST_RICH_JUDGE + k, k % 2 == 1, True) for k in range(n_rich)]


def _scene(seed: int, plane: bool, rich: bool) -> SceneSpec:
    return SceneSpec(seed, "plane" if plane else "quiet", rich, 640 if plane else 1024)


def scene_path(home: Path, spec: SceneSpec) -> Path:
    """Where the candidates of a scene are kept."""
    return home / "scenes" / f"{spec.sky}-{spec.seed}.npz"


def make(home: Path, scenes: Sequence[SceneSpec]) -> None:
    """Simulate scenes, difference them and keep their candidates; scenes that are there are left alone."""
    for spec in scenes:
        path = scene_path(home, spec)
        if path.exists():
            continue
        start = time.process_time()
        made = samples.of_scene(spec)
        samples.write(path, made)
        log.info(
            "%s-%d: %d candidates, %d real, %.0f CPU-s",
            spec.sky, spec.seed, len(made), made.real.sum(), time.process_time() - start,
        )  # fmt: skip


def gathered(home: Path, scenes: Sequence[SceneSpec]) -> Samples:
    """The candidates of those scenes that have been made.

    Raises
    ------
    FilesMissing
        None has.
    """
    there = [path for spec in scenes if (path := scene_path(home, spec)).exists()]
    if not there:
        raise FilesMissing(f"no candidates in {home}: run `python -m ztfds.training.realbogus make` first")
    return samples.joined(samples.read(path) for path in there)


def fit(given: Samples, folder: Path, *, release: int, seed: int = 1, epochs: float = EPOCHS) -> dict[str, Any]:
    """Fit both models, calibrate them, write them and their card.

    Parameters
    ----------
    given : Samples
        One in `CALIBRATING` of its scenes is used for the calibration alone.
    folder : Path
        Gets rb.onnx, drb.onnx and card.json.
    release : int
        Number in the versions of the models.
    seed : int
        Of the models' initial weights, drop-out and order of samples.
    epochs : float
        How often the network sees the set.

    Returns
    -------
    dict
        The card.
    """
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    held = given.meta["seed"] % CALIBRATING == FIRST_SEED % CALIBRATING
    fitting, held_out = given[~held], given[held]
    if not (0 < fitting.real.mean() < 1 and 0 < held_out.real.mean() < 1):
        raise BugOrConfiguration("real and bogus candidates are needed, to fit and to calibrate with")
    weights = evaluate.balanced(fitting.meta)
    entries = {}
    for name, how in (("rb", _fit_trees), ("drb", _fit_network)):
        start = time.process_time()
        content, values = how(fitting, held_out, weights, seed, epochs)
        _check_parity(name, content, held_out, values)
        write_atomic(folder / f"{name}.onnx", content)
        entries[name] = _entry(name, content, release, values, held_out)
        log.info("%s fitted and calibrated in %.0f CPU-s", name, time.process_time() - start)
    card = {**entries, "training": _description(fitting, held_out, seed, epochs)}
    write_card(folder, card)
    return card


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write card.json."""
    write_atomic(folder / score.CARD, (json.dumps(card, indent=1, sort_keys=True) + "\n").encode())


def _fit_trees(
    fitting: Samples, held_out: Samples, weights: np.ndarray, seed: int, epochs: float
) -> tuple[bytes, np.ndarray]:
    """File and calibrated scores of the held-out candidates of the tree model."""
    model = trees.fit(fitting.features, fitting.real, weights, seed)
    odds = trees.predict(model, held_out.features)
    slope, offset = calibration(odds, held_out)
    return trees.to_onnx(model, slope, offset), _logistic(slope * odds + offset)


def _fit_network(
    fitting: Samples, held_out: Samples, weights: np.ndarray, seed: int, epochs: float
) -> tuple[bytes, np.ndarray]:
    """File and calibrated scores of the held-out candidates of the network."""
    parameters = network.fit(fitting, weights, seed=seed, epochs=epochs)
    odds = network.predict(parameters, held_out.stamps)
    slope, offset = calibration(odds, held_out)
    return network.to_onnx(parameters, slope, offset), _logistic(slope * odds + offset)


def calibration(odds: np.ndarray, held_out: Samples, steps: int = 60) -> tuple[float, float]:
    """Slope and offset that make log odds those of the truth (Platt 1999): Newton steps of the weighted logistic regression."""
    weights, real = evaluate.balanced(held_out.meta), held_out.real.astype(float)
    rows = np.column_stack([odds, np.ones(odds.size)])
    at = np.array([1.0, 0.0])
    for _ in range(steps):
        p = _logistic(rows @ at)
        slope = rows.T @ (weights * (p - real)) + 1e-3 * (at - [1.0, 0.0])
        curvature = (rows * (weights * p * (1 - p))[:, None]).T @ rows + 1e-3 * np.eye(2)
        at = at - np.clip(np.linalg.solve(curvature, slope), -0.5, 0.5)
    return float(max(at[0], 1e-3)), float(at[1])


def _logistic(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(odds, -50, 50)))


def _check_parity(name: str, content: bytes, held_out: Samples, values: np.ndarray) -> None:
    """Raise `BugOrConfiguration` unless the file scores as the fitted model does."""
    made = score.Model(name, score.session_of(content)).scores(_input(name, held_out))
    worst = float(np.abs(made - values).max())
    if not worst < PARITY:
        raise BugOrConfiguration(f"{name}.onnx differs from the fitted model by {worst:.2g}")


def _input(name: str, given: Samples) -> np.ndarray:
    return given.features if name == "rb" else samples.unpacked(given.stamps)


def _entry(name: str, content: bytes, release: int, values: np.ndarray, held_out: Samples) -> dict[str, Any]:
    """What the card says of one model."""
    found = evaluate.summary(values, held_out.meta)
    return {
        "file": f"{name}.onnx",
        "version": f"{'trees' if name == 'rb' else 'net'}_{release}",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "method": WAYS[name],
        "held_out": {key: found.get(key) for key in ("auc", "false_negatives", "error", "n_real", "n_bogus")},
    }


def _description(fitting: Samples, held_out: Samples, seed: int, epochs: float) -> dict[str, Any]:
    """What the card says of the data."""
    kinds, counts = np.unique(fitting.meta["kind"], return_counts=True)
    return {
        "seed": seed,
        "network_epochs": epochs,
        "scenes": sorted(int(s) for s in np.unique(fitting.meta["seed"])),
        "calibration_scenes": sorted(int(s) for s in np.unique(held_out.meta["seed"])),
        "candidates": {KINDS[k]: int(n) for k, n in zip(kinds, counts, strict=True)},
    }


def judge(given: Samples, folder: Path, pictures: Path | None = None) -> dict[str, Any]:
    """Score candidates of nights that no model has seen, and write what comes out to the card.

    Parameters
    ----------
    given : Samples
    folder : Path
        Of the models and their card.
    pictures : Path, optional
        Folder for the figures of the documents.

    Returns
    -------
    dict
        For each score: error rates on ordinary and on artefact-rich nights, false candidates per quadrant.
    """
    scores = {name: score.load(folder, name).scores(_input(name, given)) for name in score.SCORES}
    out: dict[str, Any] = {name: _judged(values, given) for name, values in scores.items()}
    out["scenes"] = sorted(int(s) for s in np.unique(given.meta["seed"]))
    write_card(folder, {**score.read_card(folder), "judged": out})
    if pictures is not None:
        figures.rates(pictures / "realbogus-rates.jpg", scores, given.real)
        figures.examples(pictures / "realbogus-kinds.jpg", given)
    return out


def _judged(values: np.ndarray, given: Samples) -> dict[str, Any]:
    """Figures of one score."""
    meta = given.meta
    out: dict[str, Any] = {"all": evaluate.summary(values, meta)}
    sets = {"ordinary quiet": (False, False), "ordinary plane": (False, True), "rich quiet": (True, False)}
    for name, (rich, plane) in (sets | {"rich plane": (True, True)}).items():
        rows = (meta["rich"] == rich) & (meta["plane"] == plane)
        out[name] = evaluate.summary(values[rows], meta[rows])
        if not rich:
            mpx = _searched(given, plane)
            out[name]["per_quadrant"] = evaluate.false_per_quadrant(values[rows], meta[rows], mpx)
            for what, cut in (
                ("triggered", meta["trigger"]),
                ("clear", meta["trigger"] & (meta["scorr"] >= CLEAR_SCORR)),
            ):
                some = rows & cut
                out[name][f"per_quadrant_{what}"] = evaluate.false_per_quadrant(values[some], meta[some], mpx)
    return out


def _searched(given: Samples, plane: bool) -> float:
    """Area of the ordinary nights' differences of one sort of field, 1e6 pixels."""
    rows = (given.meta["plane"] == plane) & ~given.meta["rich"]
    pairs = np.unique(given.meta[rows][["seed", "pair"]]).size
    return pairs * _scene(0, plane, False).side_px ** 2 / 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m ztfds.training.realbogus", description=__doc__)
    parser.add_argument("what", nargs="+", choices=("make", "fit", "judge"))
    parser.add_argument("--home", type=Path, default=HOME, help="folder of the candidates that are made")
    parser.add_argument("--models", type=Path, default=score.model_folder(), help="folder of the models")
    parser.add_argument("--scenes", type=int, default=30, help="number of training scenes")
    parser.add_argument("--release", type=int, default=1, help="number in the versions of the models")
    parser.add_argument("--epochs", type=float, default=EPOCHS, help="how often the network sees the set")
    parser.add_argument("--pictures", type=Path, help="folder for figures")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("astropy").setLevel(logging.ERROR)
    if "make" in given.what:
        make(given.home, [*training_scenes(given.scenes), *judging_scenes()])
    if "fit" in given.what:
        every = gathered(given.home, training_scenes(given.scenes))
        fit(every, given.models, release=given.release, epochs=given.epochs)
    if "judge" in given.what:
        found = judge(gathered(given.home, judging_scenes()), given.models, given.pictures)
        log.info("%s", json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
