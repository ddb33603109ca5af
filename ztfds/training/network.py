"""The network behind drb: fitting with JAX on one core, and the same network as an ONNX file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ztfds.training.export import Graph
from ztfds.training.samples import NULL, STEP, Samples

log = logging.getLogger(__name__)

Parameters = dict[str, Any]

INNER = slice(16, 47)
"""Rows and columns of the 63 x 63 stamp that are looked at in full resolution: 31 x 31."""
COARSE = 3
"""The whole stamp is looked at in averages of 3 x 3 pixels."""
LAYERS = {
    "inner1": (3, 3, 4, 16),
    "inner2": (3, 3, 16, 24),
    "inner3": (3, 3, 24, 32),
    "outer1": (3, 3, 4, 12),
    "outer2": (3, 3, 12, 16),
    "hidden": (7 * 7 * 32 + 5 * 5 * 16, 24),
    "last": (24, 1),
}
"""Shapes of the weights: 3 x 3 convolutions (rows, columns, in, out), each followed by ReLU and 2 x 2 maxima but for `inner3`
(no maxima); then two dense layers. 60,500 numbers."""
BATCH, LEARNING_RATE, WEIGHT_DECAY, KEPT = 128, 2e-3, 2e-4, 0.75
BLANKED = 0.08
"""Share of training stamps that lose a border, as at the edge of a quadrant."""


def initial(seed: int) -> Parameters:
    """Random weights (He et al. 2015), no offsets."""
    rng = np.random.default_rng([seed, 401])
    out: Parameters = {}
    for name, shape in LAYERS.items():
        scale = np.sqrt(2.0 / np.prod(shape[:-1]))
        out[name] = rng.normal(0, scale, shape).astype(np.float32)
        out[f"{name}_offset"] = np.zeros(shape[-1], np.float32)
    return out


def logits(parameters: Parameters, planes: Any, kept: Any = None) -> Any:
    """Log odds of being real.

    Parameters
    ----------
    parameters : dict
    planes : (n, 63, 63, 4) float32
        Output of `features.stamps`, channels last.
    kept : (n, 1968) float32, optional
        Drop-out factors of the joined layer while training.

    Returns
    -------
    (n,) float32
    """
    import jax
    from jax import numpy as jnp

    def convolved(x: Any, name: str) -> Any:
        order = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, parameters[name], (1, 1), "SAME", dimension_numbers=order)
        return jax.nn.relu(y + parameters[f"{name}_offset"])

    def halved(x: Any) -> Any:
        n, h, w, c = x.shape
        return x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))

    n = planes.shape[0]
    coarse = planes.reshape(n, 21, COARSE, 21, COARSE, 4).mean(axis=(2, 4))
    inner = halved(convolved(halved(convolved(planes[:, INNER, INNER], "inner1")), "inner2"))
    inner = convolved(inner, "inner3")
    outer = halved(convolved(halved(convolved(coarse, "outer1")), "outer2"))
    both = jnp.concatenate([inner.reshape(n, -1), outer.reshape(n, -1)], axis=1)
    both = both if kept is None else both * kept
    hidden = jax.nn.relu(both @ parameters["hidden"] + parameters["hidden_offset"])
    return (hidden @ parameters["last"] + parameters["last_offset"])[:, 0]


def _planes(small: Any) -> Any:
    """Packed stamps (n, 63, 63, 3) int8 as `logits` takes them."""
    from jax import numpy as jnp

    valid = small != NULL
    values = jnp.where(valid, small, 0).astype(jnp.float32) * STEP
    return jnp.concatenate([values, valid[..., :1].astype(jnp.float32)], axis=-1)


def fit(
    samples: Samples, weights: np.ndarray, *, seed: int, epochs: float, report: Callable[[str], None] = log.info
) -> Parameters:
    """Minimise the weighted cross entropy with AdamW (Loshchilov & Hutter 2019) and a cosine of the learning rate.

    Parameters
    ----------
    samples : Samples
    weights : (n,) float64
        Weight of each sample; batches are drawn in proportion to them.
    seed : int
    epochs : float
        Samples seen, in units of the set's size.
    report : callable
        Gets a line now and then.
    """
    import jax
    from jax import numpy as jnp

    parameters = {name: jnp.asarray(value) for name, value in initial(seed).items()}
    moments = [{name: jnp.zeros_like(value) for name, value in parameters.items()} for _ in range(2)]
    steps = max(1, round(epochs * len(samples) / BATCH))

    def loss(parameters: Parameters, planes: Any, real: Any, kept: Any) -> Any:
        z = logits(parameters, _planes(planes), kept)
        return jnp.mean(jax.nn.softplus(z) - real * z)

    @jax.jit
    def step(parameters: Parameters, first: Any, second: Any, t: Any, planes: Any, real: Any, kept: Any) -> Any:
        value, slopes = jax.value_and_grad(loss)(parameters, planes, real, kept)
        rate = LEARNING_RATE * jnp.minimum(1.0, t / 50.0) * 0.5 * (1 + jnp.cos(jnp.pi * t / steps))
        new, m1, m2 = {}, {}, {}
        for name, g in slopes.items():
            m1[name], m2[name] = 0.9 * first[name] + 0.1 * g, 0.999 * second[name] + 0.001 * g * g
            change = (m1[name] / (1 - 0.9**t)) / (jnp.sqrt(m2[name] / (1 - 0.999**t)) + 1e-8)
            decay = WEIGHT_DECAY * parameters[name] if not name.endswith("_offset") else 0.0
            new[name] = parameters[name] - rate * (change + decay)
        return new, m1, m2, value

    seen = []
    for t, (planes, real, kept) in enumerate(_batches(samples, weights, steps, seed), start=1):
        parameters, *moments, value = step(parameters, *moments, np.float32(t), planes, real, kept)
        seen.append(float(value))
        if t % max(1, steps // 10) == 0:
            report(f"step {t} of {steps}: cross entropy {np.mean(seen[-steps // 10 :]):.4f}")
    return {name: np.asarray(value) for name, value in parameters.items()}


def _batches(
    samples: Samples, weights: np.ndarray, steps: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Random batches of packed stamps, channels last: turned and mirrored as a whole, some without a border."""
    rng = np.random.default_rng([seed, 402])
    width = LAYERS["hidden"][0]
    real = samples.real.astype(np.float32)
    share = weights / weights.sum()
    for _ in range(steps):
        rows = rng.choice(len(samples), BATCH, p=share)
        planes = np.moveaxis(samples.stamps[rows], 1, -1)
        planes = np.rot90(planes, int(rng.integers(4)), axes=(1, 2))
        planes = planes[:, ::-1] if rng.random() < 0.5 else planes
        planes = np.ascontiguousarray(planes)
        for k in np.flatnonzero(rng.random(BATCH) < BLANKED):
            planes[k, int(rng.integers(36, 60)) :] = NULL
        kept = (rng.random((BATCH, width), np.float32) < KEPT).astype(np.float32) / np.float32(KEPT)
        yield planes, real[rows], kept


