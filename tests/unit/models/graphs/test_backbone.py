"""Graphs of any exporter become a backbone, or are rejected."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.unit.models import tiny
from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.backbone import Backbone, to_backbone
from tidegate.models.graphs.rewrite import RESERVED
from tidegate.models.sealing.seal import seal

SIDE, CLASSES, WIDTH = tiny.SIDE, tiny.CLASSES, tiny.WIDTH
IMAGES = np.random.default_rng(1).normal(size=(4, 3, SIDE, SIDE)).astype(np.float32)


@dataclass
class Sketch:
    """A small network drawn node by node, as an exporter might leave it."""

    opset: int = 17
    kind: int = TensorProto.FLOAT
    shape: tuple[str | int, ...] = ("n", 3, SIDE, SIDE)
    entry: str = "image"
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    outputs: list[tuple[str, list[str | int]]] = field(default_factory=list)

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> Sketch:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return self

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> Sketch:
        self.constants[name] = np.asarray(value, dtype)
        return self

    def weights(self, name: str, *shape: int) -> Sketch:
        rng = np.random.default_rng(len(self.constants))
        return self.constant(name, rng.normal(size=shape))

    def output(self, name: str, *shape: str | int) -> Sketch:
        self.outputs.append((name, list(shape)))
        return self

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "sketch",
            [helper.make_tensor_value_info(self.entry, self.kind, list(self.shape))],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in self.outputs
            ],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 9
        return model


def pooled(**options: Any) -> Sketch:
    """A convolution, ReLU and pooling to `pool` [n, WIDTH, 1, 1]."""
    sketch = Sketch(**options).weights("kernel", WIDTH, 3, 3, 3)
    sketch.node("Conv", [sketch.entry, "kernel"], "conv", kernel_shape=[3, 3])
    return sketch.node("Relu", ["conv"], "relu").node("GlobalAveragePool", ["relu"], "pool")


def classifier(last: str = "scores", **options: Any) -> Sketch:
    """`pooled`, flattened to `flat` [n, WIDTH] and a linear layer whose output is `last`."""
    sketch = pooled(**options).node("Flatten", ["pool"], "flat")
    sketch.weights("w", WIDTH, CLASSES).weights("b", CLASSES)
    return sketch.node("Gemm", ["flat", "w", "b"], last)


def plain(**options: Any) -> Sketch:
    return classifier(**options).output("scores", "n", CLASSES)


def run(
    model: onnx.ModelProto, images: NDArray[np.float32], *names: str
) -> list[NDArray[np.float32]]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(list(names) or None, {session.get_inputs()[0].name: images}))


def check(found: Backbone, sketch: Sketch, inner: str = "flat", last: str = "scores") -> None:
    """Compare logits and features with the sketch's own values at `last` and `inner`."""
    whole = sketch.model()
    known = {output.name for output in whole.graph.output}
    whole.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in (inner, last) if name not in known
    )
    logits, features = run(found.model, IMAGES, "logits", "features")
    for index, image in enumerate(IMAGES):
        given = image[None] if sketch.shape[1] == 3 else image.transpose(1, 2, 0)[None].copy()
        expected = run(whole, given, last, inner)
        np.testing.assert_allclose(logits[index], expected[0].ravel(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(features[index], expected[1].ravel(), rtol=1e-5, atol=1e-6)


def test_a_plain_classifier_gets_our_tensor_names_and_keeps_its_numbers() -> None:
    sketch = plain()

    found = to_backbone(sketch.model())

    entry, outputs = found.model.graph.input[0], found.model.graph.output
    dims = entry.type.tensor_type.shape.dim
    assert (entry.name, dims[0].dim_param) == ("input", "batch")
    assert [d.dim_value for d in dims[1:]] == [3, SIDE, SIDE]
    assert [o.name for o in outputs] == ["logits", "features"]
    assert [o.type.tensor_type.shape.dim[1].dim_value for o in outputs] == [CLASSES, WIDTH]
    check(found, sketch)


def test_an_adopted_backbone_is_one_that_sealing_takes() -> None:
    assert seal(to_backbone(plain().model()).model, tiny.SPEC, tiny.head())


def test_adopting_leaves_the_given_model_as_it_was() -> None:
    model = plain().model()
    before = model.SerializeToString()

    to_backbone(model)

    assert model.SerializeToString() == before


def test_an_adopted_backbone_can_be_adopted_again() -> None:
    once = to_backbone(plain().model()).model

    twice = to_backbone(once).model

    for first, second in zip(run(once, IMAGES), run(twice, IMAGES), strict=True):
        np.testing.assert_array_equal(first, second)


def test_channels_last_are_transposed_in_the_graph() -> None:
    sketch = Sketch(shape=("n", SIDE, SIDE, 3), entry="input")
    sketch.node("Transpose", ["input"], "planes", perm=[0, 3, 1, 2])
    sketch.weights("kernel", WIDTH, 3, 3, 1)
    sketch.node("Conv", ["planes", "kernel"], "conv", kernel_shape=[3, 1])
    sketch.node("Relu", ["conv"], "relu").node("GlobalAveragePool", ["relu"], "pool")
    sketch.node("Flatten", ["pool"], "flat")
    sketch.weights("w", WIDTH, CLASSES).node("MatMul", ["flat", "w"], "scores")
    sketch.output("scores", "n", CLASSES)

    found = to_backbone(sketch.model())

    assert any("Transpose" in note for note in found.notes)
    check(found, sketch)


@pytest.mark.parametrize("channels", ["first", "last"])
def test_a_network_of_one_channel_gets_the_first_of_three(channels: str) -> None:
    shape = ("n", 1, SIDE, SIDE) if channels == "first" else ("n", SIDE, SIDE, 1)
    sketch = Sketch(shape=shape, entry="input")
    if channels == "last":
        sketch.node("Transpose", ["input"], "planes", perm=[0, 3, 1, 2])
    sketch.weights("kernel", WIDTH, 1, 3, 1)
    entry = "input" if channels == "first" else "planes"
    sketch.node("Conv", [entry, "kernel"], "conv", kernel_shape=[3, 1])
    sketch.node("Relu", ["conv"], "relu").node("GlobalAveragePool", ["relu"], "pool")
    sketch.node("Flatten", ["pool"], "flat")
    sketch.weights("w", WIDTH, CLASSES).node("MatMul", ["flat", "w"], "scores")
    sketch.output("scores", "n", CLASSES)
    grey = IMAGES[:, :1]

    found = to_backbone(sketch.model())

    given = grey if channels == "first" else grey.transpose(0, 2, 3, 1).copy()
    [expected] = run(sketch.model(), given, "scores")
    [made] = run(found.model, np.repeat(grey, 3, axis=1), "logits")
    assert found.is_grey
    assert any("one channel" in note for note in found.notes)
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_a_trailing_softmax_is_removed_and_noted(op: str) -> None:
    sketch = classifier().node(op, ["scores"], "soft", axis=-1).node("Identity", ["soft"], "out")
    sketch.output("out", "n", CLASSES)

    found = to_backbone(sketch.model())

    assert f"a trailing {op} was removed" in found.notes
    check(found, sketch)


def test_a_bias_a_dropout_and_a_transposed_weight_hide_no_linear_layer() -> None:
    sketch = pooled().node("Flatten", ["pool"], "flat")
    sketch.weights("w", CLASSES, WIDTH).node("Transpose", ["w"], "wt", perm=[1, 0])
    sketch.node("Identity", ["wt"], "wi").node("MatMul", ["flat", "wi"], "product")
    sketch.weights("b", CLASSES).node("Add", ["b", "product"], "sum")
    sketch.node("Dropout", ["sum"], "scores").output("scores", "n", CLASSES)

    check(to_backbone(sketch.model()), sketch)


def test_a_convolution_that_classifies_gives_its_input_as_features() -> None:
    sketch = pooled().weights("w", CLASSES, WIDTH, 1, 1)
    sketch.node("Conv", ["pool", "w"], "map", kernel_shape=[1, 1])
    sketch.constant("shape", [-1, CLASSES], np.int64).node("Reshape", ["map", "shape"], "scores")
    sketch.output("scores", "n", CLASSES)

    check(to_backbone(sketch.model()), sketch, inner="pool")


def test_scores_of_one_by_one_maps_are_flattened() -> None:
    sketch = pooled().weights("w", CLASSES, WIDTH, 1, 1)
    sketch.node("Conv", ["pool", "w"], "scores")
    sketch.output("scores", "n", CLASSES, 1, 1)

    check(to_backbone(sketch.model()), sketch, inner="pool")


def test_a_convolution_over_a_map_is_no_classifier_of_pooled_features() -> None:
    sketch = pooled().weights("w", CLASSES, WIDTH, 1, 1)
    sketch.node("Conv", ["relu", "w"], "map", kernel_shape=[1, 1])
    sketch.node("GlobalAveragePool", ["map"], "mean").node("Flatten", ["mean"], "scores")
    sketch.output("scores", "n", CLASSES)

    with pytest.raises(BuildRefused, match=r"GlobalAveragePool mean.*--features TENSOR"):
        to_backbone(sketch.model())


def test_a_convolution_over_a_whole_map_requires_named_features() -> None:
    sketch = pooled().weights("w", CLASSES, WIDTH, SIDE - 2, SIDE - 2)
    sketch.node("Conv", ["relu", "w"], "map").node("Flatten", ["map"], "scores")
    sketch.output("scores", "n", CLASSES)

    with pytest.raises(BuildRefused, match=r"'relu' is .* features \(--features TENSOR\)"):
        to_backbone(sketch.model())


def test_named_features_are_used() -> None:
    sketch = classifier().node("Relu", ["scores"], "bent").output("bent", "n", CLASSES)

    check(to_backbone(sketch.model(), features="flat"), sketch, last="bent")


def test_named_features_that_are_a_map_of_one_pixel_are_flattened() -> None:
    sketch = plain()

    check(to_backbone(sketch.model(), features="pool"), sketch, inner="pool")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("flatt", "no tensor 'flatt'; similar names: flat"),
        ("scores", "is the logits"),
        ("relu", r"'relu' is float32 \['batch', 6, 6, 6\]"),
    ],
)
def test_invalid_features_are_rejected(name: str, said: str) -> None:
    with pytest.raises(BuildRefused, match=said):
        to_backbone(plain().model(), features=name)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_that_was_traced_as_a_number_is_freed(batch: int) -> None:
    sketch = pooled(shape=(batch, 3, SIDE, SIDE))
    sketch.constant("shape", [batch, WIDTH], np.int64).node("Reshape", ["pool", "shape"], "flat")
    sketch.weights("w", WIDTH, CLASSES).node("MatMul", ["flat", "w"], "scores")
    sketch.output("scores", batch, CLASSES)

    found = to_backbone(sketch.model())

    assert found.notes[0] == f"the batch axis, exported as {batch}, was made dynamic"
    dynamic = Sketch(**{**sketch.__dict__, "shape": ("n", 3, SIDE, SIDE), "outputs": []})
    dynamic.constant("shape", [-1, WIDTH], np.int64).output("scores", "n", CLASSES)
    check(found, dynamic)


