"""Building ONNX files from numbers alone: the few layers that the real/bogus models are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

OPSET, ML_OPSET, IR_VERSION = 17, 3, 8
"""Old enough for every onnxruntime in use."""
INPUT, OUTPUT = "input", "score"


class Graph:
    """An ONNX graph that grows node by node; every method returns the name of what it computes.

    Parameters
    ----------
    shape : tuple of int
        Shape of one row of the input, float32.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def _add(self, kind: str, inputs: Sequence[str], name: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        out = name or f"n{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """An array."""
        from onnx import numpy_helper

        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype), name))
        return name

    def crop(self, x: str, start: int, stop: int) -> str:
        """Rows and columns start to stop of (n, c, h, w)."""
        whole = [self.constant(v, np.int64) for v in ([start, start], [stop, stop], [2, 3])]
        return self._add("Slice", [x, *whole])

    def averaged(self, x: str, size: int) -> str:
        """Means of size x size pixels."""
        return self._add("AveragePool", [x], kernel_shape=[size, size], strides=[size, size])

    def halved(self, x: str) -> str:
        """Maxima of 2 x 2 pixels; an odd last row or column is left out."""
        return self._add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])

    def convolved(self, x: str, parameters: dict[str, np.ndarray], name: str) -> str:
        """3 x 3 convolution of the same size, offset, ReLU; weights (rows, columns, in, out)."""
        weights = self.constant(np.transpose(parameters[name], (3, 2, 0, 1)))
        offset = self.constant(parameters[f"{name}_offset"])
        return self.relu(self._add("Conv", [x, weights, offset], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))

    def relu(self, x: str) -> str:
        """max(x, 0)."""
        return self._add("Relu", [x])

    def flattened(self, x: str) -> str:
        """(n, c, h, w) as (n, c h w)."""
        return self._add("Flatten", [x], axis=1)

    def joined(self, parts: Sequence[str]) -> str:
        """Columns side by side."""
        return self._add("Concat", parts, axis=1)

    def dense(self, x: str, weights: np.ndarray, offset: np.ndarray) -> str:
        """x weights + offset."""
        return self._add("Gemm", [x, self.constant(weights), self.constant(offset)])

    def trees(self, x: str, tables: dict[str, Any]) -> str:
        """Sum of regression trees (operator TreeEnsembleRegressor, whose attributes `tables` holds)."""
        return self._add(
            "TreeEnsembleRegressor", [x], domain="ai.onnx.ml", n_targets=1, aggregate_function="SUM",
            post_transform="NONE", **tables,
        )  # fmt: skip

    def in_all_turns(self, x: str) -> str:
        """(n, c, h, h) turned and mirrored in all eight ways, (8 n, c, h, h)."""
        ways = []
        for y in (x, self._add("Transpose", [x], perm=[0, 1, 3, 2])):
            for axes in ([], [2], [3], [2, 3]):
                ways.append(self._flipped(y, axes) if axes else y)
        return self._add("Concat", ways, axis=0)

    def _flipped(self, x: str, axes: Sequence[int]) -> str:
        last, first = np.iinfo(np.int64).max, np.iinfo(np.int64).min
        n = len(axes)
        whole = [self.constant(v, np.int64) for v in ([last] * n, [first] * n, list(axes), [-1] * n)]
        return self._add("Slice", [x, *whole])

    def mean_of_turns(self, x: str) -> str:
        """Mean over the eight ways of (8 n, 1), (n, 1)."""
        ways = self._add("Reshape", [x, self.constant([8, -1], np.int64)])
        mean = self._add("ReduceMean", [ways], axes=[0], keepdims=0)
        return self._add("Reshape", [mean, self.constant([-1, 1], np.int64)])

    def calibrated(self, x: str, slope: float, offset: float) -> str:
        """1 / (1 + exp(-(slope x + offset))), the output of the graph."""
        scaled = self._add("Mul", [x, self.constant([slope])])
        odds = self._add("Add", [scaled, self.constant([offset])])
        return self._add("Sigmoid", [odds], OUTPUT)

    def content(self) -> bytes:
        """The checked file."""
        from onnx import TensorProto, checker, helper

        given = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", *self.shape])
        wanted = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", 1])
        graph = helper.make_graph(self._nodes, "real_bogus", [given], [wanted], self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="ztfds")
        checker.check_model(model)
        return bytes(model.SerializeToString())
