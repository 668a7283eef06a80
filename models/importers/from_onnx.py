"""Import a classifier from an ONNX file; a JSON file states the preprocessing."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # comes with onnx
from onnx.external_data_helper import uses_external_data

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.backbone import to_backbone
from tidegate.models.importers import spec_file as stated_spec
from tidegate.models.importers.base import Imported
from tidegate.models.importers.source_digest import files_sha256
from tidegate.service.files import sha256_of


def load(path: Path, spec_file: Path, *, features: str | None = None) -> Imported:
    """Import the ONNX graph at `path` with the preprocessing in `spec_file`.

    `features` names the tensor of the penultimate features, if the graph does not end in one
    linear layer. The digest covers weights in external files too. Raises BuildRefused if a file
    is missing or damaged, or if the graph and the spec do not match.
    """
    stated = stated_spec.read(spec_file)
    model, sha256 = _read(path)
    found = to_backbone(model, features=features, size=stated.spec.output_size)
    if found.is_grey and not stated.spec.is_grey:
        raise BuildRefused(
            f"{path.name} takes one channel: add the step that makes images grey as in training to "
            'the spec, {"op": "grey", "backend": "pillow"} or "cv2".'
        )
    return Imported(
        backbone=found.model,
        spec=stated.spec,
        transform=stated.transform,
        forward=None,
        source=f"ONNX file {path.name}",
        licence="unstated",
        checkpoint_sha256=sha256,
        labels=None,
        notes=found.notes,
    )


def _read(path: Path) -> tuple[onnx.ModelProto, str]:
    """Return the graph with all its weights, and the sha256 of its files."""
    try:
        model = onnx.load(path, load_external_data=False)
        external = _external_files(model, path.parent)
        onnx.load_external_data_for_model(model, str(path.parent))
        sha256 = files_sha256(path.parent, [path, *external]) if external else sha256_of(path)
    except DecodeError as error:
        raise BuildRefused(f"{path.name} is not an ONNX file, or is damaged.") from error
    except OSError as error:
        where = error.filename or path
        raise BuildRefused(f"{where} cannot be read: {error.strerror or error}.") from error
    except (onnx.checker.ValidationError, ValueError) as error:
        raise BuildRefused(f"The weights of {path.name} cannot be read: {error}.") from error
    if not model.graph.node:
        raise BuildRefused(f"{path.name} contains no graph: it is damaged, or is not an ONNX file.")
    return model, sha256


def _external_files(model: onnx.ModelProto, folder: Path) -> set[Path]:
    return {
        folder / entry.value
        for constant in model.graph.initializer
        if uses_external_data(constant)
        for entry in constant.external_data
        if entry.key == "location"
    }