def test_a_batch_that_cannot_be_made_dynamic_is_rejected() -> None:
    sketch = classifier(shape=(1, 3, SIDE, SIDE)).weights("token", 1, CLASSES)
    sketch.node("Concat", ["token", "scores"], "pair", axis=1)
    sketch.weights("w2", 2 * CLASSES, CLASSES).node("MatMul", ["pair", "w2"], "out")
    sketch.output("out", 1, CLASSES)

    with pytest.raises(BuildRefused, match="export it with a dynamic batch axis"):
        to_backbone(sketch.model())


def test_a_graph_that_mixes_the_images_of_a_batch_is_refused() -> None:
    sketch = classifier().node("ReduceMean", ["scores"], "mean", axes=[0], keepdims=1)
    sketch.node("Sub", ["scores", "mean"], "centred").output("centred", "n", CLASSES)

    with pytest.raises(BuildRefused, match="depend on other images in its batch"):
        to_backbone(sketch.model(), features="flat")


@pytest.mark.parametrize(
    ("kind", "said"), [(TensorProto.UINT8, "uint8"), (TensorProto.FLOAT16, "float16")]
)
def test_an_input_that_is_not_float32_is_rejected(kind: int, said: str) -> None:
    with pytest.raises(BuildRefused, match=f"'image' is {said}: export it with a float32 input"):
        to_backbone(plain(kind=kind).model())


