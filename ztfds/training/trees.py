"""The boosted trees behind rb: fitting with scikit-learn, and the same trees as an ONNX file."""

from __future__ import annotations

from typing import Any

import numpy as np

from ztfds.difference.features import FEATURES
from ztfds.training.export import Graph

SETTINGS: dict[str, Any] = {
    "max_iter": 160,
    "learning_rate": 0.09,
    "max_leaf_nodes": 20,
    "min_samples_leaf": 40,
    "l2_regularization": 1.0,
}
UNKNOWN_SHARE = 0.08
"""Share of training rows that lose all of a catalog's features, as where a catalog has no data."""
_CATALOGS = (
    ("distnr", "reference_contrast", "sigmagnr", "chinr", "sharpnr"),
    ("neargaia", "gaia_contrast", "neargaiabright", "maggaiabright"),
    ("distpsnr1", "ps1_contrast", "sgscore1"),
)


def with_gaps(values: np.ndarray, seed: int) -> np.ndarray:
    """Features of which some rows know nothing of a catalog."""
    rng, out = np.random.default_rng([seed, 403]), values.copy()
    for names in _CATALOGS:
        rows = np.flatnonzero(rng.random(len(values)) < UNKNOWN_SHARE)
        for name in names:
            out[rows, FEATURES.index(name)] = np.nan
    return out


def fit(values: np.ndarray, real: np.ndarray, weights: np.ndarray, seed: int) -> Any:
    """Gradient-boosted trees (Friedman 2001, histograms as in LightGBM) on features with nulls."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(**SETTINGS, early_stopping=False, random_state=seed)
    return model.fit(with_gaps(values, seed).astype(np.float64), real, sample_weight=weights)


def predict(model: Any, values: np.ndarray) -> np.ndarray:
    """Log odds, (n,) float64."""
    return np.asarray(model.decision_function(values.astype(np.float64)))


def to_onnx(model: Any, slope: float, offset: float) -> bytes:
    """The trees with their calibration, input (n, features), as the content of an ONNX file.

    Thresholds are rounded towards minus infinity, so that x <= t decides alike for every float32 x.
    """
    nodes: dict[str, list[Any]] = {f"nodes_{name}": [] for name in _NODE}
    leaves: dict[str, list[Any]] = {f"target_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}
    for tree, (predictor,) in enumerate(model._predictors):
        for k, node in enumerate(predictor.nodes):
            _add_node(nodes, tree, k, node)
            if node["is_leaf"]:
                for name, value in zip(leaves, (tree, k, 0, float(node["value"])), strict=True):
                    leaves[name].append(value)
    graph = Graph((len(FEATURES),))
    base = float(np.ravel(model._baseline_prediction)[0])
    graph.calibrated(graph.trees("input", nodes | leaves), slope, offset + slope * base)
    return graph.content()


_NODE = (
    "treeids",
    "nodeids",
    "featureids",
    "modes",
    "values",
    "truenodeids",
    "falsenodeids",
    "missing_value_tracks_true",
)


def _add_node(nodes: dict[str, list[Any]], tree: int, k: int, node: np.void) -> None:
    """Append one node of one tree."""
    leaf = bool(node["is_leaf"])
    values = (
        tree,
        k,
        0 if leaf else int(node["feature_idx"]),
        "LEAF" if leaf else "BRANCH_LEQ",
        0.0 if leaf else _rounded_down(float(node["num_threshold"])),
        0 if leaf else int(node["left"]),
        0 if leaf else int(node["right"]),
        0 if leaf else int(node["missing_go_to_left"]),
    )
    for name, value in zip(_NODE, values, strict=True):
        nodes[f"nodes_{name}"].append(value)


def _rounded_down(value: float) -> float:
    """The largest float32 that is not above a number."""
    small = np.float32(value)
    return float(small if float(small) <= value else np.nextafter(small, np.float32(-np.inf)))
