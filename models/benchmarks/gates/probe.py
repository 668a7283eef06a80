"""A linear classifier on the features of a frozen network, as an ONNX file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from tidegate.models.data.folders import Source, class_names, labelled
from tidegate.models.data.outputs import extract
from tidegate.models.graphs.rewrite import float_value
from tidegate.models.sealing.seal import without_gate
from tidegate.service.imaging.spec import PreprocessSpec

_DECAY = 1e-2  # of the weights of standardised features
Float64 = NDArray[np.float64]


def write(encoder: onnx.ModelProto, spec: PreprocessSpec, train: Source, folder: Path) -> list[str]:
    """Train on the images of `train`; write a graph, and return the arguments to import it.

    `encoder` maps images [batch, 3, H, W] to `features` [batch, D].
    """
    labels = class_names(train)
    width = encoder.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    untrained = with_head(encoder, np.zeros((len(labels), width)), np.zeros(len(labels)))
    untrained.graph.output.append(float_value("features", ["batch", width]))
    with tempfile.TemporaryDirectory() as scratch:
        found = extract(
            without_gate(untrained, spec), labelled("train", train, labels), spec, Path(scratch)
        )
        weights, bias = fit_linear(found.features, found.split.class_ids, len(labels))
    graph, stated = folder / "model.onnx", folder / "spec.json"
    onnx.save(with_head(encoder, weights, bias), graph)
    stated.write_text(spec.model_dump_json())
    return [f"onnx:{graph}", f"--spec={stated}"]


def fit_linear(
    features: NDArray[np.floating], class_ids: NDArray[np.int64], classes: int
) -> tuple[Float64, Float64]:
    """Return weights [classes, D] and bias [classes] of a multinomial logistic regression."""
    x = np.asarray(features, np.float64)
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    z = np.hstack([(x - mean) / std, np.ones((len(x), 1))])
    wanted = np.eye(classes)[class_ids]

    def loss(flat: Float64) -> tuple[float, Float64]:
        w = flat.reshape(classes, -1)
        kept = np.hstack([w[:, :-1], np.zeros((classes, 1))])  # the bias does not decay
        logits = z @ w.T
        value = -np.mean(np.sum(wanted * log_softmax(logits, axis=1), axis=1))
        slope = (softmax(logits, axis=1) - wanted).T @ z / len(z) + _DECAY * kept
        return float(value + _DECAY / 2 * np.sum(kept**2)), slope.ravel()

    start = np.zeros(classes * z.shape[1])
    w = minimize(loss, start, jac=True, method="L-BFGS-B").x.reshape(classes, -1)
    weights = w[:, :-1] / std
    return weights, w[:, -1] - weights @ mean


def with_head(encoder: onnx.ModelProto, weights: Float64, bias: Float64) -> onnx.ModelProto:
    """Return `encoder` with `logits` of a linear layer on its features as its only output."""
    model = onnx.ModelProto()
    model.CopyFrom(encoder)
    for name, value in (("probe.weight", weights), ("probe.bias", bias)):
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    model.graph.node.append(
        helper.make_node("Gemm", ["features", "probe.weight", "probe.bias"], ["logits"], transB=1)
    )
    del model.graph.output[:]
    model.graph.output.append(float_value("logits", ["batch", len(bias)]))
    return model
