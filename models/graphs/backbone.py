"""Turn a classifier's ONNX graph into a backbone: one image input, `logits` and `features`.

Changes are listed for the model card. If something cannot be inferred from the graph, the error
says which option to give. The result is checked: it must run on ONNX Runtime, and a batch must give
the same values as its images one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper, version_converter

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.classifier_head import find_features, only_output, strip_softmax
from tidegate.models.graphs.names import OUTPUTS
from tidegate.models.graphs.rewrite import (
    ENTRY,
    float_value,
    integer_constants,
    keep_needed,
    listed,
    moved_aside,
    producers,
    rename,
    tensor_names,
)
from tidegate.models.graphs.session import (
    Array,
    CannotRun,
    first_line,
    open_session,
    outputs_of,
    run_once,
)
from tidegate.models.graphs.two_classes import NOTE, add_two_classes, two_classes

# A batch against its images one by one, relative to the largest value: their rounding differs.
BATCH_TOLERANCE = 1e-5
_OLDEST_OPSET, _CONVERTED_OPSET = 13, 17
_PROBE_BATCH = 3


@dataclass(frozen=True, slots=True)
class Backbone:
    """A backbone that can be sealed, and the changes made to it, for the model card."""

    model: onnx.ModelProto  # input [batch, 3, H, W] → logits [batch, C], features [batch, D]
    notes: tuple[str, ...]
    is_grey: bool = False  # it reads only the first of the three channels

    @property
    def classes(self) -> int:
        """Return the number of classes, C."""
        logits = next(value for value in self.model.graph.output if value.name == "logits")
        return int(logits.type.tensor_type.shape.dim[1].dim_value)


@dataclass(frozen=True, slots=True)
class _ImageInput:
    name: str
    channels: Literal["first", "last"]
    planes: int  # 3, or 1 for grey images
    batch: int | None  # None: dynamic
    size: tuple[int, int]  # (height, width)

    def images(self, count: int) -> NDArray[np.float32]:
        """Return `count` different random images, [count, 3, H, W], of equal channels if grey."""
        shape = (count, self.planes, *self.size)
        images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        return np.repeat(images, 3 // self.planes, axis=1)

    def probe(self, count: int) -> NDArray[np.float32]:
        """Return the same images in the graph's input format."""
        images = self.images(count)[:, : self.planes]
        return images if self.channels == "first" else images.transpose(0, 2, 3, 1).copy()


def to_backbone(
    model: onnx.ModelProto, *, features: str | None = None, size: tuple[int, int] | None = None
) -> Backbone:
    """Return `model` as a backbone: `input` float32 [batch, 3, H, W] → `logits`, `features`.

    `features` names the tensor of the penultimate features [batch, D]; by default it is the input
    of the last linear layer. `size` (height, width) is required if the graph leaves it open.
    `model` is not modified; its weights must be loaded. Raises BuildRefused with the option to give
    if the graph is ambiguous.
    """
    notes: list[str] = []
    work = _prepared(model, size, notes)
    source = _image_input(work.graph, size)
    if source.batch is not None:
        _free_batch(work, source)
        notes.append(f"the batch axis, exported as {source.batch}, was made dynamic")
    _declare_batch(work.graph, source)
    last = only_output(work.graph, features, notes)
    by_output = producers(work.graph)
    strip_softmax(work.graph, last, by_output, notes)
    penultimate = find_features(work.graph, last, by_output, features, notes)
    values = _run_batch(work, (last, penultimate), source)
    if values[0].size == _PROBE_BATCH:
        last = add_two_classes(work.graph, last)
        values[0] = two_classes(values[0].reshape(_PROBE_BATCH, 1))
        notes.append(NOTE)
    _check_values(last, penultimate, values)
    _assemble(work, source, last, penultimate, values, notes)
    _check_singles(work, values, source)
    return Backbone(work, tuple(notes), is_grey=source.planes == 1)