@pytest.mark.parametrize(
    "shape", [("n", 2, SIDE, SIDE), ("n", 3, SIDE, 3), ("n", "c", SIDE, SIDE), ("n", 3)]
)
def test_an_input_without_a_channel_axis_is_rejected(shape: tuple[str | int, ...]) -> None:
    with pytest.raises(BuildRefused, match="its shape must be"):
        to_backbone(plain(shape=shape).model())


def test_an_open_size_must_be_stated_and_a_stated_one_must_fit() -> None:
    open_size = plain(shape=("n", 3, "h", "w"))

    with pytest.raises(BuildRefused, match="height and width are open"):
        to_backbone(open_size.model())
    with pytest.raises(BuildRefused, match="but the preprocessing gives images of 9 × 8"):
        to_backbone(plain().model(), size=(9, 8))
    check(to_backbone(open_size.model(), size=(SIDE, SIDE)), open_size)


def test_initialisers_that_are_listed_as_inputs_are_no_inputs() -> None:
    sketch = plain()
    model = sketch.model()
    model.graph.input.append(
        helper.make_tensor_value_info("w", TensorProto.FLOAT, [WIDTH, CLASSES])
    )

    check(to_backbone(model), sketch)


def test_a_second_input_is_refused_by_name() -> None:
    model = plain().model()
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n"]))

    with pytest.raises(BuildRefused, match=r"2 \(image, mask\)"):
        to_backbone(model)