def predict(parameters: Parameters, small: np.ndarray) -> np.ndarray:
    """Log odds of packed stamps, mean over all turns and mirror images, (n,) float64."""
    import jax

    @jax.jit
    def run(parameters: Parameters, small: Any) -> Any:
        ways = [np.s_[:, ::a, ::b] for a in (1, -1) for b in (1, -1)]
        turned = [x[way] for x in (small, small.swapaxes(1, 2)) for way in ways]
        return sum(logits(parameters, _planes(x)) for x in turned) / len(turned)

    out = []
    for k in range(0, len(small), BATCH):
        part = np.moveaxis(small[k : k + BATCH], 1, -1)
        n = len(part)
        part = np.concatenate([part, np.zeros((BATCH - n, *part.shape[1:]), np.int8)])
        out.append(np.asarray(run(parameters, part))[:n])
    return np.concatenate([np.zeros(0), *out]).astype(np.float64)


def to_onnx(parameters: Parameters, slope: float, offset: float) -> bytes:
    """The network with its calibration, input (n, 4, 63, 63), as the content of an ONNX file: no turn of a stamp changes its score."""
    graph = Graph((4, 63, 63))
    turned = graph.in_all_turns("input")
    inner = graph.crop(turned, INNER.start, INNER.stop)
    inner = graph.halved(graph.convolved(inner, parameters, "inner1"))
    inner = graph.halved(graph.convolved(inner, parameters, "inner2"))
    inner = graph.flattened(graph.convolved(inner, parameters, "inner3"))
    outer = graph.halved(graph.convolved(graph.averaged(turned, COARSE), parameters, "outer1"))
    outer = graph.flattened(graph.halved(graph.convolved(outer, parameters, "outer2")))
    both = graph.joined([inner, outer])
    hidden = graph.relu(graph.dense(both, _rows_reordered(parameters["hidden"]), parameters["hidden_offset"]))
    odds = graph.mean_of_turns(graph.dense(hidden, parameters["last"], parameters["last_offset"]))
    graph.calibrated(odds, slope, offset)
    return graph.content()


def _rows_reordered(weights: np.ndarray) -> np.ndarray:
    """Rows of the dense layer for channels first instead of channels last."""
    split = 7 * 7 * 32
    inner = weights[:split].reshape(7, 7, 32, -1).transpose(2, 0, 1, 3).reshape(split, -1)
    outer = weights[split:].reshape(5, 5, 16, -1).transpose(2, 0, 1, 3).reshape(5 * 5 * 16, -1)
    return np.concatenate([inner, outer])