def _prepared(
    model: onnx.ModelProto, size: tuple[int, int] | None, notes: list[str]
) -> onnx.ModelProto:
    """Return a copy without local functions, in an opset that sealing supports."""
    work = onnx.ModelProto()
    work.CopyFrom(model)
    if work.functions:
        work = inliner.inline_local_functions(work)
    opset = next((o.version for o in work.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset >= _OLDEST_OPSET:
        return work
    converted = _converted(work, opset, size)
    notes.append(f"opset {opset} was converted to {_CONVERTED_OPSET}")
    return converted


def _converted(model: onnx.ModelProto, opset: int, size: tuple[int, int] | None) -> onnx.ModelProto:
    """Return `model` in a newer opset, if its outputs do not change."""
    advice = f"The graph has opset {opset}: export it with opset {_CONVERTED_OPSET}"
    names = [output.name for output in model.graph.output]
    source = _image_input(model.graph, size)
    images = source.probe(source.batch or 1)
    try:
        converted = version_converter.convert_version(model, _CONVERTED_OPSET)
    except Exception as error:  # the converter raises many unrelated classes
        raise BuildRefused(f"{advice} ({first_line(error)}).") from error
    try:
        pairs = zip(run_once(model, names, images), run_once(converted, names, images), strict=True)
        same = all(_close(new, old) for old, new in pairs)
    except CannotRun as error:
        raise BuildRefused(f"{advice} ({error}).") from error
    if not same:
        raise BuildRefused(f"{advice}; the converted graph's outputs differ.")
    return converted


def _image_input(graph: onnx.GraphProto, size: tuple[int, int] | None) -> _ImageInput:
    constants = {constant.name for constant in graph.initializer}
    entries = [value for value in graph.input if value.name not in constants]
    if len(entries) != 1:
        raise BuildRefused(
            f"The graph's inputs are {listed(e.name for e in entries)}: "
            "it must have one input, the images."
        )
    entry = entries[0]
    kind = entry.type.tensor_type
    if kind.elem_type != TensorProto.FLOAT:
        name = TensorProto.DataType.Name(kind.elem_type).lower()
        raise BuildRefused(
            f"The graph's input {entry.name!r} is {name}: export it with a float32 input, "
            "normalised pixels [batch, 3, height, width]."
        )
    dims = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]
    shown = [d.dim_value or d.dim_param or "?" for d in kind.shape.dim]
    if len(dims) != 4 or (dims[1] in (1, 3)) == (dims[3] in (1, 3)):
        raise BuildRefused(
            f"The graph's input {entry.name!r} is {shown}: its shape must be "
            "[batch, channels, height, width] or [batch, height, width, channels], with three "
            "channels, or one for grey images."
        )
    channels: Literal["first", "last"] = "first" if dims[1] in (1, 3) else "last"
    height, width = dims[2:] if channels == "first" else dims[1:3]
    planes = dims[1 if channels == "first" else 3] or 3
    return _ImageInput(entry.name, channels, planes, dims[0], _size(height, width, size, shown))


def _size(
    height: int | None, width: int | None, stated: tuple[int, int] | None, shown: Sequence[Any]
) -> tuple[int, int]:
    if stated is not None and (height or stated[0], width or stated[1]) != stated:
        raise BuildRefused(
            f"The graph's input is {shown}, but the preprocessing gives images of "
            f"{stated[0]} × {stated[1]}: use the size that the graph was exported for."
        )
    if stated is not None:
        return stated
    if height is None or width is None:
        raise BuildRefused(
            f"The graph's input is {shown}: its height and width are open, so give the size."
        )
    return height, width


def _free_batch(model: onnx.ModelProto, source: _ImageInput) -> None:
    """Make every Reshape to a literal shape take its first axis from the data.

    The other axes are fixed at their sizes for the exported batch. This is wrong if the batch is
    not the first axis; the comparison of a batch with single images detects that.
    """
    graph = model.graph
    literals = {
        constant.name: numpy_helper.to_array(constant) for constant in integer_constants(graph)
    }
    reshapes = [n for n in graph.node if n.op_type == "Reshape" and n.input[1] in literals]
    if not reshapes or source.batch is None:
        return
    try:
        values = run_once(model, [n.output[0] for n in reshapes], source.probe(source.batch))
    except CannotRun as error:
        raise BuildRefused(f"ONNX Runtime cannot run the graph: {error}") from error
    for index, (node, value) in enumerate(zip(reshapes, values, strict=True)):
        shape = literals[node.input[1]]
        if shape.size == 0 or shape[0] <= 0 or 0 in value.shape:
            continue
        free = np.array([-1, *value.shape[1:]], np.int64)
        graph.initializer.append(numpy_helper.from_array(free, f"freed_shape_{index}"))
        node.input[1] = f"freed_shape_{index}"


def _declare_batch(graph: onnx.GraphProto, source: _ImageInput) -> None:
    """Declare the source's shape with a dynamic batch, and drop all traced shapes."""
    planes = source.planes
    shape = (planes, *source.size) if source.channels == "first" else (*source.size, planes)
    del graph.input[:], graph.value_info[:]
    graph.input.append(float_value(source.name, ("batch", *shape)))
    for output in graph.output:
        if output.type.tensor_type.shape.dim:
            output.type.tensor_type.shape.dim[0].dim_param = "batch"


def _run_batch(model: onnx.ModelProto, names: Sequence[str], source: _ImageInput) -> list[Array]:
    try:
        return run_once(model, names, source.probe(_PROBE_BATCH))
    except CannotRun as error:
        if source.batch is not None:
            raise BuildRefused(
                f"The graph has a fixed batch size of {source.batch}: export it with a dynamic "
                f"batch axis ({error})."
            ) from error
        raise BuildRefused(
            f"ONNX Runtime cannot run the graph with a batch of {_PROBE_BATCH}: {error}"
        ) from error


def _check_values(last: str, penultimate: str, values: Sequence[Array]) -> None:
    for name, value in zip((last, penultimate), values, strict=True):
        flat = value.ndim >= 2 and value.size == np.prod(value.shape[:1]) * max(value.shape[1:])
        if value.dtype != np.float32 or not flat or value.shape[0] != _PROBE_BATCH:
            what = "the class scores" if name == last else "features (--features TENSOR)"
            raise BuildRefused(
                f"{name!r} is {value.dtype} {['batch', *value.shape[1:]]}, "
                f"but {what} must be float32 [batch, number]."
            )
        if not np.isfinite(value).all():
            raise BuildRefused(f"The graph's values in {name!r} are not finite.")
    logits = values[0].reshape(_PROBE_BATCH, -1).astype(np.float64)
    shares = logits if logits.min() >= 0 else np.exp(np.minimum(logits, 1))
    if np.allclose(shares.sum(axis=1), 1, atol=1e-4):
        raise BuildRefused(
            f"{last!r} are probabilities, as they sum to one: export the scores before the softmax."
        )


def _assemble(
    model: onnx.ModelProto,
    source: _ImageInput,
    last: str,
    penultimate: str,
    values: Sequence[Array],
    notes: list[str],
) -> None:
    """Rename the graph's tensors as in a backbone, and drop nodes that feed neither output."""
    graph = model.graph
    wanted: dict[str, str] = {}
    tail: list[onnx.NodeProto] = []
    taken = set(tensor_names(graph))
    for tensor, name, value in zip((last, penultimate), OUTPUTS[:2], values, strict=True):
        if value.ndim == 2:
            wanted[tensor] = name
        else:
            tail.append(helper.make_node("Flatten", [tensor], [name], name=f"{name}_flat", axis=1))
    if source.channels == "first" and source.planes == 3:
        wanted[source.name] = ENTRY
    renamed = wanted | moved_aside(taken, wanted)
    rename(graph, renamed)
    for node in tail:
        node.input[0] = renamed.get(node.input[0], node.input[0])
    nodes = [*graph.node, *tail]
    inner = renamed.get(source.name, source.name)
    if source.channels == "last":
        before = ENTRY if source.planes == 3 else "input_grey"
        nodes.insert(0, helper.make_node("Transpose", [before], [inner], perm=[0, 2, 3, 1]))
        notes.append("the graph's input is channels last; a Transpose was added before it")
        inner = before
    if source.planes == 1:
        nodes.insert(0, _first_channel(graph, inner))
        notes.append("the graph's input has one channel; it gets the first of three equal ones")
    keep_needed(graph, nodes)
    del graph.input[:], graph.output[:]
    graph.input.append(float_value(ENTRY, ("batch", 3, *source.size)))
    for name, value in zip(OUTPUTS[:2], values, strict=True):
        graph.output.append(float_value(name, ("batch", value.size // _PROBE_BATCH)))


def _first_channel(graph: onnx.GraphProto, output: str) -> onnx.NodeProto:
    bounds = [f"grey_{name}" for name in ("starts", "ends", "axes")]
    for name, value in zip(bounds, (0, 1, 1), strict=True):
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    return helper.make_node("Slice", [ENTRY, *bounds], [output], name="grey")


def _check_singles(model: onnx.ModelProto, batch: Sequence[Array], source: _ImageInput) -> None:
    """Check that the finished graph is valid, and equals the batch's values image by image."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BuildRefused(f"The graph is not valid ONNX: {first_line(error)}") from error
    images = source.images(_PROBE_BATCH)
    try:
        session = open_session(model, OUTPUTS[:2])
        rows = [outputs_of(session, image[None]) for image in images]
    except CannotRun as error:
        raise BuildRefused(f"ONNX Runtime cannot run the graph on one image: {error}") from error
    singles = [np.concatenate(column) for column in zip(*rows, strict=True)]
    for name, together, single in zip(OUTPUTS[:2], batch, singles, strict=True):
        if not _close(together.reshape(_PROBE_BATCH, -1), single):
            raise BuildRefused(
                f"The {name} of an image depend on other images in its batch: "
                "export the graph in evaluation mode, with a dynamic batch axis."
            )


def _close(value: Array, reference: Array) -> bool:
    if value.shape != reference.shape:
        return False
    bound = BATCH_TOLERANCE * max(float(np.abs(reference).max(initial=0)), 1e-12)
    return bool(np.abs(value - reference).max(initial=0) <= bound)