def test_of_several_outputs_the_only_table_is_the_class_scores() -> None:
    sketch = plain().output("relu", "n", WIDTH, SIDE - 2, SIDE - 2)

    found = to_backbone(sketch.model())

    assert "outputs left out: relu" in found.notes
    check(found, sketch)


def test_an_output_named_features_is_used_as_features() -> None:
    sketch = classifier().node("Relu", ["scores"], "logits").node("Tanh", ["flat"], "features")
    sketch.output("logits", "n", CLASSES).output("features", "n", WIDTH)

    check(to_backbone(sketch.model()), sketch, inner="features", last="logits")


def test_two_tables_are_refused_by_name_and_what_only_one_needs_is_dropped() -> None:
    sketch = plain().weights("w2", WIDTH, 4).node("MatMul", ["flat", "w2"], "extra")
    sketch.output("extra", "n", 4)

    with pytest.raises(BuildRefused, match=r"2 \(scores \[batch, 5\], extra \[batch, 4\]\)"):
        to_backbone(sketch.model())

    renamed = classifier(last="logits").weights("w2", WIDTH, 4)
    renamed.node("MatMul", ["flat", "w2"], "extra")
    found = to_backbone(renamed.output("logits", "n", CLASSES).output("extra", "n", 4).model())
    assert "w2" not in {constant.name for constant in found.model.graph.initializer}


@pytest.mark.parametrize(
    ("last", "said"),
    [("Sigmoid", "ends in a Sigmoid"), ("ratio", "probabilities")],
)
def test_what_is_no_choice_among_classes_is_refused(last: str, said: str) -> None:
    sketch = classifier()
    if last == "Sigmoid":
        sketch.node("Sigmoid", ["scores"], "out").output("out", "n", CLASSES)
    else:  # a softmax that no node is called after
        sketch.node("Exp", ["scores"], "e").node("ReduceL1", ["e"], "s", axes=[1])
        sketch.node("Div", ["e", "s"], "out").output("out", "n", CLASSES)

    with pytest.raises(BuildRefused, match=said):
        to_backbone(sketch.model(), features="flat")


def test_one_of_two_outputs_may_be_named_as_the_features() -> None:
    sketch = classifier().output("flat", "n", WIDTH).output("scores", "n", CLASSES)

    check(to_backbone(sketch.model(), features="flat"), sketch)


