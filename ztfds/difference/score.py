"""Real/bogus scores: rb from a candidate's features, drb from its cutouts; attached, never used to drop."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ztfds.difference.features import features, stamps

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger(__name__)

CARD = "card.json"
SCORES = ("rb", "drb")
UNKNOWN = "none"
"""Version of a score that could not be made."""
INPUT, OUTPUT = "input", "score"
_BATCH = 32
"""Rows at a time: the network holds eight turns of each, 2 MB a row."""


@dataclass(frozen=True)
class Model:
    """A model ready to score.

    Attributes
    ----------
    version : str
        Written beside each score.
    session : onnxruntime.InferenceSession
        Input (n, ...) float32, output (n,) float32 between 0 and 1.
    """

    version: str
    session: onnxruntime.InferenceSession

    def scores(self, values: np.ndarray) -> np.ndarray:
        """Scores of rows, (n,) float32; NaN where the model gives no number between 0 and 1."""
        parts = [
            self.session.run([OUTPUT], {INPUT: np.ascontiguousarray(values[k : k + _BATCH], np.float32)})[0].reshape(-1)
            for k in range(0, len(values), _BATCH)
        ]
        out = np.concatenate([np.zeros(0, np.float32), *parts])
        with np.errstate(invalid="ignore"):
            return np.where((out >= 0) & (out <= 1), out, np.float32(np.nan)).astype(np.float32)


def model_folder() -> Path:
    """Folder of the models that came with the package, and of their card."""
    return Path(str(resources.files("ztfds.difference").joinpath("models")))


def read_card(folder: Path | None = None) -> dict[str, Any]:
    """What is known of the models: for each of `SCORES` file, version and sha256; seeds, counts and figures of the training."""
    return dict(json.loads(((folder or model_folder()) / CARD).read_text(encoding="utf-8")))


def attach(table: np.ndarray, cutouts: Mapping[int, Sequence[np.ndarray]], folder: Path | None = None) -> None:
    """Fill rb, rbversion, drb and drbversion of a candidate table, in place.

    A score that cannot be made is NaN with the version 'none', and one line in the log says why; this raises nothing.

    Parameters
    ----------
    table : structured array (`candidates.DTYPE`)
    cutouts : mapping
        tblid -> (science, template, difference), 63 x 63 float32, DN, NaN where there is nothing.
    folder : Path, optional
        Where the models are; those of the package.
    """
    if not len(table):
        return
    for name in SCORES:
        table[name], table[f"{name}version"] = np.nan, UNKNOWN
        model = _of_process(os.getpid(), folder or model_folder(), name)
        if model is None:
            continue
        try:
            values = features(table) if name == "rb" else stamps([cutouts[int(row["tblid"])] for row in table])
            table[name] = model.scores(values)
        except Exception as error:  # whatever it is, an alert without a score is better than no alert
            log.warning("no %s: %s", name, _one_line(error))
            continue
        table[f"{name}version"] = np.where(np.isnan(table[name]), UNKNOWN, model.version)


@lru_cache(maxsize=8)
def _of_process(pid: int, folder: Path, name: str) -> Model | None:
    """A model, loaded once in each process: a session is not used on both sides of a fork."""
    try:
        return load(folder, name)
    except Exception as error:  # the runtime has a dozen classes for damaged files
        log.warning("no %s: %s", name, _one_line(error))
        return None


def load(folder: Path, name: str) -> Model:
    """Load a model and check that it is the one of the card.

    Parameters
    ----------
    folder : Path
    name : str
        'rb' or 'drb'.

    Raises
    ------
    OSError, ValueError, KeyError, onnxruntime exceptions
        The card or the file is missing, damaged or not the one that the card describes.
    """
    entry = read_card(folder)[name]
    content = (folder / str(entry["file"])).read_bytes()
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ValueError(f"{entry['file']} is not the file that its card describes")
    return Model(str(entry["version"]), session_of(content))


def session_of(content: bytes) -> onnxruntime.InferenceSession:
    """A session that computes in the calling thread only.

    The runtime starts a thread of its own when it is imported (30 ms), so that it is imported here, in the process that scores:
    a process that forks workers has none.
    """
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _one_line(error: Exception) -> str:
    """What an error says, on one line of reasonable length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
