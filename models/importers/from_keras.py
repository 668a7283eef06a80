"""Import a Keras file or a TensorFlow SavedModel; a JSON file states the preprocessing.

The model becomes one frozen TensorFlow function without its softmax. tf2onnx converts this
function, and the converted graph is compared with it. Loading a SavedModel runs the program in it:
import only files that you trust. Keras files that contain Python code are rejected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.backbone import to_backbone
from tidegate.models.graphs.two_classes import two_classes
from tidegate.models.importers import spec_file as stated_spec
from tidegate.models.importers.base import Imported
from tidegate.models.importers.keras_runtime import require
from tidegate.models.importers.source_digest import files_sha256
from tidegate.service.files import sha256_of

OPSET = 17
_KEEP_VALUES = {"Identity", "Reshape", "Squeeze"}
_SIGNATURE = "serving_default"
Array = NDArray[np.float32]


@dataclass(frozen=True)
class _Source:
    """A TensorFlow function from images to class scores, and its origin."""

    function: Any  # a ConcreteFunction of one image tensor
    name: str
    sha256: str


def load(path: Path, spec_file: Path, *, features: str | None = None) -> Imported:
    """Import the `.keras` or `.h5` file or the SavedModel folder at `path`.

    `features` names the tensor of the penultimate features in the converted graph, if the graph
    does not end in one linear layer. Raises BuildRefused if TensorFlow, Keras or tf2onnx is
    missing, the model cannot be read or converted, or it does not match the spec.
    """
    stated = stated_spec.read(spec_file)
    source = _saved_model(path) if path.is_dir() else _keras_file(path)
    function, stripped = _before_softmax(source.function)
    shape = source.function.inputs[0].shape.as_list()
    graph = _converted(function, shape, path)
    found = to_backbone(graph, features=features, size=stated.spec.output_size)
    if found.is_grey:
        raise BuildRefused(
            f"{path.name} takes one channel: convert it with tf2onnx and import it as onnx:FILE."
        )
    return Imported(
        backbone=found.model,
        spec=stated.spec,
        transform=stated.transform,
        forward=_forward(function, channels_last=len(shape) == 4 and shape[3] == 3),
        source=source.name,
        licence="unstated",
        checkpoint_sha256=source.sha256,
        labels=None,
        notes=(*stripped, *found.notes),
    )


def _keras_file(path: Path) -> _Source:
    if not path.is_file() or path.suffix not in (".keras", ".h5", ".hdf5"):
        raise BuildRefused(
            f"{path} does not exist, or is neither a .keras or .h5 file nor a SavedModel folder."
        )
    tensorflow, keras = require("tensorflow"), require("keras")
    if keras.backend.backend() != "tensorflow":
        raise BuildRefused("Keras uses another backend: set KERAS_BACKEND=tensorflow.")
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
        entries = [tensorflow.TensorSpec(t.shape, t.dtype, "input") for t in model.inputs]
        outputs = len(model.outputs)
    except Exception as error:  # Keras raises whatever the classes in the file raise
        raise BuildRefused(
            f"Keras cannot load {path.name}: {_first_line(error)}. If it has custom layers, export "
            "it as a SavedModel in the project that defines them: model.export(FOLDER)."
        ) from error
    _check_one(path, len(entries), outputs)
    function = tensorflow.function(lambda images: model(images, training=False), autograph=False)
    return _Source(
        _single(function.get_concrete_function(entries[0]), path),
        f"Keras {keras.__version__} {path.name}",
        sha256_of(path),
    )


def _saved_model(path: Path) -> _Source:
    tensorflow = require("tensorflow")
    try:
        loaded = tensorflow.saved_model.load(str(path))
        signatures = loaded.signatures
    except Exception as error:  # TensorFlow raises many unrelated classes
        raise BuildRefused(
            f"TensorFlow cannot load the SavedModel {path.name}: {_first_line(error)}."
        ) from error
    names = [_SIGNATURE] if _SIGNATURE in signatures else list(signatures)
    if len(names) != 1:
        raise BuildRefused(
            f"The SavedModel {path.name} has {len(names)} signatures ({', '.join(names)}): "
            f"export it with exactly one, or with one named {_SIGNATURE}."
        )
    frozen = _single(signatures[names[0]], path)  # the variables are freed with `loaded`
    files = [file for file in path.rglob("*") if file.is_file()]
    return _Source(
        frozen,
        f"TensorFlow {tensorflow.__version__} SavedModel {path.name}",
        files_sha256(path, files),
    )


def _single(function: Any, path: Path) -> Any:
    """Return the function with its variables as constants; it must map one tensor to one."""
    freeze = require("tensorflow.python.framework.convert_to_constants")
    try:
        frozen = freeze.convert_variables_to_constants_v2(function)
    except Exception as error:  # TensorFlow raises many unrelated classes
        raise BuildRefused(f"{path.name} cannot be frozen: {_first_line(error)}.") from error
    _check_one(path, len(frozen.inputs), len(frozen.outputs))
    if frozen.inputs[0].shape.rank == 4 and frozen.inputs[0].shape[0] is not None:
        raise BuildRefused(
            f"{path.name} has a fixed batch size of {frozen.inputs[0].shape[0]}: export it with "
            "the batch axis None."
        )
    return frozen


def _check_one(path: Path, inputs: int, outputs: int) -> None:
    if (inputs, outputs) != (1, 1):
        raise BuildRefused(
            f"{path.name} has {inputs} inputs and {outputs} outputs: export a model with one "
            "input, the images, and one output, the class scores [batch, classes]."
        )


def _before_softmax(frozen: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the function without a trailing Softmax, and a note if one was removed.

    The Sigmoid of a single score is removed likewise.
    """
    last = frozen.outputs[0].op
    while last.type in _KEEP_VALUES:
        last = last.inputs[0].op
    single = frozen.outputs[0].shape.as_list()[1:] == [1]
    if last.type not in ("Softmax", "LogSoftmax", *(["Sigmoid"] if single else [])):
        return frozen, ()
    cut = frozen.prune(frozen.inputs, last.inputs[0])
    return cut, (f"a trailing {last.type} was removed",)


def _converted(function: Any, shape: list[int | None], path: Path) -> onnx.ModelProto:
    tensorflow, tf2onnx = require("tensorflow"), require("tf2onnx")
    entry = tensorflow.TensorSpec(shape, function.inputs[0].dtype, "input")
    try:
        model, _ = tf2onnx.convert.from_function(
            tensorflow.function(_caller(function), autograph=False),
            input_signature=[entry],
            opset=OPSET,
        )
    except Exception as error:  # tf2onnx raises ValueError, RuntimeError, KeyError, …
        raise BuildRefused(
            f"tf2onnx cannot convert {path.name}: {_first_line(error)}. Convert it in the project "
            "that trained it, and import the ONNX file: onnx:FILE with the same spec."
        ) from error
    graph: onnx.ModelProto = model
    return graph


def _caller(function: Any) -> Callable[[Any], Any]:
    """Return a function from tensor to tensor; a pruned function may return a list."""

    def call(images: Any) -> Any:
        result = function(images)
        return result[0] if isinstance(result, list | tuple) else result

    return call


def _forward(function: Any, *, channels_last: bool) -> Callable[[Array], Array]:
    """Return TensorFlow's own logits: float32 [batch, 3, H, W] → float32 [batch, C].

    A single logit is returned as those of two classes.
    """
    call = _caller(function)

    def logits(batch: Array) -> Array:
        images = batch.transpose(0, 2, 3, 1) if channels_last else batch
        return two_classes(np.asarray(call(require("tensorflow").constant(images)), np.float32))

    return logits


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