def test_tensors_that_may_be_the_features_are_named() -> None:
    sketch = classifier().node("Relu", ["scores"], "bent").output("bent", "n", CLASSES)

    with pytest.raises(BuildRefused, match=r"--features TENSOR; candidates: scores .*, flat \["):
        to_backbone(sketch.model())
    with pytest.raises(BuildRefused, match=r"no tensor 'zzz'; candidates: scores .*, flat \["):
        to_backbone(sketch.model(), features="zzz")


@pytest.mark.parametrize("shape", [("n", 1), ("n",)])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_a_single_logit_becomes_those_of_two_classes(
    sigmoid: bool, shape: tuple[str | int, ...]
) -> None:
    sketch = pooled().node("Flatten", ["pool"], "flat").weights("w1", WIDTH, 1)
    last = "column" if len(shape) == 2 else "scores"
    sketch.node("MatMul", ["flat", "w1"], "column")
    if len(shape) == 1:
        sketch.constant("axis", [1], np.int64).node("Squeeze", ["column", "axis"], "scores")
    if sigmoid:
        sketch.node("Sigmoid", [last], "probability")
    sketch.output("probability" if sigmoid else last, *shape)

    found = to_backbone(sketch.model())

    plain = Sketch(**{**sketch.__dict__, "outputs": [("column", ["n", 1])]}).model()
    logits, features = run(found.model, IMAGES, "logits", "features")
    assert features.shape == (len(IMAGES), WIDTH)
    np.testing.assert_array_equal(logits[:, 0], 0)
    for image, (_, one) in zip(IMAGES, logits, strict=True):
        np.testing.assert_allclose(one, run(plain, image[None])[0].item(), rtol=1e-5)
    assert found.classes == 2
    assert any("two classes" in note for note in found.notes)


@pytest.mark.lengthy
@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.sampled_from([*sorted(RESERVED), "tidegate/unit", "source/pixels", "a"]),
        min_size=5,
        max_size=5,
        unique=True,
    )
)
def test_whatever_the_tensors_are_called_sealing_has_its_names(names: list[str]) -> None:
    conv, pool, flat, weights, last = names
    sketch = Sketch().weights("kernel", WIDTH, 3, 3, 3)
    sketch.node("Conv", ["image", "kernel"], conv, kernel_shape=[3, 3])
    sketch.node("GlobalAveragePool", [conv], pool).node("Flatten", [pool], flat)
    sketch.weights(weights, WIDTH, CLASSES).node("MatMul", [flat, weights], last)
    sketch.output(last, "n", CLASSES)

    found = to_backbone(sketch.model())

    check(found, sketch, inner=flat, last=last)
    assert seal(found.model, tiny.SPEC, tiny.head())


def test_names_inside_the_branches_of_an_if_follow() -> None:
    floats = TensorProto.FLOAT
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(op, ["energy"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, floats, None)],
        )
        for name, op in (("then", "Relu"), ("else", "Neg"))
    }
    sketch = pooled().node("Flatten", ["pool"], "energy").constant("yes", True, np.bool_)
    sketch.node("If", ["yes"], "flat", **branches)
    sketch.weights("w", WIDTH, CLASSES).node("MatMul", ["flat", "w"], "scores")
    sketch.output("scores", "n", CLASSES)

    check(to_backbone(sketch.model()), sketch)


def test_an_old_opset_is_converted_when_the_numbers_stay() -> None:
    sketch = classifier(opset=11).node("Softmax", ["scores"], "soft", axis=1)
    sketch.output("soft", "n", CLASSES)

    found = to_backbone(sketch.model())

    assert "opset 11 was converted to 17" in found.notes
    check(found, sketch)


def test_a_graph_that_cannot_run_is_rejected_with_the_error_s_first_line() -> None:
    sketch = pooled().node("Flatten", ["pool"], "flat").weights("w", WIDTH + 1, CLASSES)
    sketch.node("MatMul", ["flat", "w"], "scores").output("scores", "n", CLASSES)

    with pytest.raises(BuildRefused, match="ONNX Runtime cannot run the graph"):
        to_backbone(sketch.model())
